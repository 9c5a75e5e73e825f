"""Decodes the images of datasets: upright, grey or coloured, 8 bits per channel, all of one size."""

import io
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from hf_critmom.errors import root_message
from hf_critmom.tasks.errors import TaskError

_ALPHA, _DEEP, _FRAMES, _GREY = "alpha", "deep", "frames", "grey"
_CONVERSIONS = {
    _ALPHA: "The alpha channel of {} was dropped: transparent pixels show the colour that they hide.",
    _DEEP: "Only the upper 8 bits of {} with 16 bits are used.",
    _FRAMES: "Only the first frame of {} with several frames is used.",
}


def decode_splits(
    splits: Mapping[str, datasets.Dataset], column: str, image_size: int | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Decodes the images of splits.

    Args:
        splits: The splits by name.
        column: Column of the images.
        image_size: Height and width in pixels to resize images to; None: all must have one size.

    Returns:
        The images of each split, uint8 (examples, channels, height, width), with one channel if all are grey, else RGB;
        and notes on what was converted.

    Raises:
        TaskError: If an image cannot be decoded (the message names its split and index), or the sizes differ.
    """
    kinds: Counter[str] = Counter()
    decoded = {name: _decode(split, column, image_size, name, kinds) for name, split in splits.items()}
    notes = [_CONVERSIONS[kind].format(_counted(n, "image")) for kind, n in kinds.items() if kind in _CONVERSIONS]
    if any(images.shape[1] == 3 for images in decoded.values()):
        decoded = {name: coloured(images, axis=1) for name, images in decoded.items()}
        if kinds[_GREY]:
            notes.append(f"Grey images that were given three equal channels: {kinds[_GREY]:,}.")
    shapes = {name: images.shape[1:] for name, images in decoded.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise TaskError(f"The splits hold images of different shapes ({listed}): give --image_size to make them equal.")
    return decoded, notes


def coloured(images: np.ndarray, axis: int) -> np.ndarray:
    """Images with three channels along ``axis``: the single channel of grey ones is repeated."""
    return images if images.shape[axis] == 3 else np.repeat(images, 3, axis=axis)


def _decode(
    split: datasets.Dataset, column: str, image_size: int | None, split_name: str, kinds: Counter[str]
) -> np.ndarray:
    """Decodes all images of a split; ``kinds`` counts the properties that notes mention."""
    if len(split) == 0:
        raise TaskError(f"Split {split_name} holds no example: expected labelled images.")
    if image_size is not None and image_size < 1:
        raise TaskError(f"--image_size must be at least 1, got {image_size}.")
    try:
        encoded = split.cast_column(column, datasets.Image(decode=False))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TaskError(
            f"Column {column!r} does not hold images ({root_message(error)}): name one that does with "
            "--image_column_name."
        ) from error
    pictures = _pictures(encoded, column, split_name, kinds)
    first = next(pictures)
    width, height = first.size if image_size is None else (image_size, image_size)
    shape = (len(split), height, width, len(first.getbands()))
    if math.prod(shape) > _memory():
        raise TaskError(
            f"{len(split):,} images of {width}x{height} pixels do not fit in memory: choose a smaller --image_size, "
            "or give fewer images."
        )
    decoded = np.empty(shape, dtype=np.uint8)
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


def _pictures(split: datasets.Dataset, column: str, split_name: str, kinds: Counter[str]) -> Iterator[Image.Image]:
    """Decodes the images of a split one by one: upright, in mode L if they are grey, else RGB."""
    for index, cell in enumerate(split[column]):
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise TaskError(f"Image {index} of split {split_name} is missing: supply it or remove the example.")
        try:
            with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as image:
                kinds.update(_kinds(image))
                picture = _eight_bit(ImageOps.exif_transpose(image))
        except Exception as error:  # decoders of damaged or hostile files raise whatever they stumble over
            raise TaskError(
                f"Image {index} of split {split_name} cannot be decoded ({_file_name(cell)}{root_message(error)}): "
                "replace or remove it."
            ) from error
        yield picture


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number > 1 else ''}"


def _memory() -> int:
    """Physical memory of the machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _file_name(cell: Mapping[str, Any]) -> str:
    name = str(cell["path"] or "").replace("\\", "/").rpartition("/")[2]
    return f"{name}: " if name else ""


def _kinds(image: Image.Image) -> list[str]:
    """The properties of an image that notes mention."""
    deep = image.mode.startswith("I;16")
    kinds = {
        _ALPHA: image.has_transparency_data,
        _DEEP: deep,
        _FRAMES: getattr(image, "is_animated", False),
        _GREY: deep or image.mode in ("1", "L", "LA"),
    }
    return [kind for kind, holds in kinds.items() if holds]


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB. Pillow would clip deeper pixels to 255 rather than scale them."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels of mode {image.mode} have no known range")
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
