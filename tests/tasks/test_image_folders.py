"""Claims about folders of images: what is a class, what a split, what is left out, and what cannot be decoded."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image, features

from hf_critmom.commands import main
from hf_critmom.tasks import DataArguments, ImageTask, TaskError, load_task
from hf_critmom.tasks.image_folders import read_image_folder, read_split_folders
from hf_critmom.tasks.provenance import check_disjoint


def write(folder: Path, count: int = 12, *, seed: int = 0, suffix: str = ".png") -> Path:
    """Some images in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng([seed, len(str(folder))]).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{seed}-{index:02d}{suffix}")
    return folder


def classes(folder: Path, *names: str, seed: int = 0, count: int = 12) -> Path:
    """A folder per class, with images of their own."""
    for number, name in enumerate(names or ("cat", "dog")):
        write(folder / name, count, seed=100 * seed + number)
    return folder


def task_of(**flags: Any) -> ImageTask:
    task = load_task(DataArguments(**{name: str(value) for name, value in flags.items()}))
    assert isinstance(task, ImageTask)
    return task


def error_of(**flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        task_of(**flags)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def noted(task: ImageTask, *words: str) -> bool:
    return any(all(word in note for word in words) for note in task.notes)


# -------------------------------------------------------------------------------------------- as datasets reads them


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp", ".bmp"])
def test_a_split_is_what_datasets_makes_of_the_folder(tmp_path: Path, suffix: str) -> None:
    for name in ("b", "a a", "Z"):
        write(tmp_path / name, 3, seed=len(name), suffix=suffix)
    ours, notes = read_image_folder(tmp_path)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path))["train"]
    assert notes == [] and ours["train"].features == theirs.features
    assert ours["train"]["label"] == theirs["label"]
    assert [np.asarray(image).tolist() for image in ours["train"]["image"]] == [
        np.asarray(image).tolist() for image in theirs["image"]
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_metadata_is_what_datasets_makes_of_it(tmp_path: Path, form: str) -> None:
    write(tmp_path / "train", 6)
    names = sorted(file.name for file in (tmp_path / "train").iterdir())[::-1]
    table = pd.DataFrame({"file_name": names, "label": ["x", "y"] * 3, "number": range(6)})
    writers: dict[str, Callable[[Path], Any]] = {
        "csv": lambda file: table.to_csv(file, index=False),
        "jsonl": lambda file: table.to_json(file, orient="records", lines=True),
        "parquet": lambda file: table.to_parquet(file, index=False),
    }
    writers[form](tmp_path / "train" / f"metadata.{form}")
    ours, notes = read_split_folders({"train": tmp_path / "train"})
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path))["train"]
    assert notes == [] and set(ours["train"].column_names) == set(theirs.column_names)
    for column in ("label", "number", "image"):
        assert [np.asarray(value).tolist() for value in ours["train"][column]] == [
            np.asarray(value).tolist() for value in theirs[column]
        ]


def test_metadata_without_labels_or_of_several_types_is_refused(tmp_path: Path) -> None:
    for name, labels in (("first", "0"), ("second", "cat"), ("third", None)):
        write(tmp_path / name, 12, seed=1)
        rows = {"file_name": sorted(file.name for file in (tmp_path / name).iterdir())}
        pd.DataFrame({**rows, **({"label": labels} if labels else {})}).to_csv(
            tmp_path / name / "metadata.csv", index=False
        )
    assert "do not fit together" in error_of(train_dir=tmp_path)
    assert "no column that could hold the labels" in error_of(train_dir=tmp_path / "third")


# ------------------------------------------------------------------------------------------------- classes and splits


@pytest.mark.parametrize("wrapped", ["", "data", "data/images"])
@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("Train", "VAL", "Test"), ("my-train", "dev", "eval 2")]
)
def test_folders_of_splits_are_known_by_their_words(tmp_path: Path, wrapped: str, names: tuple[str, ...]) -> None:
    for seed, name in enumerate(names):
        classes(tmp_path / wrapped / name, seed=seed, count=seed + 3)
    task = task_of(task=tmp_path)
    assert [len(split) for split in task.splits.values()] == [6, 8, 10]
    assert task.label_names == ("cat", "dog") and task.notes == ()


def test_a_folder_around_the_classes_is_passed_through(tmp_path: Path) -> None:
    classes(tmp_path / "archive" / "images")
    for flag in ("task", "train_dir"):
        assert task_of(**{flag: tmp_path}).label_names == ("cat", "dog")


def test_nested_folders_of_classes_are_refused(tmp_path: Path) -> None:
    classes(tmp_path / "a", "2019", "2020")
    classes(tmp_path / "b", "2019", "2021")
    for flag in ("task", "train_dir"):
        message = error_of(**{flag: tmp_path})
        assert "48 images" in message and "a/2019/" in message and "one folder per class" in message


def test_one_nested_image_is_not_a_class_of_its_own(tmp_path: Path) -> None:
    classes(tmp_path)
    write(tmp_path / "cat" / "more", 1)
    assert "1 image in" in error_of(task=tmp_path)


def test_splits_given_as_the_training_folder_are_not_mixed(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test", seed=1)
    message = error_of(train_dir=tmp_path)
    assert "holds the splits test, train" in message and "--task" in message
    assert len(task_of(task=tmp_path).test) == 24


@pytest.mark.parametrize("name", ["train", "test", "val", "dev board"])
def test_classes_that_are_called_like_splits_are_not_lost(tmp_path: Path, name: str) -> None:
    classes(tmp_path, name, "bicycle", "car")
    message = error_of(task=tmp_path)
    assert f"--train_dir {tmp_path}" in message and "bicycle, car" in message
    assert task_of(train_dir=tmp_path).label_names == tuple(sorted((name, "bicycle", "car")))


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "validation")):
        classes(tmp_path / name, seed=seed)
    assert "val and validation" in error_of(task=tmp_path)


def test_a_folder_without_training_split_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "test")
    assert "no split named train, only test" in error_of(task=tmp_path)


def test_images_outside_of_splits_and_classes_are_counted(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test", seed=1)
    classes(tmp_path / "extra", seed=2)
    write(tmp_path, 2, seed=3)
    write(tmp_path / "train", 5, seed=4)
    (tmp_path / "train" / "fox").mkdir()
    task = task_of(task=tmp_path)
    assert noted(task, "26 images in no split's folder", "extra")
    assert noted(task, "5 images of folder train outside its class folders")
    assert noted(task, "it holds no image: folder fox")
    assert len(task.train) + len(task.validation) == 24


def test_other_files_are_counted_by_their_endings(tmp_path: Path) -> None:
    classes(tmp_path)
    for name in ("notes.txt", "cat/a.xml", "cat/b.XML", "dog/a", "README.md", "LICENSE", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_text("")
    assert noted(task_of(task=tmp_path), "4 other files", ".xml: 2", ".txt: 1", "no ending: 1")


@pytest.mark.parametrize("flag", ["task", "train_dir"])
@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".cr2", ".svg"])
def test_images_that_cannot_be_read_are_not_dropped(tmp_path: Path, flag: str, suffix: str) -> None:
    classes(tmp_path)
    (tmp_path / "cat" / f"photo{suffix}").write_bytes(b"\0\0\0 ftypheic")
    message = error_of(**{flag: tmp_path})
    assert "1 image" in message and suffix.lower() in message and "convert" in message
    for file in tmp_path.glob("*/*.png"):
        file.unlink()
    assert "convert" in error_of(**{flag: tmp_path})


def test_links_are_followed_and_dead_ones_refused(tmp_path: Path) -> None:
    store = classes(tmp_path / "store", "cat", "dog", "fox")
    data = tmp_path / "data"
    (data / "dog").mkdir(parents=True)
    (data / "cat").symlink_to(store / "cat")
    for file in (store / "dog").iterdir():
        (data / "dog" / file.name).symlink_to(file)
    (data / "cat" / "back").symlink_to(data)
    task = task_of(task=data)
    assert sum(map(len, task.splits.values())) == 24 and task.label_names == ("cat", "dog")
    (data / "dog" / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert "1 link" in (message := error_of(task=data)) and "gone.png" in message


def test_a_folder_of_archives_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK\5\6" + bytes(18))
    message = error_of(train_dir=tmp_path)
    assert ".zip" in message and "unpack" in message


# ------------------------------------------------------------------------------------------------------------ classes


def no_labels_but(folder: Path, labels: list[Any]) -> Path:
    """A folder of Parquet whose label column holds these."""
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 6, 3), dtype=np.uint8)
    table = datasets.Dataset.from_dict({"image": [Image.fromarray(image) for image in images], "label": labels})
    folder.mkdir(exist_ok=True)
    table.cast_column("image", datasets.Image()).to_parquet(folder / "train.parquet")
    return folder


def test_one_class_is_refused_on_every_path(tmp_path: Path) -> None:
    one = classes(tmp_path / "one", "cat")
    for flag in ("task", "train_dir", "dataset_name"):
        assert "class cat: a classifier needs at least two" in error_of(**{flag: one})
    assert "class cat" in error_of(task=no_labels_but(tmp_path / "table", ["cat"] * 24))
    pd.DataFrame({"file_name": [f"cat/{file.name}" for file in (one / "cat").iterdir()], "label": "x"}).to_csv(
        one / "metadata.csv", index=False
    )
    assert "class x" in error_of(task=one)
    both = classes(tmp_path / "both")
    with pytest.raises(TaskError, match="All 1 training images are of class"):
        load_task(DataArguments(task=str(both), max_train_samples=1))
    with pytest.raises(TaskError, match="All 1 training images are of class"):
        load_task(DataArguments(max_train_samples=1))


def test_classes_of_held_out_splits_alone_are_said(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "val", "cat", "dog", "owl", seed=1)
    classes(tmp_path / "test", "cat", "fox", seed=2)
    task = task_of(task=tmp_path)
    assert task.label_names == ("cat", "dog", "fox", "owl")
    assert noted(task, "validation split has 12 images of classes", "owl")
    assert noted(task, "test split has 12 images of classes", "fox")


def test_classes_of_no_split_are_said(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["cat", "dog", "yeti"])
    table = datasets.load_dataset("parquet", data_files=str(no_labels_but(tmp_path, [0, 1] * 12) / "train.parquet"))
    table["train"].cast_column("label", names).to_parquet(tmp_path / "train.parquet")
    assert noted(task_of(task=tmp_path), "No split has an image of class yeti")


@pytest.mark.parametrize(
    "labels", [["cat", "dog"] * 12, [3, 7] * 12, [True, False] * 12], ids=["strings", "ints", "booleans"]
)
def test_a_column_called_label_is_recognised(tmp_path: Path, labels: list[Any]) -> None:
    task = task_of(task=no_labels_but(tmp_path, labels))
    assert task.label_names == tuple(sorted({str(label) for label in labels}))


def test_a_column_called_label_of_numbers_with_fractions_is_not(tmp_path: Path) -> None:
    assert "no column that could hold the labels" in error_of(task=no_labels_but(tmp_path, [0.5, 1.5] * 12))


# ----------------------------------------------------------------------------------------------------------- metadata


def listed(folder: Path, **columns: Any) -> Path:
    """A folder whose metadata lists its images."""
    write(folder, 24)
    names = sorted(file.name for file in folder.glob("*.png"))
    table = {"file_name": names, "label": ["x", "y"] * 12, **columns}
    pd.DataFrame(table).to_csv(folder / "metadata.csv", index=False)
    return folder


def test_files_that_the_metadata_does_not_list_are_counted(tmp_path: Path) -> None:
    write(listed(tmp_path), 3, seed=5)
    task = task_of(task=tmp_path)
    assert noted(task, "3 images", "metadata does not list", "5-00.png")
    assert sum(map(len, task.splits.values())) == 24


def test_files_that_only_the_metadata_lists_are_refused(tmp_path: Path) -> None:
    listed(tmp_path)
    for name in ("0-03.png", "0-04.png"):
        (tmp_path / name).unlink()
    message = error_of(task=tmp_path)
    assert "lists 2 images that do not exist (such as 0-03.png)" in message


def test_metadata_without_file_names_or_labels_is_refused(tmp_path: Path) -> None:
    listed(tmp_path / "a")
    pd.DataFrame({"name": ["x"]}).to_csv(tmp_path / "a" / "metadata.csv", index=False)
    assert "no column file_name, only name" in error_of(task=tmp_path / "a")
    listed(tmp_path / "b")
    pd.DataFrame({"file_name": ["0-00.png"], "size": [1.5]}).to_csv(tmp_path / "b" / "metadata.csv", index=False)
    assert "--label_column_name" in error_of(task=tmp_path / "b")


def test_two_lists_of_one_folder_and_lists_of_some_splits_are_refused(tmp_path: Path) -> None:
    listed(tmp_path / "train")
    classes(tmp_path / "test", "x", "y", seed=1)
    assert "no metadata" in error_of(task=tmp_path)
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "0-00.png", "label": "x"}\n')
    assert "keep one" in error_of(train_dir=tmp_path / "train")


def test_metadata_beside_the_splits_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/cat/0-00.png,x\n")
    assert "put a table of its own into each" in error_of(task=tmp_path)


# ----------------------------------------------------------------------------------------------------------- overlaps


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_split_of_training_images_is_refused_with_the_counts(tmp_path: Path, split: str) -> None:
    folder = classes(tmp_path / "all")
    message = error_of(train_dir=folder, **{f"{split}_dir": folder})
    assert f"24 of the 24 {split} images are also in the training split" in message


def test_a_few_copies_are_noted_and_many_refused(tmp_path: Path) -> None:
    train, test = classes(tmp_path / "train"), classes(tmp_path / "test", seed=1)
    held_out = classes(tmp_path / "val", seed=2)
    copies = sorted((train / "cat").iterdir())
    (test / "cat" / "copy.png").write_bytes(copies[0].read_bytes())
    (held_out / "cat" / "copy.png").write_bytes((test / "cat" / "copy.png").read_bytes())
    task = task_of(task=tmp_path)
    assert noted(task, "1 of the 25 test images is also in the training split")
    assert noted(task, "1 of the 25 validation images is also in the training split")
    assert noted(task, "1 of the 25 test images is also in the validation split")
    for number in (1, 2):
        (test / "dog" / f"copy-{number}.png").write_bytes(copies[number].read_bytes())
    assert "3 of the 27 test images are also in the training split (24 images)" in error_of(task=tmp_path)


def test_copies_of_an_image_stay_together_where_splits_are_made(tmp_path: Path) -> None:
    folder = classes(tmp_path)
    for number, file in enumerate(sorted(folder.glob("*/*.png"))):
        for copy in range(number % 3):
            file.with_stem(f"{file.stem}-copy-{copy}").write_bytes(file.read_bytes())
    for seed in range(5):
        task = load_task(DataArguments(task=str(folder), train_val_split=0.3, split_seed=seed))
        assert check_disjoint(task.splits).compared == ("train", "validation", "test")
        assert sum(map(len, task.splits.values())) == len([*folder.glob("*/*.png")])


# ----------------------------------------------------------------------------------------------------- what is damaged


def encoded(form: str, size: int = 16, **options: Any) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def flipped(content: bytes, places: range) -> bytes:
    changed = bytearray(content)
    for place in places:
        changed[place % len(changed)] ^= 0xFF
    return bytes(changed)


DAMAGED: dict[str, bytes] = {
    "bomb.png": bomb(),
    "truncated.png": encoded("PNG")[:200],
    "truncated.jpg": encoded("JPEG")[:120],
    "truncated.gif": encoded("GIF")[:60],
    "truncated.tiff": encoded("TIFF")[:-300],
    "truncated.webp": encoded("WEBP")[:50],
    "truncated.bmp": encoded("BMP")[:100],
    "damaged.dds": flipped(encoded("DDS"), range(76, 100)),
    "short.dds": b"DDS \x7c" + bytes(20),
    "damaged.blp": b"BLP2" + struct.pack("<i", 1) + bytes(range(200)),
    "empty.png": b"",
    "text.jpg": b"this is no image",
    "html.png": b"<html><body>404 Not Found</body></html>",
    "huge.ppm": b"P6 999999 999999 255\n",
    "odd.ico": b"\0\0\1\0\1\0" + bytes(range(64)),
    "odd.psd": b"8BPS\0\1" + bytes(60),
    "odd.tga": bytes(range(200, 230)),
    "float.tiff": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_an_image_that_cannot_be_decoded_is_named_by_split_and_index(tmp_path: Path, name: str) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test", seed=1)
    (tmp_path / "test" / "dog" / f"zz-{name}").write_bytes(DAMAGED[name])
    if name == "float.tiff":
        Image.fromarray(np.ones((6, 6), np.float32)).save(tmp_path / "test" / "dog" / f"zz-{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = error_of(task=tmp_path)
    assert f"Image 24 of split test cannot be decoded (zz-{name}: " in message


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_named_by_split_and_index(tmp_path: Path) -> None:
    classes(tmp_path)
    for damaged in (encoded("AVIF")[:80], flipped(encoded("AVIF"), range(30, 90))):
        (tmp_path / "dog" / "zz.avif").write_bytes(damaged)
        assert "Image 24 of split train cannot be decoded" in error_of(task=tmp_path)


def test_images_with_several_frames_are_noted(tmp_path: Path) -> None:
    classes(tmp_path)
    frames = [Image.fromarray(np.full((6, 6, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "cat" / "film.gif", save_all=True, append_images=frames[1:])
    assert noted(task_of(task=tmp_path), "Only the first frame of 1 image with several frames is used")


def test_a_command_answers_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes(tmp_path / "data")
    (tmp_path / "data" / "cat" / "0-00.png").write_bytes(bomb())
    assert main(("compare", "--task", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"))) == 2
    assert "Image 0 of split train" in (shown := capsys.readouterr().err) and shown.count("\n") == 1
    assert not (tmp_path / "out").exists()
