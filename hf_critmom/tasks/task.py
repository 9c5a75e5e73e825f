"""What a task is: its splits, its metric, and all that the Trainer needs besides model, arguments and optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import EvalPrediction, TrainerCallback

from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.metrics import METRICS
from hf_critmom.tasks.splits import Split, collate_batches

ComputeMetrics = Callable[[EvalPrediction], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A supervised task with fixed splits; each kind of data has a subclass.

    Attributes:
        name: Name in titles and cards.
        source: Where the data came from, for cards: a name on the Hub, "scikit-learn", or a folder's own name.
        train: Training split.
        validation: Split on which the metric is compared with the targets.
        test: Split that is evaluated once, at the end.
        metric: Name of the metric of the targets, without the prefix of a split.
        processor: Image processor or tokenizer, saved with each model so that others can prepare inputs for it.
        notes: Sentences about the data for readers of the results, such as how splits were made.
    """

    metrics: ClassVar[tuple[str, ...]]
    """Names in `METRICS` of the metrics that `compute_metrics` computes; the first is the default for targets."""
    example: ClassVar[str]
    """Noun for an example in messages."""
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Memory layout of the weights of models that are trained on the task."""

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    metric: str
    processor: Any
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """A split by name.

        Raises:
            TaskError: If there is no such split.
        """
        splits = self.splits
        if name not in splits:
            raise TaskError(f"There is no split {name!r}: choose one of {', '.join(splits)}.")
        return splits[name]

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def greater_is_better(self) -> bool:
        """Whether targets are reached from below, as an accuracy's are, or from above, as a loss's."""
        return METRICS[self.metric].greater_is_better

    @staticmethod
    def collator(batch: Any) -> dict[str, torch.Tensor]:
        """Collates what the splits serve into a batch."""
        return collate_batches(batch)

    @property
    @abstractmethod
    def compute_metrics(self) -> ComputeMetrics:
        """The Trainer's ``compute_metrics`` for the validation split."""

    @property
    def compute_test_metrics(self) -> ComputeMetrics:
        """The Trainer's ``compute_metrics`` for the test split."""
        return self.compute_metrics

    @staticmethod
    @abstractmethod
    def preprocess_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """The Trainer's ``preprocess_logits_for_metrics``: reduces logits before they are gathered."""

    @property
    @abstractmethod
    def inputs_text(self) -> str:
        """Description of the models' inputs, for messages."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to do if a model cannot take these inputs, for messages."""

    @property
    def probe_rows(self) -> int:
        """Number of examples on which a model is tried."""
        return 2

    @abstractmethod
    def logits_shape(self, rows: int) -> tuple[int | None, ...]:
        """Shape of a model's logits for ``rows`` examples; None stands for any size."""

    @property
    @abstractmethod
    def logits_text(self) -> str:
        """What the logits must be, for messages."""

    def placed(self, device: torch.device) -> "Task":
        """The task with its data in the memory of a device, if they fit there; otherwise unchanged.

        Batches are bit-identical.
        """
        return self

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks that training on this task needs."""
        return []

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What identifies the data, as JSON: sizes and a fingerprint of the content of every split."""
