"""Where labelled images come from: scikit-learn's digits, and everything that `datasets.load_dataset` reads."""

import collections
import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from hf_critmom.errors import root_message
from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.errors import TaskError

_LABEL_TYPES = ("int", "uint", "bool", "string", "large_string")
"""Column types, by their beginnings, whose values can name classes."""


@dataclass(frozen=True)
class LabelledImages:
    """One split: images uint8 (examples, channels, height, width), labels int64 (examples,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "LabelledImages":
        """The examples of the given indices."""
        return LabelledImages(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Source:
    """Labelled images as they were found.

    Attributes:
        splits: What there is of "train", "validation" and "test".
        label_names: Names of the classes, by index.
        notes: Sentences on what was converted.
    """

    splits: dict[str, LabelledImages]
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_digits(arguments: DataArguments) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, as one unsplit set (the package contains them).

    Raises:
        TaskError: If a flag asks for what only data sets that are read from files can do.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    for flag in ("image_size", "image_column_name", "label_column_name", "dataset_config_name"):
        if getattr(arguments, flag) is not None:
            raise TaskError(f"--{flag} has no meaning for the embedded digits: leave it out, or name another data set.")
    digits = sklearn_digits()
    images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    return Source({"train": LabelledImages(images, digits.target.astype(np.int64))}, tuple("0123456789"))


def load_images(arguments: DataArguments) -> Source:
    """Reads a data set of labelled images.

    Args:
        arguments: ``dataset_name`` (a folder or a name on the Hub) or ``train_dir``, ``validation_dir``, ``test_dir``.

    Raises:
        TaskError: If there is no such data set, it has no training split, images or labels, or an image is corrupt.
    """
    splits = usual_splits(_load_raw(arguments), dataset_of(arguments), "--train_dir")
    image_column = _column(splits["train"], arguments.image_column_name, "image", ("image", "img"), _is_image)
    label_column = _column(splits["train"], arguments.label_column_name, "label", ("label", "labels"), _is_label)
    label_names, index_of = _label_names(splits["train"], label_column)
    found: collections.Counter[str] = collections.Counter()
    decoded = {name: _decode(split, image_column, arguments.image_size, name, found) for name, split in splits.items()}
    notes = [_CONVERSIONS[kind].format(number) for kind, number in found.items() if kind in _CONVERSIONS]
    if any(images.shape[1] == 3 for images in decoded.values()):
        decoded = {name: coloured(images, axis=1) for name, images in decoded.items()}
        if found[_GREY]:
            notes.append(f"Grey images, {found[_GREY]:,} of them, were given three equal channels.")
    _check_same_shape(decoded)
    labels = {name: _labels(split, label_column, index_of, len(label_names), name) for name, split in splits.items()}
    images = {name: LabelledImages(images, labels[name]) for name, images in decoded.items()}
    return Source(images, label_names, tuple(notes))


_ALPHA, _DEEP, _GREY = "alpha", "deep", "grey"
_CONVERSIONS = {
    _ALPHA: "The alpha channel of {:,} images was dropped: transparent pixels show the colour that they hide.",
    _DEEP: "Of {:,} images of 16 bits the upper 8 are used.",
}


def dataset_of(arguments: DataArguments) -> str:
    """What the flags call the data: a name on the Hub, a folder, a file or a task."""
    return arguments.dataset_name or arguments.train_dir or arguments.train_file or arguments.task


def usual_splits(raw: Mapping[str, Any], dataset: str, flag: str) -> dict[str, Any]:
    """What a data set has of "train", "validation" and "test", also where validation goes by another name.

    Args:
        raw: Its splits by name.
        dataset: What it is called.
        flag: The flag that names training data otherwise.

    Raises:
        TaskError: If it has no training split.
    """
    other_names = {"valid": "validation", "val": "validation"}
    splits = {other_names.get(name, name): split for name, split in raw.items()}
    if "train" not in splits:
        raise TaskError(
            f"Data set {dataset!r} has no split named train, only {', '.join(raw)}: "
            f"name a data set with one, or use {flag}."
        )
    return {name: splits[name] for name in ("train", "validation", "test") if name in splits}


def _load_raw(arguments: DataArguments) -> datasets.DatasetDict:
    folders = {
        name: folder
        for name, folder in (
            ("train", arguments.train_dir),
            ("validation", arguments.validation_dir),
            ("test", arguments.test_dir),
        )
        if folder is not None
    }
    if arguments.dataset_name is not None and folders:
        raise TaskError("Both a data set and image folders were given: use --dataset_name or --train_dir, not both.")
    if folders and "train" not in folders:
        raise TaskError(
            f"A folder was given for {' and '.join(folders)} but none for training: give one with --train_dir."
        )
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise TaskError(f"There is no folder {folder}: expected a folder of images, one subfolder per class.")
    try:
        if folders:
            files = {name: str(Path(folder) / "**") for name, folder in folders.items()}
            loaded = datasets.load_dataset("imagefolder", data_files=files)
        else:
            loaded = datasets.load_dataset(str(arguments.dataset_name), arguments.dataset_config_name)
    except Exception as error:  # load_dataset raises whatever its readers raise; the sentence keeps what it was
        raise TaskError(
            f"No labelled images could be loaded from {dataset_of(arguments)!r} ({root_message(error)}): expected a "
            "known task, a folder that datasets.load_dataset reads, or the name of a data set on the Hub."
        ) from error
    return loaded


def _column(split: datasets.Dataset, given: str | None, kind: str, usual: tuple[str, ...], fits: Any) -> str:
    """The column of the images or labels: the one given, one of the usual names, or the only one of its type."""
    columns = split.column_names
    if given is not None:
        if given not in columns:
            raise TaskError(f"The data set has no column {given!r}: it has {', '.join(columns)}.")
        return given
    for name in usual:
        if name in columns and fits(split.features[name]):
            return name
    fitting = [name for name in columns if fits(split.features[name])]
    if len(fitting) != 1:
        found = f"{len(fitting)} columns" if fitting else "no column"
        raise TaskError(
            f"The data set has {found} that could hold the {kind}s, among {', '.join(columns)}: it must have labelled "
            f"images; name the column with --{kind}_column_name."
        )
    return fitting[0]


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)


def _is_label(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel)


def _label_names(split: datasets.Dataset, column: str) -> tuple[tuple[str, ...], dict[Any, int] | None]:
    """Names of the classes, and the index of each raw label (None where raw labels are indices already)."""
    feature = split.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), None
    kind = feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__
    values = sorted(set(split[column]) - {None}) if kind.startswith(_LABEL_TYPES) else []
    if not values or len(values) > 100_000:
        raise TaskError(
            f"Column {column!r} does not hold class labels ({kind}): expected whole numbers or names of classes, no "
            "more than 100,000 different ones."
        )
    return tuple(str(value) for value in values), {value: index for index, value in enumerate(values)}


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


def _decode(
    split: datasets.Dataset, column: str, image_size: int | None, split_name: str, found: collections.Counter[str]
) -> np.ndarray:
    """All images of a split, uint8 (examples, channels, height, width); one channel if all are grey, else RGB.

    ``found`` counts what kinds of images there were.
    """
    if len(split) == 0:
        raise TaskError(f"Split {split_name} holds no example: expected labelled images.")
    if image_size is not None and image_size < 1:
        raise TaskError(f"--image_size must be at least 1, got {image_size}.")
    try:
        encoded = split.cast_column(column, datasets.Image(decode=False))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TaskError(
            f"Column {column!r} does not hold images ({root_message(error)}): name the one that does."
        ) from error
    pictures = _pictures(encoded, column, split_name, found)
    first = next(pictures)
    width, height = first.size if image_size is None else (image_size, image_size)
    decoded = np.empty((len(split), height, width, len(first.getbands())), dtype=np.uint8)
    for index, image in enumerate(itertools.chain([first], pictures)):
        if image_size is not None and image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if image.size != (width, height):
            raise TaskError(
                f"Image {index} of split {split_name} is {image.width}x{image.height} pixels and the first is "
                f"{width}x{height}: give --image_size to resize all to squares of one size."
            )
        pixels = np.asarray(image).reshape(height, width, -1)
        if pixels.shape[-1] > decoded.shape[-1]:
            decoded = coloured(decoded, axis=-1)
        decoded[index] = pixels  # one grey channel fills all three
    return np.ascontiguousarray(decoded.transpose(0, 3, 1, 2))


def _pictures(
    split: datasets.Dataset, column: str, split_name: str, found: collections.Counter[str]
) -> Iterator[Image.Image]:
    """Decodes the images of a split one after the other: upright, and as mode L if they are grey, else RGB."""
    for index, cell in enumerate(split[column]):
        if cell is None:
            raise TaskError(f"Image {index} of split {split_name} is missing: supply it or remove the example.")
        try:
            with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as image:
                found.update(_kinds(image))
                picture = _eight_bit(ImageOps.exif_transpose(image))
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            raise TaskError(
                f"Image {index} of split {split_name} cannot be decoded ({root_message(error)}): replace or remove it."
            ) from None
        yield picture


def _kinds(image: Image.Image) -> list[str]:
    """What is particular about an image."""
    deep = image.mode.startswith("I;16")
    kinds = {_ALPHA: image.has_transparency_data, _DEEP: deep, _GREY: deep or image.mode in ("1", "L", "LA")}
    return [kind for kind, holds in kinds.items() if holds]


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB. Pillow would clip deeper pixels to 255 rather than scale them."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels of mode {image.mode} have no known range")
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def coloured(images: np.ndarray, axis: int) -> np.ndarray:
    """Images with three channels on an axis: grey ones repeat their only one."""
    return images if images.shape[axis] == 3 else np.repeat(images, 3, axis=axis)


def _check_same_shape(splits: dict[str, np.ndarray]) -> None:
    shapes = {name: images.shape[1:] for name, images in splits.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise TaskError(f"The splits hold images of different shapes ({listed}): give --image_size to make them equal.")
