"""What a task is: splits, metric and everything the Trainer needs beside model, arguments and optimizer."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_critmom.errors import InputError
from hf_critmom.tasks.images import ImageDataset


class TaskError(InputError):
    """Data or a model that cannot be used."""


@dataclass(frozen=True)
class Task:
    """A supervised task with fixed splits.

    Attributes:
        name: For titles and cards.
        source: Where the data came from, for cards: a name on the Hub, "scikit-learn", or a folder's own name.
        train: Training split, augmented.
        validation: Split on which targets are judged.
        test: Split that is read once, at the end.
        label_names: Names of the classes, by index.
        metric: Name of the metric of `compute_metrics`, without prefix; larger is better.
        collator: Turns what the splits hand out into a batch.
        compute_metrics: For the Trainer.
        preprocess_logits: For the Trainer: reduces logits before they are gathered.
        processor: Saved with each model, so that others can prepare their inputs in the same way.
        notes: Sentences about the data that a reader of the results must know, such as how splits were made.
    """

    name: str
    source: str
    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset
    label_names: tuple[str, ...]
    metric: str
    collator: Callable[[Any], Any]
    compute_metrics: Callable[[Any], dict[str, float]]
    preprocess_logits: Callable[[Any, Any], Any]
    processor: Any
    notes: tuple[str, ...] = field(default=())

    def split(self, name: str) -> ImageDataset:
        """A split by name.

        Raises:
            TaskError: If there is none of the name.
        """
        splits = self.splits
        if name not in splits:
            raise TaskError(f"There is no split {name!r}: choose one of {', '.join(splits)}.")
        return splits[name]

    @property
    def splits(self) -> dict[str, ImageDataset]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.train.images.shape[1:]

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks that training on this task needs."""
        return [AugmentationCallback()]

    def description(self) -> dict[str, Any]:
        """What identifies the data, as JSON: sizes and a fingerprint of the content of every split."""
        return {
            "name": self.name,
            "source": self.source,
            "metric": self.metric,
            "label_names": list(self.label_names),
            "image_shape": list(self.image_shape),
            "augmentation": {
                "crop_padding": self.train.augmentation.padding if self.train.augmentation else 0,
                "random_flip": bool(self.train.augmentation and self.train.augmentation.flip),
            },
            "splits": {
                name: {"examples": len(split), "sha256": _fingerprint(split)} for name, split in self.splits.items()
            },
            "notes": list(self.notes),
        }


class AugmentationCallback(TrainerCallback):
    """Tells the training data the run's seed and which epoch begins.

    Accelerate tells the epoch itself, but only where its loader is not sharded over several processes.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loader = kwargs.get("train_dataloader")
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, ImageDataset):
            dataset.set_seed(args.seed if args.data_seed is None else args.data_seed)
            dataset.set_epoch(int(state.epoch or 0))


def _fingerprint(split: ImageDataset) -> str:
    digest = hashlib.sha256(repr(split.images.shape).encode())
    digest.update(split.images.tobytes())
    digest.update(split.labels.tobytes())
    return digest.hexdigest()
