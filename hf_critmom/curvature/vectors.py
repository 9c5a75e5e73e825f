"""Vectors in the space of a model's parameters: lists of tensors, one per parameter.

Sums are taken in each tensor's own precision and added up in double precision, with one transfer per result.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_critmom.upstream import multi_tensor_operations

Vector = list[Tensor]


@torch.no_grad()
def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Inner product of two vectors."""
    parts = [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(first, second, strict=True)]
    return math.fsum(torch.stack([part.to(parts[0].device, torch.float64) for part in parts]).tolist())


@torch.no_grad()
def norm(vector: Sequence[Tensor]) -> float:
    """Euclidean norm of a vector."""
    parts = multi_tensor_operations()["norm"](list(vector))
    return math.sqrt(
        math.fsum(torch.stack([part.to(parts[0].device, torch.float64) for part in parts]).square().tolist())
    )


@torch.no_grad()
def random_unit_like(vector: Sequence[Tensor], seed: int) -> Vector:
    """A vector of length 1 in a direction that a seed decides, the same on every device and in every process."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(part.shape, generator=generator).to(part.device, part.dtype) for part in vector]
    torch._foreach_div_(drawn, norm(drawn))
    return drawn
