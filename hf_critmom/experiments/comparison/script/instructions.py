"""What the launcher is told about the run of a script that it is to make, and the files by which it answers."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.storage.files import write_json
from hf_critmom.storage.typed import RecordError, from_json, read_json

RECORDING_FILE = "recording.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "script.log"


@dataclass(frozen=True)
class Process:
    """A process, by which another knows whether it is still there.

    Attributes:
        host: The machine.
        pid: Its number.
        created: When it began, which tells it from a later one of the same number.
    """

    host: str
    pid: int
    created: float

    @classmethod
    def this(cls) -> "Process":
        """The current process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def has_ended(self) -> bool:
        """Whether it is known to have ended; of one on another machine nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) > 1.0 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True)
class Instructions:
    """What a script's processes are told by the command that started them.

    Attributes:
        folder: The run's folder.
        lock: File that the run's main process locks as long as it lives.
        parent: The process that started the run; the run ends with it.
        arm: The arm, whose optimizer and schedule the script's Trainer is given; None: the script's own.
        rehearsal: Whether only a few steps are made, and one evaluation.
    """

    folder: str
    lock: str
    parent: Process
    arm: Mapping[str, Any] | None = None
    rehearsal: bool = False

    def write(self, file: Path) -> None:
        """Stores them."""
        parent = {"host": self.parent.host, "pid": self.parent.pid, "created": self.parent.created}
        content = {"folder": self.folder, "lock": self.lock, "parent": parent, "arm": self.arm}
        write_json(file, {**content, "rehearsal": self.rehearsal})

    @classmethod
    def read(cls, file: str) -> "Instructions":
        """Reads them.

        Raises:
            ComparisonError: If they are not there, as after the command has gone.
        """
        try:
            return from_json(cls, read_json(Path(file)))
        except (OSError, RecordError) as error:
            raise ComparisonError(
                f"{file} holds no instructions of a comparison ({root_message(error)}): --recorded is for "
                "hf-critmom compare --script, which writes them."
            ) from None

    def described_arm(self) -> Arm | None:
        """The arm."""
        return None if self.arm is None else from_json(Arm, dict(self.arm))


@dataclass(frozen=True)
class Recording:
    """What the launcher recorded of a script's run.

    Attributes:
        output_dir: Output folder of the script's training arguments.
        seed: Their seed.
        optim: Their optimizer.
        learning_rate: Their learning rate.
        weight_decay: Their weight decay.
        num_train_epochs: Their epochs.
        args_max_steps: Their number of steps; not positive where epochs decide.
        max_steps: Optimizer steps of the whole training.
        steps_per_epoch: Optimizer steps of an epoch; None where the number of steps is given.
        training: Training arguments that results depend on.
        trainer: Class of the Trainer.
        model: Class of the model.
        num_parameters: Parameters of the model.
        num_trained_parameters: Those of them that are trained.
        examples: Examples of the training and evaluation data by split, where they have a length.
        begun: Steps at which the training began, each time that it was continued.
        trainings: Trainings that the process made.
        trained: Whether the training came to its end.
        diverged: Whether a loss was not finite.
        steps: Optimizer steps taken.
        evaluations: Evaluations, in the order of training.
        final: Metrics of the evaluations after training.
        test: Metrics of a test split, where the script has one.
        pairing: Fingerprints of the initial weights and of the first batches, and the first losses.
        gradient_norms: Norms of the gradient by step, where the Trainer logs none.
        train_seconds: Seconds of training, without evaluations and saves.
        wall_seconds: Seconds since the training began.
        step_seconds: Seconds of the fastest step of the process.
        evaluation_seconds: Seconds of the last evaluation, as the Trainer says.
        summary: Load of the machine, and means over the steps, as `RunRecorder.summary` gives them.
        versions: Versions of what computes, and the machine.
        processes: Processes that the run trained with.
        threads: Threads of each of them.
        own_optimizer: Class of the optimizer that the script has made by itself, whatever ``--optim`` says.
    """

    output_dir: str
    seed: int
    optim: str
    learning_rate: float
    weight_decay: float
    num_train_epochs: float
    args_max_steps: int
    max_steps: int
    steps_per_epoch: float | None
    training: Mapping[str, Any]
    trainer: str
    model: str
    num_parameters: int
    num_trained_parameters: int
    examples: Mapping[str, int | None]
    begun: tuple[int, ...]
    trainings: int
    trained: bool
    diverged: bool
    steps: int
    evaluations: tuple[Mapping[str, Any], ...]
    final: Mapping[str, float | None]
    test: Mapping[str, float | None]
    pairing: Mapping[str, Any]
    gradient_norms: Mapping[str, float | None]
    train_seconds: float
    wall_seconds: float
    step_seconds: float | None
    evaluation_seconds: float | None
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    processes: int = 1
    threads: int = 1
    own_optimizer: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Recording | None":
        """What was recorded in a run's folder; None if nothing was.

        Raises:
            RecordError: If the file is damaged.
        """
        file = folder / RECORDING_FILE
        return from_json(cls, read_json(file)) if file.exists() else None

    def metrics(self) -> list[str]:
        """Names of what the evaluations measured."""
        own = ("step", "epoch", "seconds", "learning_rate", "momentum", "damping_ratio")
        return list(dict.fromkeys(name for one in self.evaluations for name in one if name not in own))


def append_event(folder: Path, *event: Any) -> None:
    """Tells the command what happens in a run."""
    with (folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
