"""Batches of a data loader, and batches that are made of their chosen rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor

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


def _is_batched(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
