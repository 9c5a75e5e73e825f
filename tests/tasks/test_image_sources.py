"""Claims about where images come from, and how they are split."""

import json
import shlex
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers.image_data import (
    CLASSES,
    contents,
    labels_in_turn,
    random_images,
    write_folder,
    write_parquet,
)
from PIL import Image

from hf_critmom.commands.compare import parse_comparison
from hf_critmom.tasks import (
    MODELS,
    TASKS,
    DataArguments,
    ModelArguments,
    Task,
    build_model,
    check_model,
    load_task,
    model_record,
    task_spec,
)
from hf_critmom.tasks.images import ImageDataset
from hf_critmom.tasks.metrics import METRICS
from hf_critmom.training.arguments import recorded_training_arguments

CARDS = Path(__file__).parents[2] / "model_cards"


# ------------------------------------------------------------------------------------------------------------ sources


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    task = load_task(DataArguments())
    reference = load_digits()
    known = {image.tobytes(): label for image, label in zip(reference.images, reference.target, strict=True)}
    total = 0
    for split in (task.train, task.validation, task.test):
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == (1, 8, 8)
        for image, label in zip(split.images[:, 0], split.labels, strict=True):
            assert known[np.round(image / 255.0 * 16.0).tobytes()] == label
        total += len(split)
    assert total == 1797
    assert task.name == "digits" and "scikit-learn" in task.source


def test_a_parquet_folder_is_read_as_fetch_cifar10_writes_it(tmp_path: Path) -> None:
    train, test = random_images(60, seed=1), random_images(12, seed=2)
    folder = write_parquet(tmp_path / "cifar", {"train": (train, labels_in_turn(60)), "test": (test, [2] * 12)})
    for flags in ({"task": str(folder)}, {"dataset_name": str(folder)}):
        task = load_task(DataArguments(**flags))
        np.testing.assert_array_equal(task.test.images, test)
        assert task.test.labels.tolist() == [2] * 12
        assert task.label_names == CLASSES
        assert (task.name, task.source) == ("cifar", "local folder cifar")
        assert contents(task.train) | contents(task.validation) == {image.tobytes() for image in train}


def test_an_image_folder_is_read_by_either_flag(tmp_path: Path) -> None:
    images, labels = random_images(45), labels_in_turn(45)
    folder = write_folder(tmp_path / "pets", images, labels, (".png", ".jpg"))
    by_train_dir = load_task(DataArguments(train_dir=str(folder)))
    by_task = load_task(DataArguments(task=str(folder)))
    assert by_train_dir.description() == by_task.description()
    assert by_task.label_names == CLASSES
    known = {}
    for label, name in enumerate(CLASSES):
        for file in (folder / name).iterdir():
            known[np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes()] = label
    assert len(known) == 45
    for split in (by_task.train, by_task.validation, by_task.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert known[image.tobytes()] == label


def test_image_folders_of_their_own_are_the_given_splits(tmp_path: Path) -> None:
    folders = {}
    for seed, name in enumerate(("train", "validation", "test")):
        folders[name] = write_folder(tmp_path / f"my {name}", random_images(9, seed=seed), labels_in_turn(9))
    task = load_task(DataArguments(**{f"{name}_dir": str(folder) for name, folder in folders.items()}))
    for seed, split in enumerate((task.train, task.validation, task.test)):
        assert contents(split) == {image.tobytes() for image in random_images(9, seed=seed)}
    assert task.notes == ()


def test_one_folder_with_split_folders_is_read_with_its_splits(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        write_folder(tmp_path / name, random_images(9, seed=seed), labels_in_turn(9))
    task = load_task(DataArguments(task=str(tmp_path)))
    for seed, split in enumerate((task.train, task.validation, task.test)):
        assert contents(split) == {image.tobytes() for image in random_images(9, seed=seed)}


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_images(30, channels=1), labels_in_turn(30))
    task = load_task(DataArguments(task=str(folder)))
    assert task.image_shape == (1, 8, 8)
    everything = contents(task.train) | contents(task.validation) | contents(task.test)
    assert everything == {image.tobytes() for image in random_images(30, channels=1)}
    check_model(build_model(task, ModelArguments(width=4), seed=0), task)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    images = random_images(30, channels=4)
    task = load_task(DataArguments(task=str(write_folder(tmp_path, images, labels_in_turn(30)))))
    assert task.image_shape == (3, 8, 8)
    assert contents(task.train) <= {image[:3].tobytes() for image in images}
    assert task.notes[0].startswith("The alpha channel of 30 images was dropped")


@pytest.mark.parametrize("grey_at", [0, 17, 29])
def test_a_grey_image_among_coloured_ones_does_not_take_their_colours(tmp_path: Path, grey_at: int) -> None:
    pictures: list[Any] = list(random_images(30))
    pictures[grey_at] = random_images(1, channels=1)[0]
    task = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (pictures, labels_in_turn(30))}))))
    assert task.image_shape == (3, 8, 8)
    everything = contents(task.train) | contents(task.validation) | contents(task.test)
    assert everything == {np.broadcast_to(image, (3, 8, 8)).tobytes() for image in pictures}
    assert task.notes[0] == "Grey images that were given three equal channels: 1."


def test_a_grey_test_split_joins_a_coloured_training_split(tmp_path: Path) -> None:
    grey = random_images(6, channels=1)
    splits = {"train": (random_images(30), labels_in_turn(30)), "test": (grey, labels_in_turn(6))}
    task = load_task(DataArguments(task=str(write_parquet(tmp_path, splits))))
    np.testing.assert_array_equal(task.test.images, np.repeat(grey, 3, axis=1))


def test_sixteen_bit_images_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (30, 8, 8), dtype=np.uint16)
    for index, image in enumerate(deep):
        (tmp_path / CLASSES[index % 3]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / CLASSES[index % 3] / f"{index:04d}.png")
    task = load_task(DataArguments(task=str(tmp_path)))
    assert task.image_shape == (1, 8, 8)
    everything = contents(task.train) | contents(task.validation) | contents(task.test)
    assert everything == {(image >> 8).astype(np.uint8).tobytes() for image in deep}
    assert task.notes[0] == "Only the upper 8 bits of 30 images with 16 bits are used."


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    sideways = np.zeros((30, 3, 8, 8), dtype=np.uint8)
    sideways[:, :, :4] = 255 - np.arange(30, dtype=np.uint8)[:, None, None, None]  # the upper half is nearly white
    folder = write_folder(tmp_path / "plain", sideways, labels_in_turn(30), (".jpg",))
    for file in folder.glob("*/*.jpg"):
        image = Image.open(file)
        image.load()
        exif = image.getexif()
        exif[0x0112] = 6  # to be shown turned by a quarter clockwise
        image.save(file, exif=exif)
    turned = load_task(DataArguments(task=str(folder)))
    assert turned.train.images[0, 0, :, 7].min() > 200 and turned.train.images[0, 0, :, 0].max() < 50


def test_labels_that_are_names_or_numbers_become_indices(tmp_path: Path) -> None:
    images, names = random_images(30), [CLASSES[label] for label in labels_in_turn(30)]
    new = random_images(3, seed=1)
    splits: dict[str, tuple[np.ndarray, Any]] = {"train": (images, names), "test": (new, names[:3])}
    by_name = write_parquet(tmp_path / "names", splits, datasets.Value("string"))
    task = load_task(DataArguments(task=str(by_name), label_column_name="label"))
    assert task.label_names == CLASSES and task.test.labels.tolist() == [0, 1, 2]
    splits = {"train": (images, labels_in_turn(30) * 10), "test": (new, [0, 10, 20])}
    by_number = write_parquet(tmp_path / "numbers", splits, datasets.Value("int64"))
    task = load_task(DataArguments(task=str(by_number), label_column_name="label"))
    assert task.label_names == ("0", "10", "20") and task.test.labels.tolist() == [0, 1, 2]


def test_a_folder_that_changed_is_not_read_from_a_stale_cache(tmp_path: Path) -> None:
    images, labels = random_images(30), labels_in_turn(30)
    before = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (images, labels)})))).description()
    images[0, 0, 0, 0] ^= 1
    after = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (images, labels)})))).description()
    assert before != after


# ------------------------------------------------------------------------------------------------------------- splits


def test_splits_are_disjoint_and_hold_everything(tmp_path: Path) -> None:
    images = random_images(300)
    task = load_task(DataArguments(task=str(write_parquet(tmp_path, {"train": (images, labels_in_turn(300))}))))
    parts = [contents(split) for split in (task.train, task.validation, task.test)]
    assert sum(map(len, parts)) == 300
    assert set.union(*parts) == {image.tobytes() for image in images}
    assert [len(part) for part in parts] == [240, 30, 30]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.37])
def test_splits_hold_the_same_share_of_every_class(tmp_path: Path, share: float) -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    folder = write_parquet(tmp_path, {"train": (random_images(150), labels)})
    task = load_task(DataArguments(task=str(folder), train_val_split=share))
    for split in (task.validation, task.test):
        counts = np.bincount(split.labels, minlength=3)
        assert np.abs(counts - share * np.array([100, 40, 10])).max() <= 1.0


def test_splits_are_a_function_of_the_split_seed() -> None:
    first, again, other = (load_task(DataArguments(split_seed=seed)) for seed in (1, 1, 2))
    assert first.description() == again.description()
    assert contents(first.validation) != contents(other.validation)
    assert contents(first.test) != contents(other.test)


def test_given_splits_are_used_as_they_are(tmp_path: Path) -> None:
    splits = {name: (random_images(12, seed=seed), labels_in_turn(12)) for seed, name in enumerate(("train", "test"))}
    task = load_task(DataArguments(task=str(write_parquet(tmp_path / "a", splits)), train_val_split=0.25))
    np.testing.assert_array_equal(task.test.images, splits["test"][0])
    assert len(task.train) + len(task.validation) == 12
    splits["validation"] = (random_images(5, seed=9), labels_in_turn(5))
    task = load_task(DataArguments(task=str(write_parquet(tmp_path / "b", splits))))
    for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test)):
        np.testing.assert_array_equal(split.images, splits[name][0])
        np.testing.assert_array_equal(split.labels, splits[name][1])
    assert task.notes == ()


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_share_that_is_asked_for_is_the_share_that_is_held_out(share: float) -> None:
    task = load_task(DataArguments(train_val_split=share))
    assert len(task.validation) == pytest.approx(share * 1797, abs=10)
    assert len(task.test) == pytest.approx(share * 1797, abs=10)


def test_fewer_training_samples_leave_the_other_splits_alone(digits: Task) -> None:
    few = load_task(DataArguments(max_train_samples=100))
    assert len(few.train) == 100
    assert contents(few.train) < contents(digits.train)
    for name in ("validation", "test"):
        assert few.description()["splits"][name] == digits.description()["splits"][name]


def test_the_evaluated_samples_do_not_depend_on_the_training_samples() -> None:
    alone = load_task(DataArguments(max_eval_samples=50)).description()["splits"]
    together = load_task(DataArguments(max_eval_samples=50, max_train_samples=100)).description()["splits"]
    for name in ("validation", "test"):
        assert alone[name] == together[name]


def test_limits_cut_each_split_and_a_limit_beyond_it_changes_nothing(digits: Task) -> None:
    few = load_task(DataArguments(max_train_samples=100, max_eval_samples=50))
    assert (len(few.train), len(few.validation), len(few.test)) == (100, 50, 50)
    assert contents(few.validation) < contents(digits.validation)
    assert contents(few.test) < contents(digits.test)
    many = load_task(DataArguments(max_train_samples=10_000, max_eval_samples=10_000))
    assert many.description() == digits.description()


def test_notes_say_how_the_splits_came_about(digits: Task) -> None:
    assert len(digits.notes) == 2
    assert all("held out by class (seed 0)" in note for note in digits.notes)
    assert f"{len(digits.test)} of the 1,797" in digits.notes[0] and "test" in digits.notes[0]
    few = load_task(DataArguments(max_train_samples=100, max_eval_samples=50)).notes
    assert few[:2] == digits.notes
    assert few[2:] == (
        "Only 100 of 1,081 train examples are used.",
        f"Only 50 of {len(digits.validation)} validation examples are used.",
        f"Only 50 of {len(digits.test)} test examples are used.",
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_description_changes_with_a_single_pixel_or_label(digits: Task, split: str) -> None:
    def described(change: Any) -> dict[str, Any]:
        task = load_task(DataArguments())
        change(getattr(task, split))
        return task.description()["splits"]

    def change_pixel(dataset: ImageDataset) -> None:
        dataset.images[7, 0, 3, 3] ^= 1

    def change_label(dataset: ImageDataset) -> None:
        dataset.labels[7] = (dataset.labels[7] + 1) % 10

    original = digits.description()["splits"]
    assert described(lambda dataset: None) == original
    for change in (change_pixel, change_label):
        changed = described(change)
        assert {name for name in original if changed[name] != original[name]} == {split}


def test_the_plan_of_a_stored_comparison_is_still_what_its_command_asks_for() -> None:
    """A comparison that an earlier version began goes on: nothing in what is recorded of a task may change."""
    stored = json.loads((CARDS / "digits-resnet18-w16" / "comparison.json").read_text())
    asked = parse_comparison(shlex.split(stored["command"])[2:])
    task = load_task(asked.data, asked.model)
    model = build_model(task, asked.model, asked.training.seed)
    assert json.dumps(task.description()) == json.dumps(stored["task"])
    recorded = {**model_record(task, asked.model), "num_parameters": model.num_parameters()}
    assert json.dumps(recorded) == json.dumps(stored["model"])
    assert recorded_training_arguments(asked.training) == stored["training"]
    assert set(task_spec(asked.data).targets) <= set(stored["targets"])  # fewer: the stored ones stay


def test_every_entry_of_the_table_names_itself_and_completes_the_flags() -> None:
    for name, spec in TASKS.items():
        assert spec.name == name
        metric = METRICS[spec.kind.metrics[0]]
        assert all(metric.above < target <= metric.at_most for target in spec.targets or ())
        assert all(hasattr(DataArguments(), flag) for flag in spec.data_defaults)
        for model, sizes in spec.model_defaults.items():
            assert MODELS[model].task is spec.kind and sizes.keys() <= MODELS[model].sizes.keys()
    assert task_spec(DataArguments(task="some/where")) is TASKS["images"]
    assert task_spec(DataArguments(task="cifar10", dataset_name="elsewhere")) is TASKS["images"]
