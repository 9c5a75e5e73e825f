"""Claims about paths: what is named is what is read, whatever characters it has."""

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_critmom.tasks import DataArguments, TaskError, load_task
from hf_critmom.tasks.paths import files_below, is_pattern, literal_path

NAMES = ["v[2]", "v[!1]", "v*", "{v2,v}", "v::2", "v2 #%20&", "v\\2", "~v"]
DECOYS = ["v2", "v", "va", "vv"]
"""Names that are beside them, and that some of them match as patterns."""

any_name = pytest.mark.parametrize("name", NAMES)


def pictures(seed: int, count: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6), dtype=np.uint8)


def write_images(folder: Path, seed: int) -> set[bytes]:
    """A folder of images of two classes; returns what the images hold."""
    images = pictures(seed)
    for index, image in enumerate(images):
        (folder / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "ab"[index % 2] / f"{index:02d}.png")
    return {image.tobytes() for image in images}


def write_table(file: Path, seed: int) -> set[bytes]:
    """The same in a Parquet file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = pictures(seed)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [Image.fromarray(image) for image in images], "label": [0, 1] * (len(images) // 2)}
    write_parquet(datasets.Dataset.from_dict(columns, features=features), file)
    return {image.tobytes() for image in images}


def write_parquet(dataset: datasets.Dataset, file: Path) -> None:
    with file.open("wb") as stream:  # by its path, datasets would take the name for an address
        dataset.to_parquet(stream)


def write_text(file: Path, word: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [" ".join([word] * 40 + [str(number)]) for number in range(30)]
    if file.suffix == ".jsonl":
        file.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    elif file.suffix in (".csv", ".TSV"):
        file.write_text("text\n" + "".join(f"{text}\n" for text in texts))
    elif file.suffix == ".parquet":
        write_parquet(datasets.Dataset.from_dict({"text": texts}), file)
    else:
        file.write_text("\n".join(texts))


def text_of(task: Any) -> str:
    tokens = np.concatenate([split.blocks.ravel() for split in task.splits.values()])
    return bytes(int(token) - 3 for token in tokens if token > 2).decode()


def images_of(task: Any) -> set[bytes]:
    return {image.tobytes() for split in task.splits.values() for image in split.images}


def here(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Goes to a folder, as names such as ``-v`` and ``~v`` are relative ones."""
    patch.chdir(folder)


@any_name
@pytest.mark.parametrize("flag", ["train_dir", "dataset_name", "task"])
def test_a_folder_of_images_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, flag: str
) -> None:
    here(tmp_path, monkeypatch)
    for seed, decoy in enumerate(DECOYS):
        write_images(Path(decoy), seed)
    expected = write_images(Path(name), 9)
    task = load_task(DataArguments(**{flag: name}))
    assert images_of(task) == expected
    assert (task.name, task.source) == (name, f"local folder {name}")


@any_name
def test_folders_of_splits_are_the_ones_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here(tmp_path, monkeypatch)
    for seed, decoy in enumerate(DECOYS):
        write_images(Path(decoy) / "test", seed)
    write_images(tmp_path / "plain", 7)
    expected = write_images(Path(name) / "test", 9)
    task = load_task(DataArguments(train_dir="plain", test_dir=str(Path(name) / "test")))
    assert {image.tobytes() for image in task.test.images} == expected


@any_name
def test_a_folder_of_tables_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here(tmp_path, monkeypatch)
    for seed, decoy in enumerate(DECOYS):
        write_table(Path(decoy) / "data" / "train-00000-of-00001.parquet", seed)
    expected = write_table(Path(name) / "data" / "train-00000-of-00001.parquet", 9)
    assert images_of(load_task(DataArguments(task=name))) == expected


@any_name
def test_a_folder_of_texts_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    here(tmp_path, monkeypatch)
    for decoy in DECOYS:
        write_text(Path(decoy) / "a.txt", "decoy")
    write_text(Path(name) / "a.txt", "right")
    text = text_of(load_task(DataArguments(task="text", dataset_name=name, block_size=32)))
    assert "right" in text and "decoy" not in text


@any_name
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet", ".TSV"])
def test_a_file_of_text_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    here(tmp_path, monkeypatch)
    for decoy in DECOYS:
        write_text(Path(decoy + suffix), "decoy")
        write_text(Path(decoy) / f"b{suffix}", "decoy")
    write_text(Path(name + suffix), "right")
    write_text(Path(name) / f"b{suffix}", "right")
    for file in (name + suffix, f"{name}/b{suffix}"):
        text = text_of(load_task(DataArguments(train_file=file, block_size=32)))
        assert "right" in text and "decoy" not in text


@pytest.mark.parametrize("flag", ["train_file", "validation_file", "test_file"])
@pytest.mark.parametrize("pattern", ["*.jsonl", "data[1].jsonl", "dat?1.jsonl", "{data1,x}.jsonl"])
def test_a_pattern_of_files_that_is_no_file_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, pattern: str
) -> None:
    here(tmp_path, monkeypatch)
    write_text(Path("data1.jsonl"), "decoy")
    write_text(Path("plain.txt"), "plain")
    with pytest.raises(TaskError) as caught:
        load_task(DataArguments(**{"train_file": "plain.txt", flag: pattern}))
    assert f"There is no file {pattern}" in str(caught.value)


@pytest.mark.parametrize("flag", ["train_dir", "validation_dir", "test_dir", "dataset_name", "task"])
@pytest.mark.parametrize("pattern", ["v[2]", "?2", "{v2,x}"])
def test_a_pattern_of_folders_that_is_no_folder_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, pattern: str
) -> None:
    here(tmp_path, monkeypatch)
    write_images(Path("v2"), 0)
    flags = {flag: pattern} if flag in ("dataset_name", "task") else {"train_dir": "v2", flag: pattern}
    with pytest.raises(TaskError) as caught:
        load_task(DataArguments(**flags))
    assert f"There is no folder {pattern}" in str(caught.value)


@pytest.mark.parametrize("name", ["json", "csv", "parquet", "imagefolder", "text"])
@pytest.mark.parametrize("flag", ["dataset_name", "task"])
def test_the_name_of_a_reader_does_not_read_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, flag: str
) -> None:
    here(tmp_path, monkeypatch)
    write_images(Path("ours"), 0)
    for suffix in ("jsonl", "csv", "parquet", "txt"):
        write_text(Path(f"private.{suffix}"), "secret")
    if (flag, name) == ("task", "text"):
        return  # a task of our own
    flags = {"task": "text", "dataset_name": name} if flag == "dataset_name" else {"task": name}
    for more in ({}, {"text_column_name": "text"}):
        with pytest.raises(TaskError, match=r"a reader|no column|No "):
            load_task(DataArguments(**flags, **more))


def test_a_folder_called_like_a_reader_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(tmp_path, monkeypatch)
    write_text(Path("decoy.csv"), "decoy")
    write_text(Path("csv") / "a.csv", "right")
    text = text_of(load_task(DataArguments(task="text", dataset_name="csv", block_size=32)))
    assert "right" in text and "decoy" not in text


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "x")
    with pytest.raises(TaskError, match="is a file: expected a folder"):
        load_task(DataArguments(task=str(tmp_path / "a.csv")))


def test_a_literal_path_is_the_path_itself_where_nothing_could_be_expanded(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "v[2]").mkdir()
    (tmp_path / "v[2]" / "a").write_text("right")
    (tmp_path / "link").symlink_to(tmp_path / "v[2]")
    with literal_path(tmp_path / "plain") as path:
        assert path == (tmp_path / "plain").resolve()
    for name in ("v[2]", "link"):
        with literal_path(tmp_path / name) as path:
            assert not is_pattern(path) and (path / "a").read_text() == "right"
        assert not path.exists() and (tmp_path / "v[2]" / "a").exists()


def test_a_folder_for_temporary_files_that_is_a_pattern_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp[1]").mkdir()
    (tmp_path / "v*").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp[1]"))
    with pytest.raises(TaskError, match="TMPDIR"), literal_path(tmp_path / "v*"):
        pass


def test_files_below_a_folder_are_sorted_and_links_followed_once(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "b.x", ".hidden/3", "__pycache__/4", "b/.5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "b")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    found = files_below(tmp_path)
    names = [str(file.relative_to(tmp_path)) for file in found.files]
    assert names == sorted(names) and set(names) >= {"a", "b.x", "b/1", "b/2", "again/1", "again/2"}
    assert not any("hidden" in name or "__" in name or ".5" in name for name in names)
    assert [link.name for link in found.broken] == ["gone"]
    assert len(names) < 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "x", 0)
    (tmp_path / "x" / "a").chmod(0)
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(DataArguments(train_dir=str(tmp_path / "x")))
