"""Image classification: from labelled images to a task."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import (
    AutoConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTImageProcessor,
)

from hf_critmom.tasks.arguments import DataArguments, ModelArguments
from hf_critmom.tasks.decoding import coloured
from hf_critmom.tasks.device_images import DeviceImages, has_room
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.images import Augmentation, ImageDataset, channel_statistics
from hf_critmom.tasks.metrics import accuracy_of, predicted_class
from hf_critmom.tasks.pretrained import load_image_processor, load_pretrained
from hf_critmom.tasks.sources import LabelledImages, Source
from hf_critmom.tasks.splits import cut_to_size, held_out_share
from hf_critmom.tasks.task import ComputeMetrics, Task


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """Classification of images of one shape; the training images may be augmented.

    Attributes:
        label_names: Names of the classes, by index.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    example: ClassVar[str] = "image"
    # Convolutions on the CPU and in bf16 on a GPU run faster channels-last; other parameters are not affected.
    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset
    label_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, before a checkpoint's processor resizes them."""
        return self.train.images.shape[1:]

    @property
    def compute_metrics(self) -> ComputeMetrics:
        """Accuracy."""
        return accuracy_of

    @staticmethod
    def preprocess_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Reduces logits to the predicted class."""
        return predicted_class(logits, labels)

    @property
    def inputs_text(self) -> str:
        """Shape of the models' input images."""
        return f"images of shape {tuple(self.train[0]['pixel_values'].shape)}"

    @property
    def remedy(self) -> str:
        """Choose another model or another size of the images."""
        return "choose a model made for them, or resize with --image_size"

    @property
    def probe_rows(self) -> int:
        """Not the number of classes, so that logits for another loss do not fit the labels by accident."""
        return 3 if len(self.label_names) == 2 else 2

    def logits_shape(self, rows: int) -> tuple[int | None, ...]:
        """(images, classes)."""
        return rows, len(self.label_names)

    @property
    def logits_text(self) -> str:
        """One logit for each class."""
        return f"one for each image and each of its {len(self.label_names)} classes"

    def placed(self, device: torch.device) -> "ImageTask":
        """The task with its images kept and augmented on an accelerator, if there is room for them."""
        splits = self.train, self.validation, self.test
        if not has_room(splits, device):
            return self
        train, validation, test = (DeviceImages(split, device) for split in splits)
        return dataclasses.replace(self, train=train, validation=validation, test=test)

    def callbacks(self) -> list[TrainerCallback]:
        """`AugmentationCallback`."""
        return [AugmentationCallback()]

    def description(self) -> dict[str, Any]:
        """Classes, shape, augmentation, sizes and fingerprints of the splits; a checkpoint's processor."""
        augmentation = self.train.augmentation
        processor = self.train.processor
        own = {} if processor is None else {"processor": json.loads(processor.to_json_string())}
        return {
            "name": self.name,
            "source": self.source,
            "metric": self.metric,
            "label_names": list(self.label_names),
            "image_shape": list(self.image_shape),
            "augmentation": {
                "crop_padding": augmentation.padding if augmentation else 0,
                "random_flip": bool(augmentation and augmentation.flip),
            },
            **own,
            "splits": {name: split.description() for name, split in self.splits.items()},
            "notes": list(self.notes),
        }


class AugmentationCallback(TrainerCallback):
    """Sets the seed and the epoch of the augmentation of training data.

    Accelerate itself sets the epoch only if its loader is not sharded over several processes.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loader = kwargs.get("train_dataloader")
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, ImageDataset):
            dataset.set_seed(args.seed if args.data_seed is None else args.data_seed)
            dataset.set_epoch(int(state.epoch or 0))


def image_task(
    loaded: Source, arguments: DataArguments, model: ModelArguments, *, name: str, source: str, metric: str
) -> ImageTask:
    """Splits and prepares labelled images.

    For a model from scratch, images are normalised by the statistics of the training split; for a checkpoint, they are
    resized and normalised by its image processor, and grey ones are given three channels if it expects them.

    Raises:
        TaskError: If the images cannot be split by these flags, or the checkpoint cannot take them.
    """
    checkpoint = model.model_name_or_path
    _check_unseen(loaded.splits)
    splits, notes = _split(loaded.splits, arguments)
    _check_classes(splits["train"], loaded.label_names)
    notes = [*loaded.notes, *notes, *_notes_on_copies(splits)]
    processor = None
    if checkpoint is not None:
        config = load_pretrained(AutoConfig, checkpoint, "image classifier", model)
        splits, grey = _in_channels_of(config, checkpoint, splits)
        notes += grey
        processor = load_image_processor(checkpoint, model)
        if processor is None:
            notes.append("The model has no image processor: the images are normalised by their own statistics.")
    mean, std = channel_statistics(splits["train"].images)
    _, height, width = splits["train"].images.shape[1:]
    own_processor = ViTImageProcessor(
        size={"height": height, "width": width}, image_mean=list(mean), image_std=list(std)
    )

    def prepared(split: str, augmentation: Augmentation | None = None) -> ImageDataset:
        images, labels = splits[split].images, splits[split].labels
        return ImageDataset(images, labels, mean=mean, std=std, augmentation=augmentation, processor=processor)

    return ImageTask(
        name=name,
        source=source,
        train=prepared("train", _augmentation(arguments, height, width)),
        validation=prepared("validation"),
        test=prepared("test"),
        label_names=loaded.label_names,
        metric=metric,
        processor=processor or own_processor,
        notes=tuple(notes),
    )


_HELD_OUT = ("validation", "test")
_MOST_SEEN = 0.1
"""Largest share of a given split that may be copies of training images; many datasets have a few."""


def _check_unseen(splits: dict[str, LabelledImages]) -> None:
    """Refuses given splits if more than a few of their images were also given for training."""
    for name in _HELD_OUT:
        seen = splits[name].num_shared(splits["train"]) if name in splits else 0
        if name in splits and seen > _MOST_SEEN * len(splits[name]):
            raise TaskError(
                f"{_of(seen, splits, name)} also in the training split ({len(splits['train']):,} images): held-out "
                "images must not be trained on, so give others, or none to have some held out."
            )


def _notes_on_copies(splits: dict[str, LabelledImages]) -> list[str]:
    """Notes on images that are in two splits."""
    pairs = [("validation", "train"), ("test", "train"), ("test", "validation")]
    shared = {pair: splits[pair[0]].num_shared(splits[pair[1]]) for pair in pairs}
    usual = {"train": "training"}
    return [
        f"{_of(seen, splits, name)} also in the {usual.get(other, other)} split."
        for (name, other), seen in shared.items()
        if seen
    ]


def _of(seen: int, splits: dict[str, LabelledImages], name: str) -> str:
    return f"{seen:,} of the {len(splits[name]):,} {name} images {'is' if seen == 1 else 'are'}"


def _check_classes(train: LabelledImages, names: tuple[str, ...]) -> None:
    """Refuses training images of a single class, from which nothing can be learnt."""
    if len(found := np.unique(train.labels)) < 2:
        raise TaskError(
            f"All {len(train):,} training images are of class {names[found[0]]}: a classifier needs at least two "
            "classes, each with its own subfolder or label, and enough images (--max_train_samples) to have both."
        )


def _augmentation(arguments: DataArguments, height: int, width: int) -> Augmentation | None:
    crop_padding = min(height, width) // 8 if arguments.crop_padding is None else arguments.crop_padding
    flip = True if arguments.random_flip is None else arguments.random_flip
    if not 0 <= crop_padding < min(height, width):
        raise TaskError(
            f"--crop_padding must be at least 0 and below the image size {min(height, width)}, got {crop_padding}."
        )
    return Augmentation(crop_padding, flip) if crop_padding or flip else None


def _in_channels_of(
    config: Any, checkpoint: str, splits: dict[str, LabelledImages]
) -> tuple[dict[str, LabelledImages], list[str]]:
    """The images with as many channels as a checkpoint takes, and a note if they had fewer."""
    of_timm = (getattr(config, "pretrained_cfg", None) or {}).get("input_size", [None])
    found, expected = splits["train"].images.shape[1], getattr(config, "num_channels", of_timm[0])
    if expected in (None, found):
        return splits, []
    if (found, expected) != (1, 3):
        raise TaskError(
            f"{checkpoint!r} takes images of {expected} channel{'s' if expected > 1 else ''} and these have {found}: "
            "convert the images, or choose another model."
        )
    repeated = {
        name: dataclasses.replace(split, images=coloured(split.images, axis=1)) for name, split in splits.items()
    }
    return repeated, ["The images are grey: the model's three channels are given equal values."]


def _split(loaded: dict[str, LabelledImages], arguments: DataArguments) -> tuple[dict[str, LabelledImages], list[str]]:
    """Holds out the splits that the source lacks, stratified by class, then cuts all to size."""
    share = held_out_share(arguments)
    rng = np.random.default_rng(arguments.split_seed)
    splits, notes = dict(loaded), []
    total, distinct = len(loaded["train"]), len(set(loaded["train"].keys))
    for name in ("test", "validation"):
        if name not in splits:
            held_out, kept = _stratified(splits["train"], share * total / len(splits["train"]), rng)
            if len(held_out) == 0 or len(kept) == 0:
                copies = "" if distinct == total else f", {distinct} without copies"
                raise TaskError(
                    f"The training split has too few examples ({total}{copies}) to hold out a share of {share:g} for "
                    f"{name}: give more data or a larger --train_val_split."
                )
            splits[name] = splits["train"].take(held_out)
            splits["train"] = splits["train"].take(kept)
            notes.append(
                f"The {name} split is {len(held_out):,} of the {total:,} training examples, held out by class "
                f"(seed {arguments.split_seed})."
            )
    splits, cut = cut_to_size(splits, arguments)
    return splits, [*notes, *cut]


def _stratified(split: LabelledImages, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a random share of every class, and the rest, both in the original order.

    Copies of an image go with the first of them, so that no held-out image is among those that are kept.
    """
    held_out = np.zeros(len(split), dtype=bool)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        held_out[rng.permutation(members)[: math.floor(share * len(members) + 0.5)]] = True
    _, firsts, copy_of = np.unique(split.keys, return_index=True, return_inverse=True)
    held_out = held_out[firsts[copy_of]]
    return np.flatnonzero(held_out), np.flatnonzero(~held_out)
