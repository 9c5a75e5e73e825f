"""The executor of comparisons on our own tasks: a process loads the data once, and trains each run with a Trainer."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from hf_critmom.engines.interface import ComputeEnvironment
from hf_critmom.experiments.comparison.arguments import ComparisonRequest
from hf_critmom.experiments.comparison.plan import Plan, Run
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.experiments.comparison.running.curvature import curvature_callback
from hf_critmom.experiments.comparison.running.execution import ArmRun
from hf_critmom.experiments.comparison.running.progress import RunReporter
from hf_critmom.storage.environment import device_name, versions
from hf_critmom.storage.workers import Send
from hf_critmom.tasks import Task, load_task
from hf_critmom.tasks.provenance import check_same_data
from hf_critmom.tasks.stored_arguments import absolute_arguments
from hf_critmom.training.arguments import portable_arguments, settle_device
from hf_critmom.training.trackers import tracked_run


class TaskExecutor:
    """Makes runs on one of our own tasks: an `Executor`.

    Args:
        request: The request.
        task: The task.
    """

    def __init__(self, request: ComparisonRequest, task: Task) -> None:
        self.data, self.model, self.training = request.data, request.model, request.training
        self.measure_curvature = request.comparison.measure_curvature
        self.only_cpu = "use_cpu" in request.given and request.training.use_cpu
        self._task: Task | None = task
        self._placed: Task | None = None

    @property
    def task(self) -> Task:
        """The task; an executor that was unpickled has it after `prepare`."""
        assert self._task is not None
        return self._task

    @property
    def resumable(self) -> bool:
        """Whether checkpoints are saved."""
        return self.training.save_strategy != SaveStrategy.NO

    def isolate(self) -> None:
        """Lets this process open the data files for itself."""
        for split in self.task.splits.values():
            split.isolate()

    def prepare(self, plan: Plan, threads: int) -> ComputeEnvironment:
        """Loads the data, and checks that it is the plan's."""
        torch.set_num_threads(threads)
        settle_device(self.training, on_cpu=self.only_cpu)
        self._task = load_task(self.data, self.model)
        check_same_data(self._task, {name: split.sha256 for name, split in plan.task.splits.items()})
        return ComputeEnvironment(device_name(), versions())

    def execute(self, job: ArmRun, plan: Plan, folder: Path, send: Send) -> RunResult:
        """Makes a run; with ``--measure_curvature``, that of the arm's first seed is measured."""
        run, arm = job.run, job.arm
        callbacks: list[TrainerCallback] = [RunReporter(send, run, self.task.metric)]
        if self.measure_curvature and run.trial is None and run.seed == plan.seeds_of([arm.name])[0]:
            measuring = curvature_callback(arm)
            callbacks += [] if measuring is None else [measuring]
        started = plan.history[0].date if plan.history else ""
        with tracked_run(self.training, _comparison_folder(run, folder), run.name, started):
            return execution.execute_run(self.training, self.model, arm, run, self._on_device(), folder, callbacks)

    def _on_device(self) -> Task:
        """The task with its data on the device; with loader workers, which cannot read it there, the task itself."""
        if self._placed is None:
            workers = self.training.dataloader_num_workers
            self._placed = self.task if workers else self.task.placed(self.training.device)
        return self._placed

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the data, with absolute paths and without settings of this machine."""
        flags = {"data": absolute_arguments(self.data), "model": absolute_arguments(self.model)}
        return {**self.__dict__, **flags, "training": portable_arguments(self.training), "_task": None, "_placed": None}


def _comparison_folder(run: Run, folder: Path) -> Path:
    """Folder of the comparison to which a run's folder belongs."""
    return folder.absolute().parents[len(run.folder.parts) - 1]
