"""Claims about images that cannot be used."""

import io
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers.image_data import (
    CLASSES,
    contents,
    error_of,
    labels_in_turn,
    picture,
    random_images,
    write_folder,
    write_parquet,
)

from hf_critmom.tasks import (
    DataArguments,
    load_task,
)

# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("flag", ["task", "dataset_name", "train_dir"])
def test_a_missing_folder_is_named(tmp_path: Path, flag: str) -> None:
    missing = str(tmp_path / "nothing")
    assert missing in error_of(**{flag: missing})


def test_a_validation_folder_alone_is_not_quietly_ignored(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path, random_images(9), labels_in_turn(9)))
    for flag in ("validation_dir", "test_dir"):
        assert "--train_dir" in error_of(**{flag: folder})


def test_a_data_set_and_image_folders_exclude_each_other(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path, random_images(9), labels_in_turn(9)))
    assert "--dataset_name" in error_of(dataset_name=folder, train_dir=folder)


def test_flags_that_the_digits_cannot_follow_are_not_quietly_ignored() -> None:
    for flag, value in (("image_size", 16), ("image_column_name", "img"), ("dataset_config_name", "plain")):
        assert f"--{flag}" in error_of(**{flag: value})


def test_a_folder_that_is_no_data_set_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in error_of(task=str(tmp_path))  # empty
    (tmp_path / "program.xyz").write_text("nothing to see")
    assert str(tmp_path) in error_of(task=str(tmp_path))


def test_a_table_without_images_is_refused_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("length,width\n1,2\n3,4\n")
    message = error_of(task=str(tmp_path))
    assert "image" in message and "length, width" in message and "--image_column_name" in message


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    for index, image in enumerate(random_images(5)):
        picture(image).save(tmp_path / f"{index}.png")
    message = error_of(task=str(tmp_path))
    assert str(tmp_path) in message and "5 images and no class folder" in message
    assert "one subfolder per class" in message and "metadata.csv" in message
    assert "no column that could hold the labels" in message and "--label_column_name" in message


def test_a_data_set_without_a_training_split_is_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"test": (random_images(6), labels_in_turn(6))})
    message = error_of(task=str(folder))
    assert "no split named train, only test" in message


def test_an_unknown_column_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"train": (random_images(30), labels_in_turn(30))})
    for flag in ("image_column_name", "label_column_name"):
        message = error_of(task=str(folder), **{flag: "colour"})
        assert "'colour'" in message and "img, label" in message


def test_columns_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "swapped", {"train": (random_images(30), labels_in_turn(30))})
    assert "'label'" in error_of(task=str(folder), image_column_name="label")
    assert "'img'" in error_of(task=str(folder), label_column_name="img")
    folder = write_parquet(tmp_path / "real", {"train": (random_images(3), [0.5, 1.0, 2.0])}, datasets.Value("float32"))
    assert "class labels" in error_of(task=str(folder), label_column_name="label")


def test_a_corrupt_image_is_named_by_its_place(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    file = folder / "dog" / "0001.png"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"this is no image"):
        file.write_bytes(damaged)
        message = error_of(task=str(folder))
        assert "Image 10 of split train cannot be decoded (0001.png: " in message  # after the ten of class cat
        assert "buffer" not in message


def test_a_missing_image_is_named_by_its_place(tmp_path: Path) -> None:
    pictures = [{"bytes": png(image), "path": None} for image in random_images(4)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    table = datasets.Dataset.from_dict({"img": [*pictures[:2], None], "label": [0, 1, 2]}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    assert "Image 2 of split train" in error_of(task=str(tmp_path))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    picture(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"train": (random_images(30), labels_in_turn(30))})
    file = next(folder.glob("data/*.parquet"))
    file.write_bytes(file.read_bytes()[:-200])
    assert str(folder) in error_of(task=str(folder))


def test_images_of_different_sizes_need_image_size(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    picture(random_images(1, size=9)[0]).save(folder / "frog" / "9999.png")
    message = error_of(task=str(folder))
    assert "9x9" in message and "8x8" in message and "--image_size" in message
    assert load_task(DataArguments(task=str(folder), image_size=8)).image_shape == (3, 8, 8)


def test_splits_of_different_sizes_need_image_size(tmp_path: Path) -> None:
    splits = {
        "train": (random_images(30), labels_in_turn(30)),
        "test": (random_images(6, size=10), labels_in_turn(6)),
    }
    folder = write_parquet(tmp_path, splits)
    message = error_of(task=str(folder))
    assert "train 3x8x8" in message and "test 3x10x10" in message and "--image_size" in message
    assert load_task(DataArguments(task=str(folder), image_size=8)).test.images.shape[1:] == (3, 8, 8)


def test_a_missing_or_impossible_label_is_named_by_its_place(tmp_path: Path) -> None:
    labels: list[Any] = labels_in_turn(30).tolist()
    labels[11] = None
    folder = write_parquet(tmp_path / "missing", {"train": (random_images(30), labels)})
    assert "Example 11 of split train has label None" in error_of(task=str(folder))
    labels[11] = -1
    folder = write_parquet(tmp_path / "hidden", {"train": (random_images(30), labels)})
    assert "Example 11 of split train has label -1" in error_of(task=str(folder))
    splits = {"train": (random_images(6), labels_in_turn(6)), "test": (random_images(2), [0, 7])}
    folder = write_parquet(tmp_path / "unseen", splits, datasets.Value("int64"))
    message = error_of(task=str(folder), label_column_name="label")
    assert "Example 1 of split test has label 7" in message


@pytest.mark.parametrize("label", [None, datasets.Value("int64")])
def test_a_split_that_was_published_without_labels_is_left_out_with_a_note(tmp_path: Path, label: Any) -> None:
    splits = {"train": (random_images(60), labels_in_turn(60)), "test": (random_images(9, seed=1), [-1] * 9)}
    task = load_task(DataArguments(task=str(write_parquet(tmp_path / "hidden", splits, label))))
    assert "Not used: split test (9 examples), which has no labels." in task.notes
    assert len(task.test) == 6 and contents(task.test) < {image.tobytes() for image in splits["train"][0]}
    splits["test"] = (random_images(9, seed=1), [*[-1] * 8, 0])
    message = error_of(task=str(write_parquet(tmp_path / "some", splits, label)))
    assert "Example 0 of split test has label -1" in message


def test_an_empty_cell_is_a_missing_label_and_not_a_class(tmp_path: Path) -> None:
    folder = write_parquet(
        tmp_path, {"train": (random_images(6), ["cat", "", "dog", "cat", "dog", "dog"])}, datasets.Value("string")
    )
    assert "Example 1 of split train has label ''" in error_of(task=str(folder))


def test_too_few_examples_to_split_are_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, {"train": (random_images(3), labels_in_turn(3))})
    assert "too few examples (3)" in error_of(task=str(folder))
    copies = write_parquet(
        tmp_path / "copies", {"train": (np.repeat(random_images(1), 30, axis=0), labels_in_turn(30))}
    )
    assert "too few examples (30, 1 without copies)" in error_of(task=str(copies))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    splits = {"train": (random_images(30), labels_in_turn(30)), "test": (random_images(0), [])}
    assert "test" in error_of(task=str(write_parquet(tmp_path, splits)))


@pytest.mark.parametrize("padding", [-1, 8, 100])
def test_a_crop_padding_beyond_the_image_is_refused(padding: int) -> None:
    message = error_of(crop_padding=padding)
    assert "--crop_padding" in message and str(padding) in message


@pytest.mark.parametrize("share", [0.0, 0.5, -0.1, math.nan])
def test_an_impossible_share_is_refused(share: float) -> None:
    assert "--train_val_split" in error_of(train_val_split=share)


@pytest.mark.parametrize("flag", ["max_train_samples", "max_eval_samples"])
@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_below_one_is_refused(flag: str, limit: int) -> None:
    assert f"--{flag} must be at least 1, got {limit}" in error_of(**{flag: limit})


@pytest.mark.parametrize("size", [0, -8])
def test_an_image_size_below_one_is_refused(tmp_path: Path, size: int) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    assert f"--image_size must be at least 1, got {size}" in error_of(task=str(folder), image_size=size)
