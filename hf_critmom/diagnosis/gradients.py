"""Gradients of many batches, summed by layer group without changing the model and in memory that does not grow."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

SKETCH_SIZE = 2048
"""Values that stand for the gradient of a group in a sketch; its inner products are off by about sqrt(2 / size)."""

MOST_UNITS = 40
"""Units of a resampling: sums over equally many batches each."""


class Sketch:
    """A random linear map of the gradient of each group to few values, which keeps inner products on average.

    Every value is given a random sign and added to one of `SKETCH_SIZE` places in turn: the count sketch of Charikar,
    Chen and Farach-Colton (2002) with places that are filled evenly. A group that is no larger is kept as it is.

    Args:
        sizes: Number of values of each group.
        device: Where the gradients are.
        seed: Of the signs; the same in every process.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device, seed: int = 0) -> None:
        self.widths = [min(size, SKETCH_SIZE) for size in sizes]
        generator = torch.Generator().manual_seed(seed)
        self._signs: list[Tensor | None] = []
        for size in sizes:
            signs = torch.randint(0, 2, (size,), dtype=torch.int8, generator=generator) if size > SKETCH_SIZE else None
            self._signs.append(None if signs is None else signs.mul_(2).sub_(1).to(device))

    def __call__(self, group: int, gradient: Tensor) -> Tensor:
        """The sketch (width,) of a group's gradient, given as one flat tensor."""
        signs = self._signs[group]
        if signs is None:
            return gradient
        width = self.widths[group]
        signed = nn.functional.pad(gradient * signs, (0, -len(gradient) % width))
        return signed.view(-1, width).sum(0)

    @property
    def parts(self) -> list[slice]:
        """Where each group's values lie in the sketch of the whole gradient."""
        ends = np.cumsum(self.widths)
        return [slice(int(end) - width, int(end)) for end, width in zip(ends, self.widths, strict=True)]


class GradientSums:
    """Sums of gradients over batches of items.

    Beside the sum itself (memory of the parameters, once) it keeps per group the sum of the batches' norms, and
    sketches of at most `MOST_UNITS` units, which are sums over equally many consecutive batches: when there would be
    more, neighbours are joined.

    Args:
        groups: Trainable parameters of each group.
    """

    def __init__(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        self.parameters = [parameter for members in groups.values() for parameter in members]
        self._members = list(_consecutive([len(members) for members in groups.values()]))
        self._device = self.parameters[0].device
        sizes = [sum(parameter.numel() for parameter in members) for members in groups.values()]
        self.sketch = Sketch(sizes, self._device)
        self.sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in self.parameters]
        self.items = 0
        self.batches = 0
        self.batch_norms = torch.zeros(len(sizes), dtype=torch.float64, device=self._device)
        self.loss = torch.zeros((), dtype=torch.float64, device=self._device)
        self._units: list[tuple[int, Tensor]] = []
        self._batches_per_unit = 1
        self._batches_in_last = 0

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None], loss: Tensor, items: int) -> None:
        """Adds a batch: gradients (None: zero) and loss, both summed over its items."""
        squares, sketches = [], []
        for group, members in enumerate(self._members):
            flat = [
                torch.zeros(parameter.numel(), device=self._device) if gradient is None else full(gradient).reshape(-1)
                for gradient, parameter in zip(gradients[members], self.parameters[members], strict=True)
            ]
            joined = torch.cat([part.to(self._device, torch.promote_types(part.dtype, torch.float32)) for part in flat])
            squares.append(torch.linalg.vector_norm(joined, dtype=torch.float64))
            sketches.append(self.sketch(group, joined))
        for total, gradient in zip(self.sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient)
        self.batch_norms += torch.stack(squares)
        self.loss += loss.detach().to(self._device)
        self.items += items
        self.batches += 1
        self._add_unit(items, torch.cat(sketches))

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
            vectors = torch.stack([vector for _, vector in self._units]).double().cpu().numpy()
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
        self.batch_norms = accelerator.reduce(self.batch_norms, reduction="sum")
        self.loss = accelerator.reduce(self.loss, reduction="sum")
        counts = accelerator.reduce(torch.tensor([self.items, self.batches], device=self._device), reduction="sum")
        self.items, self.batches = counts.tolist()

    def group_norms(self) -> np.ndarray:
        """Norm of the summed gradient of each group."""
        return self._norms(self.sums)

    def parameter_norms(self) -> np.ndarray:
        """Norm of the trainable parameters of each group."""
        return self._norms([parameter.detach() for parameter in self.parameters])

    def _norms(self, tensors: Sequence[Tensor]) -> np.ndarray:
        norms = stacked_norms(tensors).double().cpu().numpy()
        return np.array([math.sqrt(math.fsum(norms[members] ** 2)) for members in self._members])


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter], *, sharded: bool) -> list[Tensor | None]:
    """Gradients of a loss, out of place: whatever ``.grad`` held, it holds afterwards.

    Sharded parameters (FSDP2) get theirs through ``.grad`` alone, as means over the processes: there it is put aside.
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
    norms = [full(norm) for norm in torch._foreach_norm(list(tensors))]
    return torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms])


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over processes, all of which must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(parameters: Sequence[Tensor]) -> bool:
    """Whether any of the parameters is sharded over processes (FSDP2)."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def reshard(model: nn.Module) -> None:
    """Shards parameters again that FSDP2 left whole after a forward pass, as it does with the outermost module's."""
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
