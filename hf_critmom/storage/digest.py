"""Digests that identify a model's weights and the files of a checkpoint."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's state dict: names, shapes, dtypes and bytes of all parameters and buffers, in order.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> before = weights_digest(layer)
        >>> _ = layer.bias.data.add_(1.0)
        >>> weights_digest(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of files, sorted by name."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        with file.open("rb") as content:
            digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
