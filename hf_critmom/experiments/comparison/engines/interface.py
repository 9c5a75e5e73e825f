"""What an engine is, what it is given, and what all engines do with a run that has failed.

An executor (`hf_critmom.experiments.comparison.execution.Executor`) makes one run in a folder and returns its record;
an `Engine` decides where and when. So a comparison of another kind brings another executor, and runs on every engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hf_critmom.experiments.comparison.arms import Arm
from hf_critmom.experiments.comparison.execution import Executor
from hf_critmom.experiments.comparison.plan import Plan, Run
from hf_critmom.storage.redaction import redact
from hf_critmom.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Job:
    """A run that is to be made.

    Attributes:
        run: The run.
        arm: Its arm, at the learning rate and weight decay that this run has.
    """

    run: Run
    arm: Arm


class Observer(Protocol):
    """Is told what happens while an engine makes runs."""

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Takes an event of a worker.

        Kinds are ``"finished"`` (run, whether it was finished before), ``"failed"`` (a sentence), ``"waiting"`` (number
        of runs that others are making), ``"said"`` (a line), ``"machines"`` (numbers of running and of finished runs by
        machine, and number of runs that wait), and those of `RunReporter`.
        """

    def started(self) -> None:
        """All workers are there: what needs a thread may begin."""

    def died(self, worker: int, sentence: str) -> None:
        """A worker died; the sentence says what becomes of its run."""


class Engine(Protocol):
    """Makes runs.

    Attributes:
        threads: Threads that each run computes with.
    """

    threads: int

    def start(self) -> None:
        """Connects to what the engine needs.

        Raises:
            InputError: If that is not there.
        """

    def workers_for(self, num_jobs: int) -> int:
        """Number of runs that are made at the same time, of this many."""

    def make(self, jobs: Sequence[Job], plan: Plan, folder: Path, executor: Executor, observer: Observer) -> None:
        """Makes those of the runs that are not finished in a comparison's folder, and returns when all are.

        Args:
            jobs: The runs, in the order in which they are begun.
            plan: The comparison's plan.
            folder: The comparison's folder.
            executor: Makes each of them.
            observer: Is told what happens. A run that fails is told, and the others go on.

        Raises:
            InputError: If the executor raised one, or the engine can make no more runs; what is finished is kept.
        """

    def close(self) -> None:
        """Ends what the engine has started."""


def keep_failure(job: Job, run_folder: RunFolder, message: str, traceback: str) -> str:
    """Keeps the traceback of a failed run in its folder, and returns a sentence that says where.

    Args:
        job: The run.
        run_folder: Its folder.
        message: What its error says.
        traceback: The traceback.
    """
    run_folder.path.mkdir(parents=True, exist_ok=True)
    file = run_folder.path / "error.txt"
    file.write_text(redact(traceback), encoding="utf-8")
    return (
        f"The run {job.run.title} failed ({redact(message, sentence=True)}), see {file}: the other runs went on; mend "
        "the cause, and repeat the command."
    )
