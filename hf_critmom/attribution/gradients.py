"""Gradients of many batches, summed by layer group without changing the model and in memory that does not grow."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from hf_critmom.upstream import multi_tensor_operations

SKETCH_SIZE = 2048
"""Values that stand for the gradient of a group in a sketch; its inner products are off by about sqrt(2 / size)."""

MOST_UNITS = 40
"""Most resampling units, each a sum over the same number of batches."""

_PERIOD = 1_048_573
"""Period of the random signs: a prime, so that no two values of one place of a sketch use the same of them."""


_HALF = (torch.bfloat16, torch.float16)
"""Types in which a norm would be rounded to two or three digits."""


class GradientSums:
    """Sums of gradients over batches of items.

    Beside the sum itself (memory of the parameters, once) it keeps sketches of at most `MOST_UNITS` units, which are
    sums over equally many consecutive batches: when there would be more, neighbours are joined.

    A sketch is a random linear map to few values, which keeps inner products on average: every value is given a random
    sign and added to one of `SKETCH_SIZE` places in turn. That is the count sketch of Charikar, Chen and Farach-Colton
    (2002) with places that are filled evenly. A group that is no larger is kept as it is.

    Args:
        groups: Trainable parameters of each group.
    """

    def __init__(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        self.parameters = [parameter for members in groups.values() for parameter in members]
        self._members = list(_consecutive([len(members) for members in groups.values()]))
        self._sizes = [sum(parameter.numel() for parameter in members) for members in groups.values()]
        self.parts = list(_consecutive([min(size, SKETCH_SIZE) for size in self._sizes]))
        self._device = self.parameters[0].device
        wide = [torch.promote_types(parameter.dtype, torch.float32) for parameter in self.parameters]
        self.sums = [torch.zeros_like(p, dtype=dtype) for p, dtype in zip(self.parameters, wide, strict=True)]
        whole_rows = [-(-size // SKETCH_SIZE) * SKETCH_SIZE for size in self._sizes]
        self._flat = torch.empty(max(whole_rows), dtype=wide[0], device=self._device)  # one group at a time
        self.items = 0
        self.batches = 0
        self.loss = 0.0
        self._units: list[tuple[int, Tensor]] = []
        self._batches_per_unit = 1
        self._batches_in_last = 0

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None], loss: Tensor, items: int) -> None:
        """Adds a batch: gradients (None: zero) and loss, both summed over its items."""
        sketches = []
        for group, members in enumerate(self._members):
            flat = self._flattened(gradients[members], self.parameters[members])
            sketches.append(self._sketch(flat, group))
        present = [(total, part) for total, part in zip(self.sums, gradients, strict=True) if part is not None]
        for total, part in present:
            total.add_(part)
        self.loss += float(loss)
        self.items += items
        self.batches += 1
        self._add_unit(items, torch.cat(sketches))

    def _flattened(self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
        """The gradient of one group in one piece, which the next one overwrites."""
        start = 0
        for gradient, parameter in zip(gradients, parameters, strict=True):
            stop = start + parameter.numel()
            if gradient is None:
                self._flat[start:stop].zero_()
            else:
                self._flat[start:stop].view(parameter.shape).copy_(full(gradient))
            start = stop
        return self._flat[:start]

    def _sketch(self, flat: Tensor, group: int) -> Tensor:
        size, width = self._sizes[group], SKETCH_SIZE
        if size <= width:
            return flat.clone()
        signs = _signs(flat.device, flat.dtype)
        for start in range(0, size, _PERIOD):
            piece = flat[start : start + _PERIOD]
            piece.mul_(signs[: len(piece)])
        rows = -(-size // width)
        self._flat[size : rows * width].zero_()
        return self._flat[: rows * width].view(rows, width).sum(0)

    def _add_unit(self, items: int, vector: Tensor) -> None:
        if self._units and self._batches_in_last < self._batches_per_unit:
            before, sum_before = self._units[-1]
            self._units[-1] = (before + items, sum_before + vector)
            self._batches_in_last += 1
            return
        if len(self._units) == MOST_UNITS:
            self._units = joined_in_pairs(self._units)
            self._batches_per_unit *= 2
        self._units.append((items, vector))
        self._batches_in_last = 1

    def units(self, accelerator: Accelerator | None) -> list[tuple[int, np.ndarray]]:
        """Items and sketched gradient sum of each unit, of all processes."""
        units = []
        if self._units:
            vectors = torch.stack([vector for _, vector in self._units]).cpu().double().numpy()
            units = [(items, vector) for (items, _), vector in zip(self._units, vectors, strict=True)]
        if accelerator is not None and accelerator.num_processes > 1 and not is_sharded(self.parameters):
            units = gather_object(units)
            while len(units) > MOST_UNITS:
                units = joined_in_pairs(units)
        return units

    def reduce(self, accelerator: Accelerator | None) -> None:
        """Turns the sums of this process into sums over all of them; sharded gradients were summed on the way."""
        if accelerator is None or accelerator.num_processes == 1 or is_sharded(self.parameters):
            return
        self.sums = [accelerator.reduce(total, reduction="sum") for total in self.sums]
        counts = torch.tensor([self.items, self.batches, self.loss], dtype=torch.float64, device=self._device)
        items, batches, self.loss = accelerator.reduce(counts, reduction="sum").tolist()
        self.items, self.batches = int(items), int(batches)

    def group_norms(self) -> np.ndarray:
        """Norm of the summed gradient of each group."""
        return self._norms(self.sums)

    def parameter_norms(self) -> np.ndarray:
        """Norm of the trainable parameters of each group."""
        return self._norms([parameter.detach() for parameter in self.parameters])

    def _norms(self, tensors: Sequence[Tensor]) -> np.ndarray:
        norms = stacked_norms(tensors).cpu().double().numpy()
        return np.array([math.sqrt(math.fsum(norms[members] ** 2)) for members in self._members])


@functools.lru_cache(maxsize=4)
def _signs(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random signs, the same in every process."""
    drawn = torch.randint(0, 2, (_PERIOD,), generator=torch.Generator().manual_seed(0))
    return drawn.mul_(2).sub_(1).to(device, dtype)


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter], *, sharded: bool) -> list[Tensor | None]:
    """Gradients of a loss, out of place: whatever ``.grad`` held, it holds afterwards.

    Gradients of sharded parameters (FSDP2) arrive in ``.grad`` only, as means over the processes; what it held is set
    aside.
    """
    if not sharded:
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        loss.backward()
        return [parameter.grad for parameter in parameters]
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


@torch.no_grad()
def stacked_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Norms of tensors, sharded or not, on the first one's device: one kernel, and nothing is waited for."""
    tensors = [tensor.float() if tensor.dtype in _HALF else tensor for tensor in tensors]
    norms = [full(norm) for norm in multi_tensor_operations()["norm"](tensors)]
    wide = torch.float64 if any(norm.dtype == torch.float64 for norm in norms) else torch.float32
    return torch.stack([norm.to(norms[0].device, wide) for norm in norms])


def full(tensor: Tensor) -> Tensor:
    """The full tensor of one that may be sharded over processes; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(parameters: Sequence[Tensor]) -> bool:
    """Whether any of the parameters is sharded over processes (FSDP2)."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def reshard(model: nn.Module) -> None:
    """Reshards parameters that FSDP2 left unsharded after a forward pass, as it does with those of the outermost
    module."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def joined_in_pairs(units: list) -> list:
    """Units with every two neighbours joined."""
    pairs = [
        (first[0] + second[0], first[1] + second[1]) for first, second in zip(units[::2], units[1::2], strict=False)
    ]
    return pairs + units[2 * len(pairs) :]


def _consecutive(lengths: Sequence[int]) -> Iterator[slice]:
    start = 0
    for length in lengths:
        yield slice(start, start + length)
        start += length
