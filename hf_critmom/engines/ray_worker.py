"""The worker process on the machines of a Ray cluster, which executes one run after another and returns the results."""

import os
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from hf_critmom.engines.interface import Executor, Job
from hf_critmom.errors import InputError, root_message
from hf_critmom.storage.checkpoint_folders import remove_checkpoints
from hf_critmom.storage.locks import LOCKS_FOLDER
from hf_critmom.storage.run_folder import RESULT_FILE

SECONDS_BETWEEN_STEPS = 0.5
"""Smallest interval at which a worker reports the step of its run; longer if there are many workers."""


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker reports when it is ready.

    Attributes:
        node: Id of its machine in Ray.
        device: Name of the device that it trains on.
        versions: Versions of the packages and the hardware there.
        shared: Whether it sees the experiment's folder, and trains in it.
        refused: Why it cannot execute runs, as a sentence; empty if it can.
    """

    node: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    shared: bool = False
    refused: str = ""


@dataclass(frozen=True)
class RunOutput:
    """What a worker returns for a run: the result and the files to keep, or why there is none.

    Attributes:
        result: The result; None if there is none.
        files: Contents of the files to keep, as arrays of uint8, by path relative to the run's folder.
        message: Message of the error, if the run failed.
        traceback: Traceback of the error, if the run failed.
        refused: Why no run can be executed, as a sentence; empty if runs can be.
    """

    result: Any = None
    files: dict[str, np.ndarray] = field(default_factory=dict)
    message: str = ""
    traceback: str = ""
    refused: str = ""


class RunWorker:
    """Executes runs, as a Ray actor with its own share of a machine.

    Args:
        executor: Executes each run.
        threads: Number of threads of each run.
        on_cpu: Whether the worker has no share of an accelerator.
        number: Number of the worker, which identifies its events.
        events: Actor of the Ray queue for events, see `hf_critmom.engines.interface.Observer`.
        working_directory: Working directory of the command, which the worker changes to if it exists on its machine.
        folder: The experiment's folder, as an absolute path on the machine of the command.
        token: Name of a file among that folder's locks; a worker that finds it sees the same folder.
        seconds_between_steps: Smallest interval, in seconds, at which the worker reports the step of its run.
    """

    def __init__(
        self,
        executor: Executor,
        threads: int,
        on_cpu: bool,
        number: int,
        events: Any,
        working_directory: Path,
        folder: Path,
        token: str,
        seconds_between_steps: float,
    ) -> None:
        if on_cpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if working_directory.is_dir():
            os.chdir(working_directory)
        self.executor, self.threads, self.number, self.events = executor, threads, number, events
        self.folder, self.shared = folder, executor.resumable and (folder / LOCKS_FOLDER / token).exists()
        self.token, self.seconds_between_steps = token, seconds_between_steps
        self._last_step_report = 0.0

    def prepare(self, plan: Any) -> WorkerInfo:
        """Loads the data of the runs; a machine's first worker does so alone, so that it downloads for all of them."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        prepared = Path(tempfile.gettempdir()) / f"hf-critmom-{self.token}"
        try:
            if prepared.exists():
                environment = self.executor.prepare(plan, self.threads)
            else:
                with filelock.FileLock(f"{prepared}.lock"):
                    environment = self.executor.prepare(plan, self.threads)
                    prepared.touch()
        except InputError as error:
            return WorkerInfo(node, refused=str(error))
        return WorkerInfo(node, environment.device, dict(environment.versions), self.shared)

    def run(self, job: Job, plan: Any) -> RunOutput:
        """Executes a run: in the experiment's folder if it is shared, else in a temporary one."""
        if self.shared:
            return self._execute(job, plan, self.folder / job.folder)
        with tempfile.TemporaryDirectory(prefix="hf-critmom-", ignore_cleanup_errors=True) as scratch:
            experiment = Path(scratch) / self.folder.name  # trackers name projects and runs by these folders
            experiment.mkdir()
            output = self._execute(job, plan, experiment / job.folder)
            files = {} if output.result is None else _read_files(experiment / job.folder)
            return replace(output, files=files)

    def _execute(self, job: Job, plan: Any, folder: Path) -> RunOutput:
        try:
            return RunOutput(self.executor.execute(job, plan, folder, self._send))
        except InputError as error:
            return RunOutput(refused=str(error))
        except Exception as error:  # the user's model and optimizer may raise anything
            trace = "".join(traceback.format_exception(error))
            return RunOutput(message=root_message(error), traceback=trace)

    def _send(self, kind: str, *content: Any) -> None:
        if kind == "step":
            if time.monotonic() - self._last_step_report < self.seconds_between_steps:
                return
            self._last_step_report = time.monotonic()
        self.events.put_nowait.remote((self.number, kind, *content))


def _read_files(folder: Path) -> dict[str, np.ndarray]:
    """The files in a run's folder by relative path, without the checkpoints, which are removed, and the result."""
    if not folder.is_dir():
        return {}
    remove_checkpoints(folder)
    return {
        path.relative_to(folder).as_posix(): np.fromfile(path, dtype=np.uint8)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RESULT_FILE
    }
