"""The part of a task's description that experiments store and reports show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_critmom.storage.typed import RecordError, from_json


@dataclass(frozen=True)
class SplitRecord:
    """A split, as it is recorded.

    Attributes:
        examples: Number of examples.
        sha256: Fingerprint of its content.
    """

    examples: int
    sha256: str


@dataclass(frozen=True)
class TaskRecord:
    """A task, as it is recorded.

    Attributes:
        name: Name of the task.
        source: Where the data came from.
        splits: The splits by name.
        notes: Sentences about the data.
        label_names: Names of the classes, by index; empty for tasks without.
        hub_task: The Hub's name for this kind of task.
        metric: Name of the metric.
    """

    name: str
    source: str
    splits: dict[str, SplitRecord]
    notes: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    hub_task: str = "image-classification"
    metric: str = "accuracy"

    @classmethod
    def from_description(cls, description: Any, name: str = "task") -> "TaskRecord":
        """Reads a description that `Task.description` returned and JSON has stored.

        Args:
            description: The description.
            name: Its place in the file, for messages.

        Raises:
            RecordError: If something is missing or of another type.
        """
        if not isinstance(description, Mapping):
            raise RecordError(f"{name} is {str(description)[:40]!r} instead of an object")
        known = {key: description[key] for key in cls.__dataclass_fields__ if key in description}
        if isinstance(splits := known.get("splits"), Mapping):
            known["splits"] = {
                split: {key: value[key] for key in ("examples", "sha256") if key in value}
                if isinstance(value, Mapping)
                else value
                for split, value in splits.items()
            }
        return from_json(cls, known, name)
