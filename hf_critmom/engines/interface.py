"""What an engine is, what it is given, and what all engines do with a run that has failed.

An experiment has an `Executor`, which makes one run in a folder and returns its result, and a `Store`, which keeps the
results; an `Engine` decides where and when runs are made. So an experiment of another kind brings another executor and
another store, and runs on every engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hf_critmom.storage.redaction import redact
from hf_critmom.storage.workers import Send


class Job(Protocol):
    """A run that is to be made, with what the executor needs to know of it; it can be pickled."""

    @property
    def folder(self) -> Path:
        """Its folder, within the experiment's; no other run has the same."""

    @property
    def title(self) -> str:
        """What it is called in messages."""


class Executor(Protocol):
    """Makes the runs of an experiment, each in its folder.

    An engine that makes runs on other machines pickles it: what is pickled names the data and does not hold them, and
    `prepare` loads them there.
    """

    @property
    def resumable(self) -> bool:
        """Whether runs keep checkpoints in their folders, from which they continue."""

    def isolate(self) -> None:
        """Prepares a forked process, before it makes its first run."""

    def prepare(self, plan: Any, threads: int) -> "Computing":
        """Prepares a process that it was sent to, before that makes its first run.

        Args:
            plan: See `Work`.
            threads: Threads that each run computes with.

        Returns:
            What the process computes with.

        Raises:
            InputError: If data or files that the runs need are not there, or are others than the plan's.
        """

    def execute(self, job: Any, plan: Any, folder: Path, send: Send) -> Any:
        """Makes a run from where it stopped.

        Args:
            job: The run.
            plan: See `Work`.
            folder: The run's folder.
            send: Takes what happens in the run, as the experiment's `Observer` shows it.

        Returns:
            The result, as the store keeps it.

        Raises:
            InputError: If no run of the experiment can be made. Any other error is this one run's.
        """


@dataclass(frozen=True)
class Computing:
    """What a process computes with.

    Attributes:
        device: What it trains on.
        versions: Versions of what computes there.
    """

    device: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """Where a run was made, and what it shared its device with.

    Attributes:
        workers: Processes that made runs of its launch at the same time.
        node: The machine's name.
        device: What it was computed on.
        share: The share of the device that the run had to itself; below 1 there were other runs of its launch on it.
        retries: How often the run was lost with its process or machine before.
    """

    workers: int
    node: str
    device: str
    share: float
    retries: int = 0


class Store(Protocol):
    """Keeps results, where the command runs."""

    @property
    def folder(self) -> Path:
        """The experiment's folder."""

    def finished(self, job: Any) -> bool:
        """Whether the result of a run is there, as the main process sees it."""

    def keep(self, job: Any, result: Any, load: Load) -> None:
        """Keeps a result, completely or not at all; called in the main process.

        Args:
            job: The run.
            result: What the executor returned.
            load: Where it was made.
        """


@dataclass(frozen=True)
class Work:
    """What an engine is given to make.

    Attributes:
        jobs: The runs, in the order in which they are begun.
        plan: What all of them have in common, which is sent to each machine once; it can be pickled.
        executor: Makes each of them.
        store: Keeps what it returns.
        versions: Versions of what computes, of which another machine should have the same.
    """

    jobs: Sequence[Job]
    plan: Any
    executor: Executor
    store: Store
    versions: Mapping[str, str] = field(default_factory=dict)


class Observer(Protocol):
    """Is told what happens while an engine makes runs."""

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Takes an event of a worker.

        Kinds are ``"finished"`` (the run's `Job.folder`, and whether it was finished before), ``"failed"`` (a
        sentence), ``"waiting"`` (number of runs that others are making), ``"said"`` (a line), ``"machines"`` (numbers
        of running and of finished runs by machine, and number of runs that wait), and those of the executor.
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

    @property
    def forks(self) -> bool:
        """Whether workers are forked from this process, which must not compute with several threads before."""

    def start(self) -> None:
        """Connects to what the engine needs.

        Raises:
            InputError: If that is not there.
        """

    def workers_for(self, num_jobs: int) -> int:
        """Number of runs that are made at the same time, of this many."""

    def make(self, work: Work, observer: Observer) -> None:
        """Makes those of the runs that are not finished, and returns when all are.

        Args:
            work: The runs.
            observer: Is told what happens. A run that fails is told, and the others go on.

        Raises:
            InputError: If the executor raised one, or the engine can make no more runs; what is finished is kept.
        """

    def close(self) -> None:
        """Ends what the engine has started."""


def keep_failure(job: Job, folder: Path, message: str, traceback: str) -> str:
    """Keeps the traceback of a failed run in its folder, and returns a sentence that says where.

    Args:
        job: The run.
        folder: The experiment's folder.
        message: What its error says.
        traceback: The traceback.
    """
    file = folder / job.folder / "error.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(redact(traceback), encoding="utf-8")
    return (
        f"The run {job.title} failed ({redact(message, sentence=True)}), see {file}: the other runs went on; mend the "
        "cause, and repeat the command."
    )
