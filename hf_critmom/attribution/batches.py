"""Batches of a data loader, and batches that are made of their chosen rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import SequentialSampler

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.upstream import rows_of_last_batch

IGNORED = -100
"""The label that losses leave out."""


@dataclass(frozen=True)
class Batch:
    """A batch of a loader on the model's device.

    Attributes:
        inputs: What the model is called with.
        labels: The labels among them.
        valid: How many of its first rows are real: Accelerate fills up the last batch of each process.
        first: Index of its first row in the order of the whole dataset.
    """

    inputs: dict[str, Any]
    labels: Tensor
    valid: int
    first: int


def batches(
    dataloader: Any, device: torch.device, accelerator: Accelerator | None, label_name: str = "labels"
) -> Iterator[Batch]:
    """The batches of a loader, of this process; with an accelerator the loader is one that it prepared.

    Raises:
        AttributionError: If a batch is not a mapping with labels.
    """
    processes, process = (accelerator.num_processes, accelerator.process_index) if accelerator is not None else (1, 0)
    filled_up = getattr(getattr(dataloader, "batch_sampler", None), "even_batches", True)
    before = 0
    for inputs in dataloader:
        if not isinstance(inputs, Mapping) or not isinstance(inputs.get(label_name), Tensor):
            found = f"one with {', '.join(map(str, inputs))}" if isinstance(inputs, Mapping) else type(inputs).__name__
            raise AttributionError(
                f"A batch must be a mapping that holds {label_name}, got {found}: without labels nothing can be wrong."
            )
        inputs = dict(send_to_device(dict(inputs), device))
        rows = valid = len(inputs[label_name])
        full = rows
        if processes > 1:
            full = max(rows, getattr(dataloader, "total_batch_size", 0) // processes)  # a last batch may be smaller
            if filled_up and (real := rows_of_last_batch(dataloader)) is not None:
                valid = min(max(real - process * full, 0), rows)
        yield Batch(inputs, inputs[label_name], valid, before + process * full)
        before += processes * full


@contextmanager
def shuffled(dataloader: Any, seed: int, label_name: str = "labels") -> Iterator[np.ndarray | None]:
    """Within, a loader takes the rows of its dataset in random order, where it would take one after the other.

    Consecutive rows are a sample of the dataset only then: a folder of images is sorted by class. Texts whose tokens
    have labels stay in their order, for neighbours are often pieces of one document, which one unit should hold.

    Yields:
        The order of the rows that the loader gives, (rows,); None where it is the loader's own: that of a stream, a
        sampler or texts.
    """
    batch_sampler = getattr(dataloader, "batch_sampler", None)
    while inner := getattr(batch_sampler, "batch_sampler", None):  # Accelerate's, of the processes
        batch_sampler = inner
    sampler = getattr(batch_sampler, "sampler", None)
    if batch_sampler is None or type(sampler) is not SequentialSampler or _labels_tokens(dataloader, label_name):
        yield None
        return
    given = len(dataloader) * (getattr(dataloader, "total_batch_size", None) or batch_sampler.batch_size)
    given = min(given, len(sampler))  # less where an incomplete last batch is dropped
    order = np.random.default_rng(seed).permutation(given)
    batch_sampler.sampler = [*order.tolist(), *range(given, len(sampler))]
    try:
        yield order
    finally:
        batch_sampler.sampler = sampler


def _labels_tokens(dataloader: Any, label_name: str) -> bool:
    """Whether the labels that a loader gives are those of tokens, by its first row."""
    if not len(dataloader.dataset):
        return False
    batch = dataloader.collate_fn([dataloader.dataset[0]])
    labels = batch.get(label_name) if isinstance(batch, Mapping) else None
    return isinstance(labels, Tensor) and has_tokens(labels)


@dataclass
class Rows:
    """Selected rows.

    Attributes:
        inputs: What the model is called with.
        count: Number of rows.
        items: Number of selected items in each row, (rows,).
    """

    inputs: dict[str, Any]
    count: int
    items: Tensor

    def take(self, places: Any) -> "Rows":
        """Some of the rows, by a slice, a mask or indices."""
        items = self.items[places]
        inputs = {
            name: value[places] if _is_batched(value, self.count) else value for name, value in self.inputs.items()
        }
        return Rows(inputs, len(items), items)

    def fits(self, other: "Rows") -> bool:
        """Whether the two can be in one batch: texts of other lengths cannot."""
        if self.inputs.keys() != other.inputs.keys():
            return False
        for name, value in self.inputs.items():
            others = other.inputs[name]
            if _is_batched(value, self.count) and _is_batched(others, other.count):
                if value.shape[1:] != others.shape[1:] or value.dtype != others.dtype:
                    return False
            elif isinstance(value, Tensor) or isinstance(others, Tensor) or value != others:
                return False
        return True

    @staticmethod
    def joined(parts: Sequence["Rows"]) -> "Rows":
        """One batch of rows that fit."""
        first = parts[0]
        inputs = {
            name: torch.cat([part.inputs[name] for part in parts]) if _is_batched(value, first.count) else value
            for name, value in first.inputs.items()
        }
        return Rows(inputs, sum(part.count for part in parts), torch.cat([part.items for part in parts]))


def chosen_rows(batch: Batch, mask: Tensor, label_name: str = "labels") -> Rows | None:
    """The rows of a batch that hold an item of a mask (of the shape of its labels), other tokens' labels left out."""
    mask = mask.clone()
    mask[batch.valid :] = False
    items = mask.view(len(mask), -1).sum(1)
    if not bool(items.any()):
        return None
    inputs = batch.inputs
    if mask.ndim > 1:
        inputs = {**inputs, label_name: batch.labels.masked_fill(~mask, IGNORED)}
    return Rows(inputs, len(mask), items).take(items > 0)


def has_tokens(labels: Tensor) -> bool:
    """Whether the labels of a batch are classes of tokens, (rows, tokens)."""
    return labels.ndim == 2 and not labels.is_floating_point()


def _is_batched(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
