"""Where labelled images come from: scikit-learn's digits, and everything that `datasets.load_dataset` reads."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.task import TaskError


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


def load_digits(arguments: DataArguments) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, as one unsplit set (the package contains them)."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    return {"train": LabelledImages(images, digits.target.astype(np.int64))}, tuple("0123456789")


def load_images(arguments: DataArguments) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    """Splits of a data set of labelled images, and the names of its classes.

    Args:
        arguments: ``dataset_name`` (a folder or a name on the Hub) or ``train_dir``, ``validation_dir``, ``test_dir``.

    Returns:
        What is there of "train", "validation" and "test"; names of the classes by index.

    Raises:
        TaskError: If there is no such data set, it has no training split, images or labels, or an image is corrupt.
    """
    raw = _load_raw(arguments)
    split_names = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
    splits = {split_names.get(name, name): split for name, split in raw.items()}
    if "train" not in splits:
        raise TaskError(
            f"Data set {_source(arguments)!r} has no split named train, only {', '.join(raw)}: "
            "name a data set with one, or use --train_dir."
        )
    image_column = _column(splits["train"], arguments.image_column_name, "image", ("image", "img"), _is_image)
    label_column = _column(splits["train"], arguments.label_column_name, "label", ("label", "labels"), _is_label)
    label_names, index_of = _label_names(splits["train"], label_column)
    decoded = {
        name: LabelledImages(
            _decode(splits[name], image_column, arguments.image_size, name),
            _labels(splits[name], label_column, index_of, len(label_names), name),
        )
        for name in ("train", "validation", "test")
        if name in splits
    }
    _check_same_shape(decoded)
    return decoded, label_names


def _source(arguments: DataArguments) -> str:
    return arguments.dataset_name or arguments.train_dir or arguments.task


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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(
            f"No labelled images could be loaded from {_source(arguments)!r} ({reason}): expected a known task, a "
            "folder that datasets.load_dataset reads, or the name of a data set on the Hub."
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
    values = sorted(set(split[column]) - {None})
    if not values or len(values) > 100_000 or isinstance(values[0], float):
        raise TaskError(f"Column {column!r} does not hold class labels: expected whole numbers or names of classes.")
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


def _decode(split: datasets.Dataset, column: str, image_size: int | None, split_name: str) -> np.ndarray:
    """All images of a split, uint8 (examples, channels, height, width); one channel if the first is grey, else RGB."""
    if len(split) == 0:
        raise TaskError(f"Split {split_name} holds no example: expected labelled images.")
    pictures = _pictures(split.cast_column(column, datasets.Image(decode=False)), column, split_name)
    first = next(pictures)
    mode = "L" if first.mode in ("L", "1", "I;16") else "RGB"
    width, height = (image_size, image_size) if image_size else first.size
    decoded = np.empty((len(split), height, width, len(mode)), dtype=np.uint8)
    for index, image in enumerate(itertools.chain([first], pictures)):
        if image_size and image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if image.size != (width, height):
            raise TaskError(
                f"Image {index} of split {split_name} is {image.width}x{image.height} pixels and the first is "
                f"{width}x{height}: give --image_size to resize all to squares of one size."
            )
        decoded[index] = np.asarray(image.convert(mode)).reshape(decoded.shape[1:])
    return np.ascontiguousarray(decoded.transpose(0, 3, 1, 2))


def _pictures(split: datasets.Dataset, column: str, split_name: str) -> Iterator[Image.Image]:
    """Decodes the images of a split one after the other."""
    for index, cell in enumerate(split[column]):
        try:
            image = Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])
            image.load()
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            raise TaskError(
                f"Image {index} of split {split_name} cannot be decoded ({error}): replace or remove it."
            ) from None
        yield image


def _check_same_shape(splits: dict[str, LabelledImages]) -> None:
    shapes = {name: split.images.shape[1:] for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise TaskError(f"The splits hold images of different shapes ({listed}): give --image_size to make them equal.")
