"""Single precision for what is stored in half precision."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef


def is_narrow(tensor: Tensor) -> bool:
    """Whether a tensor holds floating-point numbers of less than 32 bits."""
    return tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 32


def wide(tensor: Tensor) -> Tensor:
    """A tensor whose floating-point numbers are in single precision at least; itself if they are so already."""
    return tensor.float() if is_narrow(tensor) else tensor


class WideCopies:
    """Copies in single precision, of which a graph keeps none.

    A function that needs a weight on the way back saves it; a copy that was made here is not saved, but made again from
    its original in half precision, which holds the same numbers.
    """

    def __init__(self) -> None:
        self._originals: dict[int, tuple[StorageWeakRef, Tensor]] | None = None

    def wide(self, tensor: Tensor) -> Tensor:
        """As `wide`; while a graph is built, a copy is remembered as that of its original."""
        copy = wide(tensor)
        if self._originals is not None and copy is not tensor and copy.stride() == tensor.stride():
            storage = StorageWeakRef(copy.untyped_storage())
            self._originals[storage.cdata] = (storage, tensor.detach())
        return copy

    @contextmanager
    def not_kept(self) -> Iterator[None]:
        """Within, the graph that is built keeps originals in the place of copies."""
        self._originals = {}
        try:
            with saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._originals = None

    def _pack(self, saved: Tensor) -> Any:
        if not self._originals or saved.dtype != torch.float32 or saved.layout != torch.strided:
            return saved
        storage, original = self._originals.get(StorageWeakRef(saved.untyped_storage()).cdata, (None, None))
        if storage is None or original is None or storage.expired():
            return saved
        return _Part(original, saved.shape, saved.stride(), saved.storage_offset())

    def _unpack(self, packed: Any) -> Tensor:
        if not isinstance(packed, _Part):
            return packed
        return self.wide(packed.original).as_strided(packed.shape, packed.stride, packed.offset)


class _Part(NamedTuple):
    """A view of a copy: of all of it, a transposed one, or a piece."""

    original: Tensor
    shape: Sequence[int]
    stride: Sequence[int]
    offset: int | torch.SymInt
