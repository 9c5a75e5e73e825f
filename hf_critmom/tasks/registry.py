"""The table of tasks, and how one is built from flags."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import ViTImageProcessor

from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.images import Augmentation, ImageDataset, channel_statistics, collate_images
from hf_critmom.tasks.metrics import accuracy_of, predicted_class
from hf_critmom.tasks.sources import LabelledImages, dataset_of, load_digits, load_images
from hf_critmom.tasks.task import Task, TaskError


@dataclass(frozen=True)
class TaskSpec:
    """An entry of the table of tasks.

    Attributes:
        name: What ``--task`` is called with.
        load: Returns the splits that the source has, and the class names.
        source: Where the data comes from, for cards; None: what the flags name.
        data_defaults: Values of `DataArguments` where no flag was given.
        training_defaults: Values of `TrainingArguments` where no flag was given.
        targets: Metric values whose first reaching is timed.
        width: Width of a ResNet where no flag was given.
    """

    name: str
    load: Callable[[DataArguments], tuple[dict[str, LabelledImages], tuple[str, ...]]]
    source: str | None = None
    data_defaults: Mapping[str, Any] = field(default_factory=dict)
    training_defaults: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[float, ...] = (0.8, 0.85, 0.9)
    width: int = 64


TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "digits",
            load_digits,
            source="scikit-learn, load_digits (1,797 images of 8x8 pixels)",
            data_defaults={"train_val_split": 0.2, "crop_padding": 1, "random_flip": False},
            training_defaults={"num_train_epochs": 15.0, "per_device_train_batch_size": 64},
            targets=(0.9, 0.95, 0.98),
            width=16,
        ),
        TaskSpec(
            "cifar10",
            load_images,
            data_defaults={"dataset_name": "uoft-cs/cifar10", "train_val_split": 0.1},
            training_defaults={"num_train_epochs": 30.0},
        ),
        TaskSpec(
            "images",
            load_images,
            data_defaults={"train_val_split": 0.1},
            training_defaults={"num_train_epochs": 30.0},
        ),
    )
}


def task_spec(arguments: DataArguments) -> TaskSpec:
    """The table's entry for ``--task``; folders and names on the Hub are "images"."""
    if _names_data(arguments):
        return TASKS["images"]
    return TASKS.get(arguments.task, TASKS["images"])


def _names_data(arguments: DataArguments) -> bool:
    """Whether a flag other than ``--task`` says where the data is."""
    flags = ("dataset_name", "train_dir", "validation_dir", "test_dir")
    return any(getattr(arguments, flag) is not None for flag in flags)


def task_name(arguments: DataArguments) -> str:
    """What the task is called in titles: its name in the table, or the own name of the folder or data set."""
    if task_spec(arguments).name != "images":
        return arguments.task
    dataset = Path(dataset_of(arguments))
    return (dataset.absolute() if dataset.exists() else dataset).name


def load_task(asked: DataArguments) -> Task:
    """Loads, splits and prepares the data of a task; what ``asked`` leaves open comes from the table.

    Raises:
        TaskError: One sentence, if the data cannot be used.
    """
    spec = task_spec(asked)
    arguments = _completed(asked, spec)
    loaded, label_names = spec.load(arguments)
    splits, notes = _split(loaded, arguments)
    mean, std = channel_statistics(splits["train"].images)
    _, height, width = splits["train"].images.shape[1:]
    crop_padding = min(height, width) // 8 if arguments.crop_padding is None else arguments.crop_padding
    flip = True if arguments.random_flip is None else arguments.random_flip
    if not 0 <= crop_padding < min(height, width):
        raise TaskError(f"--crop_padding must lie between 0 and the image's size {min(height, width)}: {crop_padding}.")
    augmentation = Augmentation(crop_padding, flip) if crop_padding or flip else None

    def prepared(name: str, augmentation: Augmentation | None = None) -> ImageDataset:
        return ImageDataset(splits[name].images, splits[name].labels, mean=mean, std=std, augmentation=augmentation)

    return Task(
        name=task_name(asked),
        source=spec.source or _public_name(dataset_of(arguments)),
        train=prepared("train", augmentation),
        validation=prepared("validation"),
        test=prepared("test"),
        label_names=label_names,
        metric="accuracy",
        collator=collate_images,
        compute_metrics=accuracy_of,
        preprocess_logits=predicted_class,
        processor=ViTImageProcessor(
            size={"height": height, "width": width}, image_mean=list(mean), image_std=list(std)
        ),
        notes=notes,
    )


def _completed(arguments: DataArguments, spec: TaskSpec) -> DataArguments:
    """The arguments with the task's own defaults in the place of those that were left alone."""
    changes = {name: value for name, value in spec.data_defaults.items() if getattr(arguments, name) is None}
    if spec.name == "images" and not _names_data(arguments):
        changes["dataset_name"] = arguments.task
    return dataclasses.replace(arguments, **changes)


def _public_name(dataset: str) -> str:
    """A folder's own name rather than its path, which says nothing to others."""
    return f"local folder {Path(dataset).resolve().name}" if Path(dataset).exists() else dataset


def _split(
    loaded: dict[str, LabelledImages], arguments: DataArguments
) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    """Makes the splits that the source lacks from its training data, stratified by class, then cuts to size."""
    share = arguments.train_val_split or 0.0
    if not 0.0 < share < 0.5:
        raise TaskError(f"--train_val_split must lie between 0 and 0.5, got {share:g}.")
    rng = np.random.default_rng(arguments.split_seed)
    splits, notes = dict(loaded), []
    whole = len(loaded["train"])
    for name in ("test", "validation"):
        if name not in splits:
            held_out, kept = _stratified(splits["train"].labels, share * whole / len(splits["train"]), rng)
            if len(held_out) == 0 or len(kept) == 0:
                raise TaskError(
                    f"The training split has too few examples ({whole}) to hold out a share of {share:g} for "
                    f"{name}: give more data or a larger --train_val_split."
                )
            splits[name] = splits["train"].take(held_out)
            splits["train"] = splits["train"].take(kept)
            notes.append(
                f"The {name} split is {len(held_out):,} of the {whole:,} training examples, held out by class "
                f"(seed {arguments.split_seed})."
            )
    limits = {
        "train": arguments.max_train_samples,
        "validation": arguments.max_eval_samples,
        "test": arguments.max_eval_samples,
    }
    for number, (name, limit) in enumerate(limits.items()):
        if limit is not None and limit < 1:
            flag = "--max_train_samples" if name == "train" else "--max_eval_samples"
            raise TaskError(f"{flag} must be at least 1, got {limit}.")
        if limit is not None and limit < len(splits[name]):
            notes.append(f"Only {limit:,} of {len(splits[name]):,} {name} examples are used.")
            own_rng = np.random.default_rng([arguments.split_seed, number])  # one split's limit moves no other split
            splits[name] = splits[name].take(own_rng.permutation(len(splits[name]))[:limit])
    return splits, tuple(notes)


def _stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a random share of every class, and the rest, both in the original order."""
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held_out[rng.permutation(members)[: math.floor(share * len(members) + 0.5)]] = True
    return np.flatnonzero(held_out), np.flatnonzero(~held_out)
