"""What a task is: splits, metric and everything the Trainer needs beside model, arguments and optimizer."""

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
    """A supervised task with fixed splits; every kind of data has a subclass.

    Attributes:
        name: For titles and cards.
        source: Where the data came from, for cards: a name on the Hub, "scikit-learn", or a folder's own name.
        train: Training split.
        validation: Split on which targets are judged.
        test: Split that is read once, at the end.
        metric: Name of the metric that targets are values of, without prefix.
        processor: Saved with each model, so that others can prepare their inputs in the same way.
        notes: Sentences about the data that a reader of the results must know, such as how splits were made.
    """

    metrics: ClassVar[tuple[str, ...]]
    """Names in `METRICS` of what `compute_metrics` computes; the first is the one that targets usually are of."""
    example: ClassVar[str]
    """What an example is called in messages."""
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Layout in memory of the weights of models that are trained on the task."""

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
            TaskError: If there is none of the name.
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
        """Turns what the splits hand out into a batch."""
        return collate_batches(batch)

    @property
    @abstractmethod
    def compute_metrics(self) -> ComputeMetrics:
        """For the Trainer's evaluations on the validation split."""

    @property
    def compute_test_metrics(self) -> ComputeMetrics:
        """The same for the test split."""
        return self.compute_metrics

    @staticmethod
    @abstractmethod
    def preprocess_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """For the Trainer: reduces logits before they are gathered."""

    @property
    @abstractmethod
    def inputs_text(self) -> str:
        """Inputs of the models, for messages."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to do where a model cannot take these inputs, for messages."""

    @property
    def probe_rows(self) -> int:
        """Number of examples that a model is tried on."""
        return 2

    @abstractmethod
    def logits_shape(self, rows: int) -> tuple[int | None, ...]:
        """Shape of the logits of a model for this many examples; None: any size."""

    @property
    @abstractmethod
    def logits_text(self) -> str:
        """What the logits must be, for messages."""

    def placed(self, device: torch.device) -> "Task":
        """The task with its data in the memory of a device, where they may lie there; else as it is.

        Batches are the same to the bit.
        """
        return self

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks that training on this task needs."""
        return []

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What identifies the data, as JSON: sizes and a fingerprint of the content of every split."""
