"""A requested attribution: its checkpoints, and the settings that its results depend on."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_critmom.attribution.passes import TOP_ROWS
from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.diagnosis.arguments import AttributionArguments
from hf_critmom.storage.plan import differences
from hf_critmom.tasks import CheckpointArguments, DataArguments, Task
from hf_critmom.tasks.provenance import TrainedOn
from hf_critmom.tasks.records import TaskRecord


@dataclass(frozen=True)
class CheckpointSpec:
    """A checkpoint to be studied.

    Attributes:
        path: Its folder, or its name on the Hub.
        label: Name in tables, unique among the checkpoints.
        arm: Arm of its run, if it belongs to a comparison.
        seed: Seed of its run, if it belongs to a comparison.
        trained_on: The data that it was trained on, if recorded.
    """

    path: str
    label: str
    arm: str | None = None
    seed: int | None = None
    trained_on: TrainedOn | None = None


@dataclass(frozen=True)
class AttributionRequest:
    """An attribution as the command line describes it.

    Attributes:
        checkpoints: The checkpoints to study.
        attribution: Flags of the study.
        data: The data.
        loading: How checkpoints are loaded.
        engine: Flags of the engine that makes studies.
        command: The command line, for the record.
    """

    checkpoints: Sequence[CheckpointSpec]
    attribution: AttributionArguments
    data: DataArguments
    loading: CheckpointArguments = field(default_factory=CheckpointArguments)
    engine: EngineArguments = field(default_factory=EngineArguments)
    command: str = ""


@dataclass(frozen=True)
class Settings:
    """The stored settings that reports show.

    Attributes:
        task: The data.
        split: The split that was studied.
        num_top_groups: Number of groups that count as a network's top groups.
        corruption: Corruption of the images, or None.
        dtype: dtype of the weights; None in results of earlier versions.
    """

    task: TaskRecord
    split: str
    num_top_groups: int
    corruption: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.num_top_groups < 1 or self.split not in self.task.splits:
            raise ValueError(f"{self.num_top_groups} top groups of the split {self.split!r} cannot be")


def settings_record(request: AttributionRequest, task: Task, threads: int) -> dict[str, Any]:
    """The settings that results depend on, as JSON values; ``threads`` is the number of threads of each study."""
    chosen = asdict(request.attribution)
    for name in ("output_dir", "use_cpu", "per_device_eval_batch_size"):
        del chosen[name]
    chosen["groups"] = chosen.pop("layer_groups")  # its first name, kept in files
    return json.loads(
        json.dumps({"task": task.description(), "dtype": request.loading.dtype, "threads": threads, **chosen})
    )


def different_settings(stored: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Names of the settings that differ; those that earlier versions did not record have their defaults of then."""
    defaults = {"dtype": current["dtype"], "threads": current["threads"], "check_labels": False}
    known = {**defaults, "num_top_rows": TOP_ROWS, **stored}
    return [name for name in current if differences(name, known.get(name), current[name])]
