"""Instructions for the processes of a script's run, and the files with which they answer."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
    """A process, identified so that another one can check whether it is still running.

    Attributes:
        host: Name of the machine.
        pid: The process id.
        started: Time of its start, see `_start`, which distinguishes it from a later process with the same id.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def this(cls) -> "Process":
        """The current process."""
        return cls(socket.gethostname(), os.getpid(), _start(os.getpid()))

    def has_ended(self) -> bool:
        """Whether it is known to have ended, which is never known of a process on another machine."""
        if self.host != socket.gethostname():
            return False
        try:
            return _start(self.pid) != self.started or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def _start(pid: int) -> float:
    """When a process started: on Linux in ticks since the machine did, since times of day move when its clock is set.

    Raises:
        psutil.NoSuchProcess: If it has ended.
    """
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:  # another system, whose kernel stores the time of day, or the process has ended
        return psutil.Process(pid).create_time()


@dataclass(frozen=True)
class Instructions:
    """Instructions for a script's processes from the command that started them.

    Attributes:
        folder: The run's folder.
        lock: File that the run's main process keeps locked.
        parent: The process that started the run; the run ends with it.
        arm: The arm whose optimizer and schedule the script's Trainer uses; None for the script's own.
        dry_run: Whether to make only a few steps and one evaluation.
    """

    folder: str
    lock: str
    parent: Process
    arm: Mapping[str, Any] | None = None
    dry_run: bool = False

    def write(self, file: Path) -> None:
        """Writes the instructions."""
        write_json(file, asdict(self))

    @classmethod
    def read(cls, file: str) -> "Instructions":
        """Reads instructions.

        Raises:
            ComparisonError: If there are none, for instance because the command has ended.
        """
        try:
            return from_json(cls, read_json(Path(file)))
        except (OSError, RecordError) as error:
            raise ComparisonError(
                f"{file} holds no instructions of a comparison ({root_message(error)}): --recorded is only for runs "
                "that hf-critmom compare --script starts."
            ) from None

    def described_arm(self) -> Arm | None:
        """The arm; None for the script's own optimizer."""
        return None if self.arm is None else from_json(Arm, dict(self.arm))


@dataclass(frozen=True)
class Recording:
    """The recording of a script's run.

    Attributes:
        output_dir: Output folder in the script's training arguments.
        seed: Seed in the training arguments.
        optim: Optimizer in the training arguments.
        learning_rate: Learning rate in the training arguments.
        weight_decay: Weight decay in the training arguments.
        num_train_epochs: Number of epochs in the training arguments.
        args_max_steps: Number of steps in the training arguments; not positive if epochs are given.
        max_steps: Optimizer steps of the whole training.
        steps_per_epoch: Optimizer steps of an epoch; None if a number of steps is given.
        training: Training arguments on which results depend.
        model: Class of the model.
        num_parameters: Number of parameters of the model.
        num_trained_parameters: Number of trained parameters.
        examples: Number of examples in the training and evaluation data by split; None if it is not known.
        trainings: Number of trainings in the process.
        trained: Whether the training was completed.
        diverged: Whether a loss was not finite.
        steps: Optimizer steps taken.
        evaluations: Evaluations, in the order of training.
        final: Metrics of evaluations after training.
        test: Metrics of the test split, if the script has one.
        pairing: Fingerprints of the initial weights and the first batches, and the first losses.
        gradient_norms: Gradient norms by step, if the Trainer logs none.
        train_seconds: Seconds of training, without evaluations and saves.
        wall_seconds: Seconds since the process started to run the script, earlier parts of the run included.
        step_seconds: Seconds of the fastest step.
        evaluation_seconds: Seconds of the last evaluation, by the Trainer's measurement.
        summary: Load of the machine, and means over the steps, see `RunRecorder.summary`.
        versions: Versions of the libraries, and the hardware.
        threads: Number of threads of each process.
        own_optimizer: Class of an optimizer that the script passed regardless of ``--optim``; empty if it did not.
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
    model: str
    num_parameters: int
    num_trained_parameters: int
    examples: Mapping[str, int | None]
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
    threads: int = 1
    own_optimizer: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Recording | None":
        """The recording in a run's folder; None if there is none.

        Raises:
            RecordError: If the file is damaged.
        """
        file = folder / RECORDING_FILE
        return from_json(cls, read_json(file)) if file.exists() else None

    def metrics(self) -> list[str]:
        """Names of the metrics of the evaluations."""
        own = ("step", "epoch", "seconds", "learning_rate", "momentum", "damping_ratio")
        return list(dict.fromkeys(name for one in self.evaluations for name in one if name not in own))


def append_event(folder: Path, *event: Any) -> None:
    """Sends an event of a run to the command, which reads the file."""
    with (folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
