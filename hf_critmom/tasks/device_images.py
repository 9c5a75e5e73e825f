"""Images that are kept and augmented in the memory of an accelerator, so that no data loader limits a fast GPU."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_critmom.tasks.images import Augmentation, ImageDataset

LARGEST_SHARE = 0.2
"""Largest share of a device's free memory for all splits together; the rest is for models, perhaps of several runs."""


class DeviceImages(ImageDataset):
    """The images of a dataset on a device; batches are made there, bit-identical to those of the dataset.

    Args:
        dataset: A dataset without an image processor.
        device: The device.
    """

    on_device = True

    def __init__(self, dataset: ImageDataset, device: torch.device) -> None:
        names = ("mean", "std", "augmentation")
        super().__init__(dataset.images, dataset.labels, **{name: getattr(dataset, name) for name in names})
        self._shift, self._scale = self._shift.to(device), self._scale.to(device)
        self._pixels = torch.from_numpy(self.images).to(device)
        self._targets = torch.from_numpy(self.labels).to(device)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch on the device; see `ImageDataset`."""
        selected = np.asarray(indices)
        rows = torch.from_numpy(selected).to(self._pixels.device, non_blocking=True)
        images = self._pixels[rows]
        if self.augmentation is not None:
            epoch, seed = self._epoch_and_seed.tolist()
            images = augment(images, self.augmentation.seeded(seed), selected, epoch)
        pixels = images.to(torch.float32).sub_(self._shift).mul_(self._scale)
        return {"pixel_values": pixels, "labels": self._targets[rows]}


def augment(images: torch.Tensor, augmentation: Augmentation, indices: np.ndarray, epoch: int) -> torch.Tensor:
    """Augments images on their own device, with the random draws of `Augmentation`.

    Args:
        images: (batch, channels, height, width), of any dtype.
        augmentation: The augmentation.
        indices: Indices of the images in their dataset, (batch,).
        epoch: The epoch.

    Returns:
        The augmented images, of the same shape and dtype.
    """
    _, channels, height, width = images.shape
    top, left, mirrored = (
        torch.from_numpy(drawn).to(images.device, non_blocking=True) for drawn in augmentation.draws(indices, epoch)
    )
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    padded = torch.nn.functional.pad(images, (augmentation.padding,) * 4)
    batch = torch.arange(len(images), device=images.device)
    of_channel = torch.arange(channels, device=images.device)
    return padded[
        batch[:, None, None, None], of_channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def has_room(splits: Sequence[ImageDataset], device: torch.device) -> bool:
    """Whether a device has room for splits; False unless it is a CUDA device.

    Splits that an image processor prepares stay in host memory, because it takes PIL images.
    """
    if device.type != "cuda" or any(split.processor is not None for split in splits):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(split.images.nbytes + split.labels.nbytes for split in splits) <= LARGEST_SHARE * free
