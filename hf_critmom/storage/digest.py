"""The one digest of a model's weights, by which a checkpoint is recognised."""

import hashlib

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
