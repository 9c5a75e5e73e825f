"""The interface between engines and experiments.

An experiment has an `Executor`, which executes one run in a folder and returns its result, and a `Store`, which keeps
the results. An `Engine` decides where and when runs are executed. A new kind of experiment therefore needs only an
executor and a store to run on every engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hf_critmom.storage.redaction import redact
from hf_critmom.storage.workers import Send


class Job(Protocol):
    """A run to execute, with what the executor needs to know about it; picklable."""

    @property
    def folder(self) -> Path:
        """The run's own folder, relative to the experiment's."""

    @property
    def title(self) -> str:
        """Name of the run in messages."""


class Executor(Protocol):
    """Executes the runs of an experiment, each in its folder.

    An engine for other machines pickles the executor, without its data, which `prepare` loads there.
    """

    @property
    def resumable(self) -> bool:
        """Whether runs save checkpoints in their folders and can resume from them."""

    def isolate(self) -> None:
        """Prepares a forked process for its first run."""

    def prepare(self, plan: Any, threads: int) -> "ComputeEnvironment":
        """Prepares a process that has unpickled the executor for its first run.

        Args:
            plan: See `Work`.
            threads: Number of threads of each run.

        Returns:
            Device and versions that the process computes with.

        Raises:
            InputError: If data or files that the runs need are missing, or differ from the plan's.
        """

    def execute(self, job: Any, plan: Any, folder: Path, send: Send) -> Any:
        """Executes a run, or resumes it from its last checkpoint.

        Args:
            job: The run.
            plan: See `Work`.
            folder: The run's folder.
            send: Sends the events of the run to the experiment's `Observer`.

        Returns:
            The result, for the store.

        Raises:
            InputError: If no run of the experiment can be executed. Any other error concerns this run alone.
        """


@dataclass(frozen=True)
class ComputeEnvironment:
    """Device and versions that a process computes with.

    Attributes:
        device: Name of the device.
        versions: Versions of the packages and the hardware.
    """

    device: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """Where a run was executed, and how much of its device it had.

    Attributes:
        workers: Number of processes that executed runs of the same launch at the same time.
        node: Name of the machine.
        device: Name of the device.
        share: Share of the device that the run had to itself; below 1, other runs of the same launch used the rest.
        retries: How often the run had been lost with its process or machine before.
    """

    workers: int
    node: str
    device: str
    share: float
    retries: int = 0


class Store(Protocol):
    """Keeps the results, on the machine that the command runs on."""

    @property
    def folder(self) -> Path:
        """The experiment's folder."""

    def finished(self, job: Any) -> bool:
        """Whether the result of a run exists, according to the main process."""

    def keep(self, job: Any, result: Any, load: Load) -> None:
        """Stores a result, completely or not at all; called in the main process.

        Args:
            job: The run.
            result: What the executor returned.
            load: Where the run was executed.
        """


@dataclass(frozen=True)
class Work:
    """What an engine has to do.

    Attributes:
        jobs: The runs, in the order in which they are started.
        plan: What all runs share; picklable, and sent to each machine once.
        executor: Executes each run.
        store: Keeps the results.
        versions: Versions of the packages and the hardware; other machines should have the same.
    """

    jobs: Sequence[Job]
    plan: Any
    executor: Executor
    store: Store
    versions: Mapping[str, str] = field(default_factory=dict)


class Observer(Protocol):
    """Receives the events of an engine while it executes runs."""

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Handles an event of a worker.

        Kinds are ``"finished"`` (the run's `Job.folder`, and whether it was finished before), ``"failed"`` (a
        sentence), ``"waiting"`` (number of runs that other launches are executing), ``"message"`` (a line),
        ``"machines"`` (numbers of running and of finished runs by machine, and number of waiting runs), and those of
        the executor.
        """

    def workers_started(self) -> None:
        """Called when all workers have been forked: threads may be started from now on."""

    def worker_died(self, worker: int, sentence: str) -> None:
        """Called when a worker has died; the sentence says what happens to its run."""


class Engine(Protocol):
    """Executes runs.

    Attributes:
        threads: Number of threads of each run.
    """

    threads: int

    @property
    def forks(self) -> bool:
        """Whether workers are forked from this process, which then must not have computed with several threads."""

    def start(self) -> None:
        """Connects to the cluster, if the engine has one.

        Raises:
            InputError: If it cannot be reached.
        """

    def num_workers(self, num_jobs: int) -> int:
        """Number of runs executed at the same time, out of ``num_jobs``."""

    def run(self, work: Work, observer: Observer) -> None:
        """Executes the unfinished runs, and returns when all are finished or have failed.

        Args:
            work: The runs. If one fails, that is reported, and the others go on.
            observer: Receives the events.

        Raises:
            InputError: If the executor raised one, or the engine cannot execute more runs; finished runs are kept.
        """

    def close(self) -> None:
        """Stops everything that the engine started."""


def record_failure(job: Job, folder: Path, message: str, traceback: str) -> str:
    """Writes the traceback of a failed run to ``error.txt`` in its folder, and returns a sentence for the user.

    Args:
        job: The run.
        folder: The experiment's folder.
        message: Message of the error.
        traceback: Traceback of the error.
    """
    file = folder / job.folder / "error.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(redact(traceback), encoding="utf-8")
    return (
        f"The run {job.title} failed ({redact(message, sentence=True)}), see {file}: the other runs went on; fix the "
        "cause, and repeat the command."
    )
