"""Where labelled images come from: scikit-learn's digits, folders of images, and what `datasets` loads."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.decoding import decode_splits
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.image_folders import is_image_folder, read_image_folder, read_split_folders
from hf_critmom.tasks.images import image_keys
from hf_critmom.tasks.loading import loaded_dataset
from hf_critmom.tasks.paths import is_folder

_LABEL_TYPES = ("int", "uint", "bool", "string", "large_string")
"""Column types, by their beginnings, whose values can name classes."""
_LABEL_COLUMNS = ("label", "labels")
_MISSING = {None, ""}
"""What a table holds in place of a missing label."""


@dataclass(frozen=True)
class LabelledImages:
    """One split.

    Attributes:
        images: uint8, (examples, channels, height, width).
        labels: int64, (examples,).
        keys: A digest of each image as the source provides it, (examples,).
    """

    images: np.ndarray
    labels: np.ndarray
    keys: np.ndarray

    @classmethod
    def found(cls, images: np.ndarray, labels: np.ndarray) -> "LabelledImages":
        """From images and labels as the source provides them."""
        return cls(images, labels, np.array(image_keys(images), dtype=object))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "LabelledImages":
        """The examples at the given indices."""
        return LabelledImages(self.images[indices], self.labels[indices], self.keys[indices])

    def num_shared(self, other: "LabelledImages") -> int:
        """Number of images that are also in another split."""
        known = set(other.keys)
        return sum(key in known for key in self.keys)


@dataclass(frozen=True)
class Source:
    """Labelled images as their source provides them.

    Attributes:
        splits: Those of "train", "validation" and "test" that the source has.
        label_names: Names of the classes, by index.
        notes: Sentences on what was converted or left out.
    """

    splits: dict[str, LabelledImages]
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_digits(arguments: DataArguments) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, as a single training split (the package contains them).

    Raises:
        TaskError: If a flag is given that applies only to other datasets.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    for flag in ("image_size", "image_column_name", "label_column_name", "dataset_config_name"):
        if getattr(arguments, flag) is not None:
            raise TaskError(f"--{flag} has no meaning for the embedded digits: leave it out, or name another dataset.")
    digits = sklearn_digits()
    images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    return Source({"train": LabelledImages.found(images, digits.target.astype(np.int64))}, tuple("0123456789"))


def load_images(arguments: DataArguments) -> Source:
    """Reads a dataset of labelled images.

    Args:
        arguments: ``dataset_name`` (a folder or a name on the Hub) or ``train_dir``, ``validation_dir``, ``test_dir``.

    Raises:
        TaskError: If there is no such dataset, it lacks a training split, images or labels, or an image is corrupt.
    """
    with _opened(arguments) as (splits, notes):
        image_column = _image_column(splits["train"], arguments.image_column_name)
        label_column = _label_column(splits["train"], arguments.label_column_name)
        for name, split in splits.items():
            for column in (image_column, label_column):
                if column not in split.column_names:
                    raise TaskError(
                        f"Split {name} has no column {column!r}, unlike the training split: it has "
                        f"{', '.join(split.column_names)}."
                    )
        label_names, index_of = _label_names(splits["train"], label_column)
        splits, unlabelled = _labelled(splits, label_column, index_of)
        images, converted = decode_splits(splits, image_column, arguments.image_size)
        labels = {
            name: _labels(split, label_column, index_of, len(label_names), name) for name, split in splits.items()
        }
    found = {name: LabelledImages.found(images[name], labels[name]) for name in splits}
    return Source(found, label_names, (*notes, *unlabelled, *converted, *_class_notes(labels, label_names)))


def dataset_of(arguments: DataArguments) -> str:
    """The data that the flags name: a name on the Hub, a folder, a file or a task."""
    return arguments.dataset_name or arguments.train_dir or arguments.train_file or arguments.task


@contextmanager
def _opened(arguments: DataArguments) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Opens the splits that the flags name, as they are stored, with notes on what is left out."""
    folders = {
        name: Path(folder)
        for name, folder in (
            ("train", arguments.train_dir),
            ("validation", arguments.validation_dir),
            ("test", arguments.test_dir),
        )
        if folder is not None
    }
    if arguments.dataset_name is not None and folders:
        raise TaskError("Both a dataset and image folders were given: use --dataset_name or --train_dir, not both.")
    if folders and "train" not in folders:
        raise TaskError(
            f"A folder was given for {' and '.join(folders)} but none for training: give one with --train_dir."
        )
    for folder in folders.values():
        if not is_folder(folder):
            raise TaskError(f"There is no folder {folder}: expected a folder of images, one subfolder per class.")
    name = str(arguments.dataset_name)
    if folders:
        yield read_split_folders(folders)
    elif is_folder(name) and is_image_folder(Path(name)):
        if arguments.dataset_config_name is not None:
            raise TaskError("--dataset_config_name has no meaning for a folder of images: leave it out.")
        yield read_image_folder(Path(name))
    else:
        with loaded_dataset(name, arguments.dataset_config_name, "labelled images", "--train_dir") as loaded:
            yield loaded


def _image_column(split: datasets.Dataset, given: str | None) -> str:
    """The column of the images: the one given, image, img, or the only one of its type."""
    if given is not None:
        return _known(split, given)
    fitting = [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]
    return _only(split, [name for name in ("image", "img") if name in fitting][:1] or fitting, "image")


def _label_column(split: datasets.Dataset, given: str | None) -> str:
    """The column of the labels: the one given, label, labels, or the only one of classes."""
    if given is not None:
        return _known(split, given)
    named = [name for name in _LABEL_COLUMNS if name in split.column_names and _names_classes(split.features[name])]
    classes = [name for name, feature in split.features.items() if isinstance(feature, datasets.ClassLabel)]
    return _only(split, named[:1] or classes, "label")


def _known(split: datasets.Dataset, column: str) -> str:
    if column not in split.column_names:
        raise TaskError(f"The dataset has no column {column!r}: it has {', '.join(split.column_names)}.")
    return column


def _only(split: datasets.Dataset, fitting: list[str], kind: str) -> str:
    if len(fitting) != 1:
        found = f"{len(fitting)} columns" if fitting else "no column"
        raise TaskError(
            f"The dataset has {found} that could hold the {kind}s, among {', '.join(split.column_names)}: expected "
            f"labelled images; name the column with --{kind}_column_name."
        )
    return fitting[0]


def _names_classes(feature: Any) -> bool:
    if isinstance(feature, datasets.ClassLabel):
        return True
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(_LABEL_TYPES)


def _label_names(split: datasets.Dataset, column: str) -> tuple[tuple[str, ...], dict[Any, int] | None]:
    """Names of the classes, and the index of each raw label (None if raw labels are indices already)."""
    feature = split.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), None
    kind = feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__
    values = sorted(set(split[column]) - _MISSING) if _names_classes(feature) else []
    if not values or len(values) > 100_000:
        raise TaskError(
            f"Column {column!r} does not hold class labels ({kind}): expected whole numbers or names of classes, no "
            "more than 100,000 different ones."
        )
    return tuple(str(value) for value in values), {value: index for index, value in enumerate(values)}


def _labelled(splits: dict[str, Any], column: str, index_of: dict[Any, int] | None) -> tuple[dict[str, Any], list[str]]:
    """The splits without those that were published without labels, as test splits of benchmarks are, and notes."""
    marks = {*_MISSING, -1} - set(index_of or ())
    unlabelled = [
        name for name, split in splits.items() if name != "train" and set(split[column]) <= marks and len(split)
    ]
    notes = [f"Not used: split {name} ({len(splits[name]):,} examples), which has no labels." for name in unlabelled]
    return {name: split for name, split in splits.items() if name not in unlabelled}, notes


def _labels(
    split: datasets.Dataset, column: str, index_of: dict[Any, int] | None, num_classes: int, split_name: str
) -> np.ndarray:
    raw = split[column]
    indices = [(value if index_of is None else index_of.get(value, -1)) for value in raw]
    labels = np.array([-1 if index is None else index for index in indices], dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise TaskError(
            f"Example {wrong[0]} of split {split_name} has label {raw[int(wrong[0])]!r}, which is none of the "
            f"{num_classes} classes of the training split: every example must be labelled."
        )
    return labels


def _class_notes(labels: Mapping[str, np.ndarray], names: tuple[str, ...]) -> list[str]:
    """Notes on classes of which the training split has no example."""
    untrained = sorted(set(range(len(names))) - set(labels["train"].tolist()))
    if not untrained:
        return []
    held_out = {
        split: Counter(label for label in found.tolist() if label in set(untrained))
        for split, found in labels.items()
        if split != "train"
    }
    notes = [
        f"The {split} split has {counts.total():,} image{'s' if counts.total() > 1 else ''} of classes that the "
        f"training split lacks ({_listed([names[label] for label in sorted(counts)])}): no model can learn them."
        for split, counts in held_out.items()
        if counts
    ]
    nowhere = [names[label] for label in untrained if not any(counts[label] for counts in held_out.values())]
    return [*notes, f"No split has an image of class {_listed(nowhere)}."] if nowhere else notes


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
