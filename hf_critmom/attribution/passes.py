"""One pass over a data loader: predicts, chooses rows, and passes only these forward and backward again."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderStateMixin
from accelerate.utils import gather_object
from torch import Tensor, nn

from hf_critmom.attribution.batches import Batch, Rows, batches, chosen_rows, shuffled
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.gradients import GradientSums, gradients_of, is_sharded
from hf_critmom.attribution.predictions import (
    ComputeLoss,
    Items,
    counted_items,
    items_of,
    shifts_labels,
)

LARGEST_GRADIENT_BATCH = 32
"""Default number of rows in a backward pass: several smaller batches show a spread, one large batch does not."""

FEWEST_GRADIENT_BATCHES = 16
"""Backward passes over which the chosen rows are spread where they are few, so that there is an interval."""

PREDICTED_ROWS_PER_BATCH = 128
"""Predicted rows for each such backward pass, at least: a backward pass of few rows costs many times their
prediction."""

TOP_ROWS = 500
"""Default number of rows of largest loss: the same for batches of any size."""

CPU_ROWS = 64
"""Rows that are predicted at once on a CPU: the activations of more rows do not stay in its caches."""

_WAITING_BATCHES = 8
"""Rows are collected for this many backward passes before it is clear that they are not few."""


class GradientPass:
    """Adds up gradients of the chosen rows of a data loader.

    Args:
        model: In evaluation mode.
        sums: What the gradients are added to.
        compute_loss: Loss and outputs from model and batch.
        accelerator: The one that prepared the loader, or None for this process alone.
        label_name: The batches' labels.
        seed: Seed for the order of the rows.
    """

    def __init__(
        self,
        model: nn.Module,
        sums: GradientSums,
        compute_loss: ComputeLoss,
        accelerator: Accelerator | None,
        label_name: str,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.sums = sums
        self.compute_loss = compute_loss
        self.accelerator = accelerator
        self.label_name = label_name
        self.seed = seed
        self.device = device_of(model)
        self.sharded = is_sharded(sums.parameters)
        if self.sharded and accelerator is None:
            raise AttributionError(
                f"The parameters of {type(model).__name__} are sharded over processes: pass the accelerator, and call "
                "this in every process."
            )
        self._total = torch.zeros((), dtype=torch.int64, device=self.device)
        self._wrong = torch.zeros_like(self._total)
        self._rows = torch.zeros_like(self._total)
        self._tokens = False
        self._shifted: bool | None = None
        self._rows_of_a_batch = 0
        self._predicted_rows = 0
        self._spare: Rows | None = None

    def run(self, dataloader: Any, select: str | np.ndarray, num_top_rows: int, batch_size: int | None) -> None:
        """Makes one pass over the loader; see `attribute_gradients` for the arguments."""
        with shuffled(dataloader, self.seed, self.label_name) as order:
            if isinstance(select, str) and select == "top_loss":
                self._add_all(self._of_largest_loss(dataloader, num_top_rows), batch_size)
            else:
                if order is not None and not isinstance(select, str) and len(select) >= len(order):
                    select = select[order]
                self._add_all(self._masked(dataloader, select), batch_size)

    def _add_all(self, chosen: Iterator[Rows | None], batch_size: int | None) -> None:
        if not self.sharded:
            for rows in self._joined(chosen, batch_size):
                self._add(rows)
            return
        for found in chosen:  # collective: every process passes at the same places, if need be without weight
            if self._in_all(found is not None):
                self._add(found or self._without_weight())

    def counts(self) -> tuple[int, int, int, str]:
        """Rows, items and wrong items, of all processes, and what the items are."""
        counts = torch.stack([self._rows, self._total, self._wrong, torch.full_like(self._total, self._tokens)])
        if self.accelerator is not None:
            counts = self.accelerator.reduce(counts, reduction="sum")
        rows, total, wrong, tokens = counts.tolist()
        return rows, total, wrong, "tokens" if tokens else "examples"

    # ------------------------------------------------------------------------------------------------------- gradients

    def _add(self, rows: Rows) -> None:
        items = int(rows.items.sum())
        if torch.is_autocast_enabled(self.device.type):
            torch.clear_autocast_cache()  # it holds weights that were cast where no gradients were wanted
        with torch.enable_grad():
            loss, _ = self.compute_loss(self.model, dict(rows.inputs))
            if not loss.requires_grad:
                raise AttributionError(
                    f"The loss of {type(self.model).__name__} does not depend on its trainable parameters: there is no "
                    "gradient to attribute."
                )
            summed = loss.to(torch.promote_types(loss.dtype, torch.float32)) * items
            gradients = gradients_of(summed, self.sums.parameters, sharded=self.sharded)
        summed = summed.detach()
        if self.sharded and self.accelerator is not None:  # these gradients are means over the processes
            gradients = [None if part is None else part * self.accelerator.num_processes for part in gradients]
            items = self._in_all(items)
            summed = self.accelerator.reduce(summed, reduction="sum")
        self.sums.add(gradients, summed, items)

    def _in_all(self, number: int) -> int:
        """The sum of a number over the processes."""
        if self.accelerator is None:
            return int(number)
        return int(self.accelerator.reduce(torch.tensor(int(number), device=self.device), reduction="sum"))

    def _without_weight(self) -> Rows:
        if self._spare is None:
            raise AttributionError("A process got no batch at all: give each of them one, with fewer rows in a batch.")
        return self._spare

    # ---------------------------------------------------------------------------------------------------------- choice

    def _masked(self, dataloader: Any, select: str | np.ndarray) -> Iterator[Rows | None]:
        for batch in self._batches(dataloader):
            if isinstance(select, str) and select != "all":
                items = self._items(batch)
                yield chosen_rows(batch, items.wrong if select == "misclassified" else items.right, self.label_name)
                continue
            counted = counted_items(batch.labels, bool(self._shifted))
            self._total += counted[: batch.valid].sum()
            mask = counted if isinstance(select, str) else counted & _part_of_mask(select, batch, counted)
            yield chosen_rows(batch, mask, self.label_name)

    def _of_largest_loss(self, dataloader: Any, num_rows: int) -> Iterator[Rows | None]:
        kept: list[tuple[float, Rows]] = []
        for batch in self._batches(dataloader):
            items = self._items(batch)
            rows = chosen_rows(batch, items.counted, self.label_name)
            if rows is None:
                continue
            # What is not a number counts as the largest, so that it is chosen, and found where all processes see it.
            losses = items.row_losses()[: rows.count].nan_to_num(torch.inf, posinf=torch.inf)
            largest = losses.topk(min(num_rows, rows.count))
            bound = kept[-1][0] if len(kept) == num_rows else -math.inf
            for loss, place in zip(*(values.tolist() for values in largest), strict=True):
                if loss > bound:
                    kept.append((loss, rows.take([place])))
            kept = sorted(kept, key=lambda pair: -pair[0])[:num_rows]
        places = len(kept)
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            everywhere = sorted(gather_object([loss for loss, _ in kept]), reverse=True)
            bound = everywhere[:num_rows][-1] if everywhere else math.inf
            kept = [pair for pair in kept if pair[0] >= bound]
            places = max(gather_object([len(kept)]))
        random.Random(self.seed).shuffle(kept)  # units of rows in the order of their losses would differ
        yield from (rows for _, rows in kept)
        yield from [None] * (places - len(kept))

    def _items(self, batch: Batch) -> Items:
        """Predictions of a batch, counted."""
        rows = len(batch.labels)
        self._predicted_rows += rows
        size = CPU_ROWS if self.device.type == "cpu" else rows
        whole = Rows(batch.inputs, rows, torch.empty(rows))
        parts = []
        for start in range(0, rows, size):
            inputs = whole.take(slice(start, start + size)).inputs
            with torch.no_grad():
                _, outputs = self.compute_loss(self.model, dict(inputs))
                parts.append(items_of(self.model, outputs, inputs[self.label_name], bool(self._shifted)))
        items = Items.joined(parts)
        self._total += items.counted[: batch.valid].sum()
        self._wrong += items.wrong[: batch.valid].sum()
        return items

    def _batches(self, dataloader: Any) -> Iterator[Batch]:
        for batch in batches(dataloader, self.device, self.accelerator, self.label_name):
            rows = len(batch.labels)
            if self._shifted is None:
                self._shifted = shifts_labels(self.model, self.compute_loss, batch.inputs, self.label_name)
            self._rows += batch.valid
            self._tokens = batch.labels.ndim > 1 and not batch.labels.is_floating_point()
            self._rows_of_a_batch = max(self._rows_of_a_batch, rows)
            if self.sharded:
                self._spare = Rows(batch.inputs, rows, torch.zeros(rows, dtype=torch.int64)).take([0])
            yield batch

    def _joined(self, chosen: Iterator[Rows | None], batch_size: int | None) -> Iterator[Rows]:
        """Chosen rows in batches for the backward pass, holding back no more than fill a few of these."""
        waiting: list[Rows] = []
        begun = False
        for rows in chosen:
            if rows is None:
                continue
            size = batch_size or min(LARGEST_GRADIENT_BATCH, self._rows_of_a_batch)
            if waiting and not rows.fits(waiting[0]):
                yield from _split(Rows.joined(waiting), size)
                waiting, begun = [], True
            waiting.append(rows)
            count = sum(part.count for part in waiting)
            if count >= max(self._rows_of_a_batch, size * _WAITING_BATCHES):
                joined, whole = Rows.joined(waiting), count - count % size
                yield from _split(joined.take(slice(whole)), size)
                waiting, begun = [joined.take(slice(whole, None))] if whole < count else [], True
        if waiting:
            joined = Rows.joined(waiting)
            size = min(LARGEST_GRADIENT_BATCH, self._rows_of_a_batch)
            if not begun:
                wanted = FEWEST_GRADIENT_BATCHES
                if self._predicted_rows:
                    wanted = min(wanted, max(self._predicted_rows // PREDICTED_ROWS_PER_BATCH, 1))
                size = min(size, math.ceil(joined.count / wanted))
            yield from _split(joined, batch_size or size)


@contextmanager
def preserve_state(model: nn.Module, dataloader: Any) -> Iterator[None]:
    """Evaluation mode within; afterwards the modes of all modules and the random number generators are as before.

    Passing through a data loader draws from torch's generator, which training would notice. Besides the global
    generators these are the loader's and its sampler's; those of datasets and collators are their owner's to keep.
    """
    modes = {module: module.training for module in model.modules()}
    device = device_of(model)
    owners = (dataloader, getattr(dataloader, "sampler", None))
    generators = {generator for owner in owners if (generator := getattr(owner, "generator", None)) is not None}
    states = {generator: generator.get_state() for generator in generators}
    iteration = getattr(dataloader, "iteration", None)  # Accelerate's loaders count their epochs
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            model.train(modes[model])
            for module, training in modes.items():
                module.training = training
            for generator, state in states.items():
                generator.set_state(state)
            if iteration is not None:
                dataloader.iteration = iteration
            if isinstance(dataloader, DataLoaderStateMixin):  # else one that failed midway would stay the active one
                dataloader.end()
            random.setstate(python)
            np.random.set_state(numpy)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs belong."""
    return next(model.parameters()).device


def _split(rows: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, rows.count, size):
        yield rows.take(slice(start, start + size))


def _part_of_mask(mask: np.ndarray, batch: Batch, counted: Tensor) -> Tensor:
    """The rows of a mask over the dataset that belong to a batch, in the shape of its items."""
    shape = counted.shape
    if mask.ndim != len(shape) or (batch.valid and len(mask) < batch.first + batch.valid):
        raise AttributionError(unfitting_mask(mask, f"whose batches have items of shape {tuple(shape)}"))
    part = np.zeros(shape, dtype=bool)
    rows = mask[batch.first : batch.first + batch.valid]
    if mask.ndim == 1:
        part[: batch.valid] = rows
    else:
        width = min(rows.shape[1], shape[1])
        part[: batch.valid, :width] = rows[:, :width]
    return torch.from_numpy(part).to(batch.labels.device)


def unfitting_mask(mask: np.ndarray, why: str) -> str:
    """That a mask is not of this dataset, as a sentence."""
    return (
        f"A mask of shape {mask.shape} does not fit the dataset, {why}: expected one made by "
        "predict(model, dataloader) with the same loader."
    )
