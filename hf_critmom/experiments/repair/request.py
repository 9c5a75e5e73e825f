"""A repair as the command line describes it, and its way from a checkpoint on a task to `repair_layers`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hf_critmom.experiments.repair.arguments import RepairTrainingArguments
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.results import Repair
from hf_critmom.experiments.repair.runner import repair_layers
from hf_critmom.experiments.repair.scan import logged_training, training_seconds
from hf_critmom.storage.commands import recorded_path
from hf_critmom.tasks import CheckpointArguments, DataArguments, load_checkpoint, load_task_of
from hf_critmom.tasks.provenance import TrainedOn, check_trained_on
from hf_critmom.tasks.stored_arguments import check_output_folder


@dataclass(frozen=True)
class RepairRequest:
    """A repair as the command line describes it.

    Attributes:
        checkpoint: Folder of the checkpoint, or its name on the Hub.
        trained_on: What it was trained on, where that is recorded.
        settings: What to do.
        data: The data.
        loading: How the checkpoint is loaded.
        training: Training arguments of the treatments, with the output folder.
        command: The command line, for the record.
        workers: Processes that make treatments at the same time; None: as many as there are cores for.
        threads: Threads that each computes with; None: as the repair in the folder does, else as measured.
    """

    checkpoint: str
    trained_on: TrainedOn | None
    settings: RepairSettings
    data: DataArguments
    loading: CheckpointArguments
    training: RepairTrainingArguments
    command: str = ""
    workers: int | None = None
    threads: int | None = None


def run_repair(request: RepairRequest, progress: Callable[[str], None]) -> Repair:
    """Repairs a checkpoint on a task, or continues its repair, see `repair_layers`.

    Args:
        request: The arguments.
        progress: Called with a sentence on each step of the work.

    Raises:
        RepairError: As `repair_layers`.
        TaskError: If the data or the checkpoint cannot be used, or the checkpoint was trained on other data.
    """
    checkpoint, folder = request.checkpoint, Path(request.checkpoint)
    apart = request.training.device.type == "cpu" and request.training.world_size == 1
    if apart:
        torch.set_num_threads(1)  # workers are forked: no pool of threads may exist before
    workers = request.workers if apart or request.workers is not None else 1
    check_output_folder(Path(str(request.training.output_dir)), request.data)
    model, task = load_checkpoint(checkpoint, load_task_of(checkpoint, request.data, request.loading), request.loading)
    check_trained_on(checkpoint, request.trained_on, task, "test")
    return repair_layers(
        model,
        args=request.training,
        train_dataset=task.train,
        diagnosis_dataset=task.validation,
        test_dataset=task.test,
        settings=request.settings,
        data_collator=task.collator,
        processing_class=task.processor,
        callbacks=task.callbacks(),
        log=logged_training(folder),
        record={
            "checkpoint": recorded_path(checkpoint),
            "dtype": str(model.dtype).removeprefix("torch."),
            "task": task.description(),
            "diagnosis_split": "validation",
            "trained_on": request.trained_on and request.trained_on.sha256,
            "training_seconds": training_seconds(folder),
        },
        command=request.command,
        progress=progress,
        workers=workers,
        threads=request.threads,
        measure_threads=apart,
    )
