"""Fingerprints of weights and batches, by which the runs of one seed are known to be pairs."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

SAMPLED_WEIGHTS, SAMPLED_INPUTS = 4096, 2**20
"""Elements of a tensor that are looked at, at equal distances, of each parameter and of each input."""


def weights_fingerprint(model: torch.nn.Module) -> str | None:
    """A digest of a model's parameters: of their names, shapes and number types, and of elements at equal distances.

    Of a sharded model it is that of the process's own part. None where this process holds no element of any.

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
    """A digest of what a model is given in a training step.

    Args:
        inputs: Tensors, arrays and texts in mappings and sequences; of other objects only the type counts.
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
