"""Images that live in the memory of an accelerator and are augmented there: the loader does not limit a fast card."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_critmom.tasks.images import Augmentation, ImageDataset

LARGEST_SHARE = 0.2
"""Of a device's free memory, which all splits together may take: the rest is for models, several runs perhaps."""


class DeviceImages(ImageDataset):
    """The images of a dataset on a device: the same batches to the bit as the dataset hands out, made there.

    Args:
        dataset: The dataset, without an image processor.
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
        """A batch on the device, see `ImageDataset`."""
        selected = np.asarray(indices)
        rows = torch.from_numpy(selected).to(self._pixels.device, non_blocking=True)
        images = self._pixels[rows]
        if self.augmentation is not None:
            epoch, seed = self._epoch_and_seed.tolist()
            images = augment(images, self.augmentation.seeded(seed), selected, epoch)
        pixels = images.to(torch.float32).sub_(self._shift).mul_(self._scale)
        return {"pixel_values": pixels, "labels": self._targets[rows]}


def augment(images: torch.Tensor, augmentation: Augmentation, indices: np.ndarray, epoch: int) -> torch.Tensor:
    """Augments images where they are, as `Augmentation` does: what each draws is the same.

    Args:
        images: (batch, channels, height, width), of any dtype.
        augmentation: The augmentation.
        indices: (batch,), which name the images.
        epoch: The epoch.

    Returns:
        The same shape.
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
    """Whether splits may lie in the memory of a device: of an accelerator that tells how much is free.

    Those that an image processor prepares are not among them: it takes pictures.

    Args:
        splits: The splits.
        device: The device.
    """
    if device.type != "cuda" or any(split.processor is not None for split in splits):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(split.images.nbytes + split.labels.nbytes for split in splits) <= LARGEST_SHARE * free
