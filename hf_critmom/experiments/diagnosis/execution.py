"""Studies of checkpoints for an engine: its job, executor and store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, set_seed

from hf_critmom.attribution.attribution import predict
from hf_critmom.attribution.doubtful_labels import DoubtfulLabel, find_doubtful_labels
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.engines.interface import ComputeEnvironment, Load
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.plan import AttributionRequest, CheckpointSpec
from hf_critmom.experiments.diagnosis.results import RESULTS_FILE, Result, read_results, store_result
from hf_critmom.experiments.diagnosis.study import Study, make_study
from hf_critmom.storage.digest import weights_digest
from hf_critmom.storage.environment import device_name, versions
from hf_critmom.storage.locks import broadcast_from_main
from hf_critmom.storage.workers import Send
from hf_critmom.tasks import ImageTask, Task, corrupt, load_checkpoint, load_task_of, parse_corruption
from hf_critmom.tasks.images import ImageDataset
from hf_critmom.tasks.portable_checkpoints import PortableCheckpoint
from hf_critmom.tasks.provenance import check_same_data
from hf_critmom.tasks.records import TaskRecord
from hf_critmom.tasks.stored_arguments import absolute_arguments
from hf_critmom.training.history import read_history


@dataclass(frozen=True)
class StudyJob:
    """A checkpoint to be studied: the `Job` of an engine.

    Attributes:
        spec: The checkpoint.
        digest: Digest of its weights.
        checkpoint: The checkpoint with its files.
        history: Entries that `AttributionCallback` kept during its training.
        same_weights: Labels of the other checkpoints that have the same weights.
    """

    spec: CheckpointSpec
    digest: str
    checkpoint: PortableCheckpoint
    history: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    same_weights: tuple[str, ...] = ()

    @classmethod
    def of_each(cls, specs: Sequence[CheckpointSpec], digests: Mapping[str, str]) -> "list[StudyJob]":
        """The studies of checkpoints: of several with the same weights, the first is studied.

        Args:
            specs: The checkpoints.
            digests: Digests of their weights, by label.

        Raises:
            AttributionError: If the history of a training is damaged.
        """
        alike: dict[str, list[CheckpointSpec]] = {}
        for spec in specs:
            alike.setdefault(digests[spec.label], []).append(spec)
        return [
            cls(
                spec,
                digest,
                PortableCheckpoint(spec.path),
                _history(spec.path),
                tuple(other.label for other in others),
            )
            for digest, (spec, *others) in alike.items()
        ]

    @property
    def folder(self) -> Path:
        """A path that names the lock of the study; nothing is written there."""
        return Path("study", self.digest[:16])

    @property
    def initial_seed(self) -> int:
        """Seed of the untrained network: the one that the run started from, or one of the checkpoint's own."""
        return (int(self.digest[:8], 16) if self.spec.seed is None else self.spec.seed) % 2**32

    @property
    def title(self) -> str:
        """Name of the study in messages."""
        return self.spec.label


@dataclass(frozen=True)
class StudyStore:
    """Keeps results in an attribution's file: the `Store` of an engine.

    Attributes:
        folder: The attribution's folder.
        settings: The settings that results depend on, as JSON values.
        command: The command line.
        order: Labels of the checkpoints, in the order of tables.
    """

    folder: Path
    settings: dict[str, Any]
    command: str
    order: Sequence[str]

    def finished(self, job: StudyJob) -> bool:
        """Whether a checkpoint has been studied, as seen by the main process."""
        stored = {}
        if PartialState().is_main_process and (self.folder / RESULTS_FILE).exists():
            stored = {one.label: one.sha256 for one in read_results(self.folder).checkpoints}
        return broadcast_from_main(stored.get(job.spec.label) == job.digest)

    def keep(self, job: StudyJob, result: Result, load: Load) -> None:
        """Adds a result to the stored ones."""
        store_result(
            self.folder,
            self.settings,
            replace(result, history=job.history, same_weights=job.same_weights),
            self.command,
            self.order,
        )


class StudyExecutor:
    """Studies checkpoints: the `Executor` of an engine.

    Args:
        request: The request.
        task: The task with its data.
        accelerator: Accelerator of this launch.
    """

    resumable = False

    def __init__(self, request: AttributionRequest, task: Task, accelerator: Accelerator) -> None:
        self.args, self.data, self.loading = request.attribution, request.data, request.loading
        self.first = PortableCheckpoint(request.checkpoints[0].path)
        self._task: Task | None = task
        self._accelerator: Accelerator | None = accelerator
        self.corruption: str | None = None
        self.severities: tuple[int, ...] = (0,)  # 0: clean images
        if self.args.corruption is not None:
            self.corruption, severities = parse_corruption(self.args.corruption)
            self.severities = (0, *severities) if len(severities) > 1 else severities

    @property
    def task(self) -> Task:
        """The task; an executor that was pickled has it only after `prepare`."""
        assert self._task is not None
        return self._task

    @property
    def accelerator(self) -> Accelerator:
        """The accelerator; an executor that was pickled has it only after `prepare`."""
        assert self._accelerator is not None
        return self._accelerator

    def isolate(self) -> None:
        """Gives this process its own state of the data."""
        for split in self.task.splits.values():
            split.isolate()

    def prepare(self, plan: dict[str, Any], threads: int) -> ComputeEnvironment:
        """Loads the data, and checks it against the settings."""
        torch.set_num_threads(threads)
        self._accelerator = Accelerator(cpu=self.args.use_cpu or not torch.accelerator.is_available())
        with self.first.located() as checkpoint:
            self._task = load_task_of(checkpoint, self.data, self.loading)
        planned = TaskRecord.from_description(plan["task"]).splits
        check_same_data(self._task, {name: split.sha256 for name, split in planned.items()})
        return ComputeEnvironment(device_name(), versions())

    def execute(self, job: StudyJob, plan: dict[str, Any], folder: Path, send: Send) -> Result:
        """Studies a checkpoint.

        Raises:
            DiagnosisError: If it cannot be diagnosed, or has other weights on this machine.
        """
        spec = job.spec
        with job.checkpoint.located() as checkpoint:
            model, task = load_checkpoint(checkpoint, self.task, self.loading)
        if weights_digest(model) != job.digest:
            raise DiagnosisError(f"{spec.path} has different weights there than on the machine of the command.")
        studies = []
        for severity in self.severities:
            send("studying", f"{spec.label}, severity {severity}" if severity else spec.label)
            try:
                studies.append(self._study_of(job.initial_seed, model, task, severity))
            except AttributionError as error:
                at = f" at severity {severity}" if severity else ""
                raise DiagnosisError(f"{spec.label}{at}: {error}") from None
            send("studied", job.folder)
        return Result(
            spec.label,
            spec.arm,
            spec.seed,
            job.digest,
            sum(parameter.numel() for parameter in model.parameters()),
            tuple(studies),
            doubtful_labels=self._doubtful_labels(model, task) if self.args.check_labels else None,
            initial_seed=job.initial_seed if self.args.initial else None,
        )

    def _study_of(self, initial_seed: int, model: PreTrainedModel, task: Task, severity: int) -> Study:
        args, initial = self.args, None
        if args.initial:
            set_seed(initial_seed)
            initial = self._placed(type(model)(model.config).to(model.dtype), task)
        return make_study(
            self._placed(model, task),
            self._loader(task, severity),
            select=args.select,
            num_top_rows=args.num_top_rows,
            initial=initial,
            groups=args.layer_groups,
            class_names=task.label_names if isinstance(task, ImageTask) else (),
            batch_size=args.gradient_batch_size,
            num_top=args.num_top_groups,
            seed=args.seed,
            accelerator=self.accelerator,
            corruption=self.corruption,
            severity=severity,
        )

    def _doubtful_labels(self, model: PreTrainedModel, task: Task) -> tuple[DoubtfulLabel, ...]:
        loader = self._loader(task, 0)
        return tuple(find_doubtful_labels(predict(model, loader, accelerator=self.accelerator, probabilities=True)))

    def _placed(self, model: PreTrainedModel, task: Task) -> PreTrainedModel:
        return model.to(device=self.accelerator.device, memory_format=task.memory_format)

    def _loader(self, task: Task, severity: int) -> Any:
        examples = task.split(self.args.split).evaluated()
        if self.corruption is not None and severity and isinstance(examples, ImageDataset):
            images = corrupt(examples.images, self.corruption, severity, seed=self.args.seed)
            examples = examples.evaluated(images)
        loader = DataLoader(examples, self.args.per_device_eval_batch_size, collate_fn=task.collator)
        return self.accelerator.prepare_data_loader(loader)

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the data and what is specific to this machine."""
        return {**self.__dict__, "data": absolute_arguments(self.data), "_task": None, "_accelerator": None}


def _history(path: str) -> tuple[dict[str, Any], ...]:
    """Entries that `AttributionCallback` kept during a checkpoint's training, in its folder or that of its run."""
    for folder in (Path(path), Path(path).parent if Path(path).name.startswith("checkpoint-") else Path(path)):
        if found := read_history(folder):
            return tuple(entry for entry in found if entry["prefix"] == "eval")
    return ()
