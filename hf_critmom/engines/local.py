"""The local engine: forked workers on this machine share out the runs by file locks, as several launches do."""

import multiprocessing
import platform
import traceback
from collections.abc import MutableSequence
from pathlib import Path

from accelerate import PartialState

from hf_critmom.engines.interface import Job, Load, Observer, Work, record_failure
from hf_critmom.errors import InputError, root_message
from hf_critmom.storage.environment import device_name
from hf_critmom.storage.files import why_unwritable
from hf_critmom.storage.run_folder import run_all
from hf_critmom.storage.threads import torch_threads
from hf_critmom.storage.workers import Send, run_in_workers, usable_cores


class LocalEngine:
    """Executes runs in forked workers, or in this process if there is only one worker.

    Args:
        workers: Largest number of runs at the same time.
        threads: Number of threads of each run.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self.process = PartialState()

    @property
    def forks(self) -> bool:
        return self.workers > 1

    def start(self) -> None:
        pass  # workers are forked in `run`

    def num_workers(self, num_jobs: int) -> int:
        return min(self.workers, num_jobs)

    def run(self, work: Work, observer: Observer) -> None:
        workers = self.num_workers(len(work.jobs))
        if workers < 2:
            observer.workers_started()
            with torch_threads(self.threads):
                self._work(work, lambda *event: observer.handle(0, *event), [0] * len(work.jobs))
            return
        failed = multiprocessing.get_context("fork").Array("b", len(work.jobs), lock=False)

        def work_in_fork(send: Send) -> None:
            work.executor.isolate()
            self._work(work, send, failed)

        run_in_workers(
            work_in_fork,
            workers=workers,
            threads=self.threads,
            on_event=observer.handle,
            on_forked=observer.workers_started,
            on_death=lambda worker, how: observer.worker_died(
                worker, f"A worker was {how}: another one takes over its run."
            ),
        )

    def close(self) -> None:
        pass  # workers end with `run`

    def _share(self) -> float:
        """The share that a run has of an accelerator, or of as many cores as it has threads."""
        if self.process.device.type != "cpu":
            return 1.0 / self.workers
        return min(1.0, usable_cores() / (self.workers * self.threads))

    def _work(self, work: Work, send: Send, failed: MutableSequence[int]) -> None:
        """Executes runs until none is left.

        Args:
            work: The runs.
            send: Sends events to the observer.
            failed: For each run, whether it failed in a worker of this launch, which no other one then repeats.
        """
        jobs = {job.folder: job for job in work.jobs}
        places = {folder: place for place, folder in enumerate(jobs)}

        def execute(folder: Path) -> None:
            failed[places[folder]] = not self._execute(jobs[folder], work, send)

        def finished(folder: Path, earlier: bool) -> None:
            if not failed[places[folder]]:
                send("finished", folder, earlier)

        run_all(
            work.store.folder,
            jobs,
            path=lambda folder: folder,
            execute=lambda folder, _: execute(folder),
            is_finished=lambda folder: bool(failed[places[folder]]) or work.store.finished(jobs[folder]),
            on_finished=lambda folder, _, earlier: finished(folder, earlier),
            on_waiting=lambda number: send("waiting", number),
        )

    def _execute(self, job: Job, work: Work, send: Send) -> bool:
        """Executes a run and stores its result, or reports why it failed; returns whether there is a result."""
        folder = work.store.folder
        try:
            result = work.executor.execute(job, work.plan, folder / job.folder, send)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # code of the user may call sys.exit
            if why_unwritable(folder, error) or self.process.num_processes > 1:
                raise  # the other processes of this launch would wait for this one
            trace = "".join(traceback.format_exception(error))
            send("failed", record_failure(job, folder, root_message(error), trace))
            return False
        if self.process.is_main_process:
            load = Load(self.workers, platform.node(), device_name(), self._share())
            work.store.keep(job, result, load)
        self.process.wait_for_everyone()
        return True
