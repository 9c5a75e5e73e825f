"""Labelled images in memory: decoded once, kept as uint8, augmented and normalised one batch at a time."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from hf_critmom.tasks.splits import Split


@dataclass(frozen=True)
class Augmentation:
    """Random crop of a zero-padded image, then a random horizontal flip.

    The random draws of an image are a function of ``seed``, epoch and the image's index alone. So every arm of a
    comparison sees the same pixels, with any number of processes or loader workers and after any resume.

    Attributes:
        padding: Pixels added on every side before cropping to the original size.
        flip: Whether half of the images are mirrored left to right.
        seed: Seed of the draws; a run replaces it with its own.
    """

    padding: int = 4
    flip: bool = True
    seed: int = 0

    def __call__(self, images: np.ndarray, indices: np.ndarray, epoch: int) -> np.ndarray:
        """Augments images (batch, channels, height, width) of any dtype, with ``indices`` (batch,) in their dataset."""
        top, left, mirrored = self.draws(indices, epoch)
        if self.padding:
            batch, channels, height, width = images.shape
            pad = self.padding
            padded = np.zeros((batch, channels, height + 2 * pad, width + 2 * pad), images.dtype)
            padded[:, :, pad:-pad, pad:-pad] = images
            windows = sliding_window_view(padded, (height, width), axis=(2, 3))
            images = windows[np.arange(batch), :, top, left]
        if self.flip:
            images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
        return images

    def draws(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws top row and left column of each image's crop in the padded image, and whether it is flipped.

        Args:
            indices: Indices of the images in their dataset, (batch,).
            epoch: The epoch.

        Returns:
            Top rows and left columns, int64, and flips, bool; each (batch,).
        """
        draws, positions = _hashed(self.seed, epoch, indices), np.uint64(2 * self.padding + 1)
        top = (draws & np.uint64(0xFFFFF)) % positions
        left = ((draws >> np.uint64(20)) & np.uint64(0xFFFFF)) % positions
        mirrored = ((draws >> np.uint64(40)) & np.uint64(1) == 1) & self.flip
        return top.astype(np.int64), left.astype(np.int64), mirrored

    def seeded(self, seed: int) -> "Augmentation":
        """The same augmentation with another seed."""
        return dataclasses.replace(self, seed=seed)


class ImageDataset(Split):
    """Images, stored as uint8 and served in normalised batches.

    Args:
        images: uint8, (examples, channels, height, width).
        labels: int64, (examples,).
        mean: Mean of each channel on the scale 0 to 1.
        std: Standard deviation of each channel on the scale 0 to 1.
        augmentation: Applied to each batch, or None.
        processor: A checkpoint's image processor, which then resizes and normalises instead of ``mean`` and ``std``.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None = None,
        processor: Any = None,
    ) -> None:
        self.images = np.ascontiguousarray(images)
        self.labels = labels
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.augmentation = augmentation
        self.processor = processor
        self._shift = torch.tensor(self.mean).mul(255.0).view(1, -1, 1, 1)
        self._scale = torch.tensor(self.std).mul(255.0).reciprocal().view(1, -1, 1, 1)
        seed = augmentation.seed if augmentation is not None else 0
        self._epoch_and_seed = torch.tensor([0, seed]).share_memory_()  # persistent loader workers see changes

    def __len__(self) -> int:
        return len(self.images)

    def replace(self, **changes: Any) -> "ImageDataset":
        """The same dataset with some of the constructor's arguments changed."""
        arguments = ("images", "labels", "mean", "std", "augmentation", "processor")
        return ImageDataset(**{**{name: getattr(self, name) for name in arguments}, **changes})

    def take(self, indices: np.ndarray) -> "ImageDataset":
        """A dataset of the examples at the given indices."""
        return self.replace(images=self.images[indices], labels=self.labels[indices])

    def evaluated(self, images: np.ndarray | None = None) -> "ImageDataset":
        """The same examples without augmentation; with other images, if any are given."""
        return self.replace(augmentation=None, images=self.images if images is None else images)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the augmentation."""
        self._epoch_and_seed[0] = epoch

    def set_seed(self, seed: int) -> None:
        """Sets the seed of the augmentation to a run's own."""
        self._epoch_and_seed[1] = seed

    def isolate(self) -> None:
        """Gives this process its own epoch and seed, which forked processes share, as loader workers must."""
        self._epoch_and_seed = self._epoch_and_seed.clone().share_memory_()

    def content_keys(self) -> list[bytes]:
        """A digest of each image before augmentation; equal digests mean the same image."""
        return image_keys(self.images)

    def fingerprint(self) -> str:
        """SHA-256 of images and labels, in hexadecimal."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: ``pixel_values`` float32 (batch, channels, height, width) and ``labels`` int64 (batch,)."""
        selected = np.asarray(indices)
        images = self.images[selected]
        if self.augmentation is not None:
            epoch, seed = self._epoch_and_seed.tolist()
            images = self.augmentation.seeded(seed)(images, selected, epoch)
        return {"pixel_values": self._prepared(images), "labels": torch.from_numpy(self.labels[selected])}

    def _prepared(self, images: np.ndarray) -> torch.Tensor:
        """Inputs of the model, float32, from uint8 images, both (batch, channels, height, width)."""
        if self.processor is None:
            pixels = torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32)
            return pixels.sub_(self._shift).mul_(self._scale)
        # Every processor takes PIL images, timm's included.
        pictures = [Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)) for image in images]
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"]


def image_keys(images: np.ndarray) -> list[bytes]:
    """A digest of each image of an array (examples, channels, height, width)."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (examples, channels, height, width), scale 0 to 1.

    Computed exactly, from the histogram of each channel. A constant channel gets standard deviation 1.
    """
    levels = np.arange(256) / 255.0
    means, deviations = [], []
    for channel in range(images.shape[1]):
        share = np.bincount(images[:, channel].ravel(), minlength=256) / images[:, channel].size
        mean = float(share @ levels)
        deviation = float(np.sqrt(share @ (levels - mean) ** 2))
        means.append(mean)
        deviations.append(deviation if deviation > 0.0 else 1.0)
    return tuple(means), tuple(deviations)


def _hashed(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """One well-mixed uint64 for each index: a round of SplitMix64's finaliser per word (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        state = np.zeros(indices.shape, np.uint64)
        for word in (np.uint64(seed % 2**64), np.uint64(epoch), indices.astype(np.uint64)):
            state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state
