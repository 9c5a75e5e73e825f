"""Fingerprints of weights and batches, which show whether runs with the same seed are paired."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

SAMPLED_WEIGHTS, SAMPLED_INPUTS = 4096, 2**20
"""Number of evenly spaced elements of each parameter, and of each input tensor, that enter a fingerprint."""


def weights_fingerprint(model: torch.nn.Module) -> str | None:
    """A digest of a model's parameters: their names, shapes and dtypes, and evenly spaced elements.

    For a sharded model, it is the digest of the process's own shard; None if the shard is empty.

    Args:
        model: The model, wrapped or not.
    """
    digest, elements = hashlib.sha256(), 0
    for name, parameter in model.named_parameters():
        value = getattr(parameter, "ds_tensor", parameter).detach()
        value = value.to_local() if hasattr(value, "to_local") else value
        elements += value.numel()
        digest.update(name.removeprefix("module.").encode())
        _add(digest, value, SAMPLED_WEIGHTS)
    return digest.hexdigest() if elements else None


def batch_fingerprint(inputs: Any) -> str:
    """A digest of the inputs of a training step.

    Args:
        inputs: Tensors, arrays, numbers and strings in mappings and sequences; other objects count by their types only.
    """
    digest = hashlib.sha256()
    _add(digest, inputs, SAMPLED_INPUTS)
    return digest.hexdigest()


def _add(digest: Any, value: Any, most: int) -> None:
    if isinstance(value, torch.Tensor):
        flat = value.detach().reshape(-1)
        flat = flat[:: max(1, -(-flat.numel() // most))].contiguous().cpu()
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode() + flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.shape} {value.dtype}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            digest.update(str(name).encode())
            _add(digest, value[name], most)
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}".encode())
        for item in value:
            _add(digest, item, most)
    elif isinstance(value, str | bytes | int | float | np.generic) or value is None:
        digest.update(repr(value).encode(errors="surrogatepass"))
    else:
        digest.update(type(value).__name__.encode())
