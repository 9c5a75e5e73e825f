"""Small images, folders and tables of them, for tests of tasks."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_critmom.tasks import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DataArguments,
    TaskError,
    load_task,
)
from hf_critmom.tasks.images import ImageDataset

CLASSES = ("cat", "dog", "frog")


def resnet(**options: Any) -> CifarResNetForImageClassification:
    return CifarResNetForImageClassification(CifarResNetConfig(**{"num_labels": 10, **options}))


def random_images(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def picture(image: np.ndarray) -> Image.Image:
    """(channels, height, width) as a PIL image: grey, RGB or RGBA."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def write_folder(folder: Path, images: np.ndarray, labels: np.ndarray, suffixes: tuple[str, ...] = (".png",)) -> Path:
    """An image folder with a subfolder per class, file formats taken in turn."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        picture(image).save(folder / CLASSES[label] / f"{index:04d}{suffixes[index % len(suffixes)]}")
    return folder


def write_parquet(folder: Path, splits: dict[str, tuple[np.ndarray, Any]], label: Any = None) -> Path:
    """A folder laid out like the one of scripts/fetch_cifar10.py: data/SPLIT-00000-of-00001.parquet."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = {"img": datasets.Image(), "label": label or datasets.ClassLabel(names=list(CLASSES))}
    for name, (images, labels) in splits.items():
        columns = {"img": [picture(image) for image in images], "label": list(labels)}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        table.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def labels_in_turn(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % len(CLASSES)


def contents(split: ImageDataset) -> set[bytes]:
    return {image.tobytes() for image in split.images}


def error_of(**flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(DataArguments(**flags))
    return one_sentence(caught.value)


def one_sentence(error: Exception) -> str:
    message = str(error)
    assert "\n" not in message and message.endswith("."), message
    return message
