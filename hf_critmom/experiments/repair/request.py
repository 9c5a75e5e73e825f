"""A repair as the command line describes it, and its call of `repair_layers`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.repair.arguments import RepairTrainingArguments
from hf_critmom.experiments.repair.execution import Material
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.results import Repair
from hf_critmom.experiments.repair.runner import repair_layers
from hf_critmom.experiments.repair.scan import logged_training, training_seconds
from hf_critmom.storage.recorded_commands import recorded_path
from hf_critmom.tasks import CheckpointArguments, DataArguments, Task, load_checkpoint, load_task_of
from hf_critmom.tasks.portable_checkpoints import PortableCheckpoint
from hf_critmom.tasks.provenance import TrainedOn, check_same_data, check_trained_on
from hf_critmom.tasks.stored_arguments import absolute_arguments, check_output_folder


@dataclass(frozen=True)
class RepairRequest:
    """A repair as the command line describes it.

    Attributes:
        checkpoint: Folder of the checkpoint, or its name on the Hub.
        trained_on: The data that it was trained on, if recorded.
        settings: Settings of the repair.
        data: The data.
        loading: How the checkpoint is loaded.
        training: Training arguments of the treatments, with the output folder.
        command: The command line, for the record.
        engine: Flags of the engine that makes treatments.
        on_cpu: Whether no machine may use an accelerator.
    """

    checkpoint: str
    trained_on: TrainedOn | None
    settings: RepairSettings
    data: DataArguments
    loading: CheckpointArguments
    training: RepairTrainingArguments
    command: str = ""
    engine: EngineArguments = field(default_factory=EngineArguments)
    on_cpu: bool = False


def run_repair(request: RepairRequest, progress: Callable[[str], None]) -> Repair:
    """Repairs a checkpoint on a task, or continues its repair; see `repair_layers`.

    Args:
        request: The request.
        progress: Called with a sentence about each step.

    Raises:
        RepairError: As `repair_layers`.
        TaskError: If the data or the checkpoint cannot be used, or the checkpoint was trained on other data.
    """
    checkpoint, folder = request.checkpoint, Path(request.checkpoint)
    apart = request.training.device.type == "cpu" and request.training.world_size == 1
    if apart:
        torch.set_num_threads(1)  # workers are forked: no thread pool may exist before
    workers = request.engine.workers if apart or request.engine.workers is not None else 1
    check_output_folder(Path(str(request.training.output_dir)), request.data)
    model, task = load_checkpoint(checkpoint, load_task_of(checkpoint, request.data, request.loading), request.loading)
    check_trained_on(checkpoint, request.trained_on, task, "test")
    material = _material(model, task)
    planned = {name: split.fingerprint() for name, split in task.splits.items()}
    return repair_layers(
        **vars(material),
        args=request.training,
        settings=request.settings,
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
        threads=request.engine.threads_per_worker,
        measure_threads=apart,
        engine=request.engine,
        reload=Reload(PortableCheckpoint(checkpoint), absolute_arguments(request.data), request.loading, planned),
        on_cpu=request.on_cpu,
    )


@dataclass(frozen=True)
class Reload:
    """Loads a checkpoint and the data of its repair on another machine.

    Attributes:
        checkpoint: The checkpoint, with its files.
        data: Flags that name the data.
        loading: How the checkpoint is loaded.
        planned: Fingerprint of each split.
    """

    checkpoint: PortableCheckpoint
    data: DataArguments
    loading: CheckpointArguments
    planned: Mapping[str, str]

    def __call__(self) -> Material:
        """Loads checkpoint and data.

        Raises:
            TaskError: If the data is missing, or differs from that on the machine of the command.
        """
        with self.checkpoint.located() as checkpoint:
            task = load_task_of(checkpoint, self.data, self.loading)
            check_same_data(task, self.planned)
            return _material(*load_checkpoint(checkpoint, task, self.loading))


def _material(model: PreTrainedModel, task: Task) -> Material:
    return Material(
        model, task.train, task.validation, task.test, task.collator, task.processor, tuple(task.callbacks())
    )
