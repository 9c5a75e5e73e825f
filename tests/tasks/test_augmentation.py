"""Claims about augmentation, and about batches of images."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_data import (
    labels_in_turn,
    picture,
    random_images,
    write_parquet,
)
from scipy import stats
from torch.utils.data import DataLoader
from transformers import (
    ViTImageProcessor,
)

from hf_critmom.tasks import (
    DataArguments,
    Task,
    load_task,
)
from hf_critmom.tasks.device_images import LARGEST_SHARE, DeviceImages, has_room
from hf_critmom.tasks.images import Augmentation, ImageDataset, channel_statistics
from hf_critmom.tasks.splits import collate_batches

# ----------------------------------------------------------------------------------------------------- augmentation


def draw(seed: int, epoch: int, index: int) -> int:
    """The reference twin's SplitMix64, in Python's unbounded integers."""
    state, mask = 0, 2**64 - 1
    for word in (seed % 2**64, epoch, index):
        state = ((state ^ word) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


def augmented_slowly(augmentation: Augmentation, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
    """The reference twin: one image, pixel by pixel."""
    bits = draw(augmentation.seed, epoch, index)
    positions = 2 * augmentation.padding + 1
    top = (bits % 2**20) % positions - augmentation.padding
    left = ((bits >> 20) % 2**20) % positions - augmentation.padding
    mirrored = augmentation.flip and (bits >> 40) % 2 == 1
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                source_row, source_column = row + top, (width - 1 - column if mirrored else column) + left
                if 0 <= source_row < height and 0 <= source_column < width:
                    result[channel, row, column] = image[channel, source_row, source_column]
    return result


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10)])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (4, True), (6, True)])
def test_augmentation_equals_the_reference_twin(shape: tuple[int, int, int], padding: int, flip: bool) -> None:
    images = np.random.default_rng(1).integers(1, 256, (12, *shape), dtype=np.uint8)
    indices = np.array([0, 1, 2, 3, 11, 4, 49_999, 5, 6, 7, 2**40, 8])
    for seed, epoch in ((0, 0), (0, 7), (2**40 + 3, 1)):
        augmentation = Augmentation(padding, flip, seed)
        expected = [
            augmented_slowly(augmentation, image, int(index), epoch)
            for image, index in zip(images, indices, strict=True)
        ]
        augmented = augmentation(images, indices, epoch)
        assert augmented.dtype == np.uint8
        np.testing.assert_array_equal(augmented, np.stack(expected))


def test_what_an_image_draws_does_not_depend_on_its_batch() -> None:
    images = random_images(40)
    augmentation = Augmentation(padding=3, flip=True, seed=5)
    indices = np.arange(40)
    whole = augmentation(images, indices, 2)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(augmentation(images[order], indices[order], 2), whole[order])
    for size in (1, 7):
        parts = [augmentation(images[i : i + size], indices[i : i + size], 2) for i in range(0, 40, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_epochs_and_seeds_draw_anew() -> None:
    images, indices = random_images(200), np.arange(200)
    augmentation = Augmentation(padding=4, flip=True, seed=0)
    drawn = [augmentation(images, indices, 0), augmentation(images, indices, 1)]
    drawn += [Augmentation(4, True, seed)(images, indices, 0) for seed in (1, 2)]
    for first in range(len(drawn)):
        for second in range(first):
            same = (drawn[first] == drawn[second]).all(axis=(1, 2, 3)).mean()
            assert same < 0.05  # by chance 1 in 162


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (7, 29)])
def test_crops_and_flips_are_uniform_and_independent(seed: int, epoch: int) -> None:
    padding, size, count = 2, 8, 50 * 2000
    numbered = np.arange(size * size, dtype=np.uint8).reshape(1, 1, size, size)
    images = np.broadcast_to(numbered, (count, 1, size, size))
    augmented = Augmentation(padding, True, seed)(images, np.arange(count), epoch)[:, 0]
    mirrored = augmented[:, 4, 3] > augmented[:, 4, 4]
    seen = augmented[:, 4, 4].astype(int)
    top, left = seen // size - 4, seen % size - np.where(mirrored, 3, 4)
    cells = np.bincount(((top + padding) * 5 + left + padding) * 2 + mirrored, minlength=50)
    assert len(cells) == 50
    assert stats.chisquare(cells).pvalue > 1e-3


def test_neighbouring_indices_and_epochs_are_uncorrelated() -> None:
    bits = np.array([[draw(0, epoch, index) >> 40 & 1 for index in range(2000)] for epoch in range(2)])
    for first, second in ((bits[0], bits[1]), (bits[0][:-1], bits[0][1:])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 4.0 / math.sqrt(2000)


def test_only_training_images_are_augmented(digits: Task) -> None:
    for split in (digits.validation, digits.test):
        assert split.augmentation is None
        split.set_epoch(0)
        before = split.__getitems__(range(20))["pixel_values"]
        split.set_epoch(1)
        assert torch.equal(split.__getitems__(range(20))["pixel_values"], before)
    assert digits.train.augmentation == Augmentation(padding=1, flip=False, seed=0)
    drawn = []
    for epoch in (0, 1):
        digits.train.set_epoch(epoch)
        drawn.append(digits.train.__getitems__(range(20))["pixel_values"])
    digits.train.set_epoch(0)
    assert not torch.equal(*drawn)


def test_without_crop_and_flip_nothing_is_augmented() -> None:
    task = load_task(DataArguments(crop_padding=0))  # the digits are never mirrored
    assert task.train.augmentation is None


# -------------------------------------------------------------------------------------------------- batches of images


def image_dataset(count: int = 30, channels: int = 3, augmentation: Augmentation | None = None) -> ImageDataset:
    images = random_images(count, channels)
    mean, std = channel_statistics(images)
    return ImageDataset(images, labels_in_turn(count), mean=mean, std=std, augmentation=augmentation)


@pytest.mark.parametrize("augmentation", [None, Augmentation(2, True, 3)])
def test_a_batch_equals_its_stacked_examples(augmentation: Augmentation | None) -> None:
    dataset = image_dataset(augmentation=augmentation)
    dataset.set_epoch(4)
    indices = [3, 0, 29, 7, 7]
    batch = dataset.__getitems__(indices)
    assert batch["pixel_values"].dtype == torch.float32 and batch["labels"].dtype == torch.int64
    one_by_one = collate_batches([dataset[index] for index in indices])
    assert list(batch) == list(one_by_one)
    for name in batch:
        assert torch.equal(batch[name], one_by_one[name])
    assert collate_batches(batch) is batch


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_what_the_saved_processor_computes(tmp_path: Path, channels: int) -> None:
    images = random_images(60, channels, size=12)
    folder = write_parquet(tmp_path / "set", {"train": (images, labels_in_turn(60))})
    task = load_task(DataArguments(task=str(folder)))
    task.processor.save_pretrained(tmp_path / "processor")
    processor = ViTImageProcessor.from_pretrained(tmp_path / "processor")
    pictures = [picture(image) for image in task.validation.images]
    expected = processor(images=pictures, return_tensors="pt")["pixel_values"]
    found = task.validation.__getitems__(range(len(task.validation)))["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_pixels_of_the_digits_are_what_the_processor_computes(digits: Task) -> None:
    pictures = [picture(image) for image in digits.test.images[:50]]
    expected = digits.processor(images=pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(digits.test.__getitems__(range(50))["pixel_values"], expected, rtol=1e-5, atol=1e-5)


def test_resized_pixels_agree_with_the_processor_to_a_grey_level(tmp_path: Path) -> None:
    smooth = np.kron(random_images(30, 3, size=4), np.ones((1, 1, 8, 8), dtype=np.uint8))
    other = 255 - smooth
    folder = write_parquet(tmp_path, {"train": (other, labels_in_turn(30)), "test": (smooth, labels_in_turn(30))})
    task = load_task(DataArguments(task=str(folder), image_size=16))
    assert task.image_shape == (3, 16, 16)
    expected = task.processor(images=[picture(image) for image in smooth], return_tensors="pt")["pixel_values"]
    found = task.test.__getitems__(range(30))["pixel_values"]
    levels = (found - expected).abs() * 255.0 * torch.tensor(task.test.std).view(1, -1, 1, 1)
    assert float(levels.max()) <= 1.01


def test_training_pixels_have_mean_zero_and_deviation_one(digits: Task) -> None:
    plain = ImageDataset(digits.train.images, digits.train.labels, mean=digits.train.mean, std=digits.train.std)
    pixels = plain.__getitems__(range(len(plain)))["pixel_values"].double()
    assert float(pixels.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(pixels.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def test_loader_workers_that_persist_see_each_epoch() -> None:
    dataset = image_dataset(augmentation=Augmentation(3, True, 0))
    loader = DataLoader(dataset, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=collate_batches)
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        loaded = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(loaded, dataset.__getitems__(range(30))["pixel_values"])


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_equal_numpys(channels: int) -> None:
    images = random_images(50, channels, size=9, seed=2) // np.arange(1, channels + 1, dtype=np.uint8)[:, None, None]
    scaled = images.astype(np.float64) / 255.0
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    mean, std = channel_statistics(np.full((4, 1, 3, 3), 255, dtype=np.uint8))
    assert mean == (1.0,) and std == (1.0,)


# ----------------------------------------------------------------------------------------------- on the device


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10)])
@pytest.mark.parametrize("augmentation", [None, Augmentation(0, True), Augmentation(2, False), Augmentation(4, True)])
def test_images_on_a_device_make_the_same_batches_to_the_bit(
    shape: tuple[int, int, int], augmentation: Augmentation | None
) -> None:
    """Any device does the same whole numbers and the same two roundings of each pixel; here it is the CPU."""
    images = np.random.default_rng(2).integers(0, 256, (20, *shape), dtype=np.uint8)
    mean, std = channel_statistics(images)
    dataset = ImageDataset(images, labels_in_turn(20), mean=mean, std=std, augmentation=augmentation)
    placed = DeviceImages(dataset, torch.device("cpu"))
    for seed, epoch in ((0, 0), (7, 3), (2**40 + 3, 1)):
        for split in (dataset, placed):
            split.set_seed(seed)
            split.set_epoch(epoch)
        for batch in ([0], [19, 3, 3, 7], list(range(20))):
            there, here = placed.__getitems__(batch), dataset.__getitems__(batch)
            assert there.keys() == here.keys()
            for name, values in here.items():
                assert there[name].dtype == values.dtype and torch.equal(there[name], values)
    assert not dataset.on_device and placed.on_device
    assert not placed.evaluated().on_device and placed.fingerprint() == dataset.fingerprint()


def test_images_lie_on_a_device_that_has_room_for_them(digits: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digits.placed(torch.device("cpu")) is digits
    splits = list(digits.splits.values())
    size = sum(split.images.nbytes + split.labels.nbytes for split in splits)
    for free, room in ((size / LARGEST_SHARE + 1, True), (size / LARGEST_SHARE - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1e12))
        assert has_room(splits, torch.device("cuda")) is room
    prepared = [split.replace(processor=ViTImageProcessor()) for split in splits]
    assert not has_room(prepared, torch.device("cuda")) and not has_room(splits, torch.device("cpu"))
