"""Runs in processes of this machine: forked workers that divide them by their claims, as several launches do."""

import platform
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from hf_critmom.errors import InputError, root_message
from hf_critmom.experiments.comparison.engines.interface import Job, Observer, keep_failure
from hf_critmom.experiments.comparison.execution import Executor
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.storage.environment import device_name
from hf_critmom.storage.files import why_unwritable
from hf_critmom.storage.run_folder import RunFolder, run_all
from hf_critmom.storage.threads import computing_with
from hf_critmom.storage.workers import Send, run_in_workers, usable_cores


class LocalEngine:
    """Makes runs in forked workers, or in this process if there is one worker only.

    Args:
        workers: Most runs that are made at the same time.
        threads: Threads that each computes with.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self.process = PartialState()

    def start(self) -> None:
        pass  # workers are forked when there is work

    def workers_for(self, num_jobs: int) -> int:
        return min(self.workers, num_jobs)

    def make(self, jobs: Sequence[Job], plan: Plan, folder: Path, executor: Executor, observer: Observer) -> None:
        workers = self.workers_for(len(jobs))
        if workers < 2:
            with computing_with(self.threads):
                self._work(jobs, plan, folder, executor, lambda *event: observer.handle(0, *event))
            return

        def work_apart(send: Send) -> None:
            executor.isolate()
            self._work(jobs, plan, folder, executor, send)

        run_in_workers(
            work_apart,
            workers=workers,
            threads=self.threads,
            handle=observer.handle,
            forked=observer.started,
            died=lambda worker, number: observer.died(
                worker, f"A worker was killed (signal {number}): the others make its run."
            ),
        )

    def close(self) -> None:
        pass  # workers end with their work

    def _share(self) -> float:
        """The share of its device that a run has to itself: of an accelerator, or of as many cores as threads."""
        if self.process.device.type != "cpu":
            return 1.0 / self.workers
        return min(1.0, usable_cores() / (self.workers * self.threads))

    def _work(self, jobs: Sequence[Job], plan: Plan, folder: Path, executor: Executor, send: Send) -> None:
        """Makes runs until none is left."""
        by_run = {job.run: job for job in jobs}
        run_all(
            folder,
            by_run,
            path=lambda run: run.folder,
            execute=lambda run, _: self._execute(by_run[run], plan, folder, executor, send),
            finished=lambda run, _, earlier: send("finished", run, earlier),
            waiting=lambda number: send("waiting", number),
        )

    def _execute(self, job: Job, plan: Plan, folder: Path, executor: Executor, send: Send) -> None:
        run_folder = RunFolder(folder / job.run.folder)
        try:
            result = executor.execute(job.run, job.arm, plan, run_folder.path, send)
        except InputError:
            raise
        except Exception as error:
            if why_unwritable(folder, error) or self.process.num_processes > 1:
                raise  # of several processes the others would wait for this one
            trace = "".join(traceback.format_exception(error))
            send("failed", keep_failure(job, run_folder, root_message(error), trace))
            return
        if self.process.is_main_process:
            load = replace(
                result.load,
                workers=self.workers,
                node=platform.node(),
                device=device_name(),
                share=self._share(),
                retries=0,
            )
            run_folder.finish(replace(result, load=load).as_json())
        self.process.wait_for_everyone()
