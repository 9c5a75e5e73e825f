"""Which items a gradient is taken of: predictions and selections.

An item is what is predicted: an example of a classifier, or a labelled token of a language model. A row is what a batch
is made of: an example, or a sequence. A row is selected if any of its items is, and the labels of its other tokens are
set to -100, which the losses of Transformers and torch leave out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from hf_critmom.attribution.batches import IGNORED, Rows, has_tokens
from hf_critmom.attribution.errors import AttributionError

ComputeLoss = Callable[[nn.Module, dict[str, Any]], tuple[Tensor, Any]]
"""Loss (a mean over items) and outputs of a model on a batch with labels."""

SELECTIONS: dict[str, str] = {
    "misclassified": "items whose prediction is not their label",
    "correct": "items whose prediction is their label",
    "all": "all items",
    "top_loss": "the rows of largest loss",
}


def model_loss(model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
    """The loss that a model computes from labels, with its outputs.

    Raises:
        AttributionError: If it computes none.
    """
    outputs = model(**inputs)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0] if isinstance(outputs, tuple) else None
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise AttributionError(
            f"{type(model).__name__} returned no loss for labelled examples: expected a model that computes one from "
            "labels, as the Auto classes with a head do, or pass compute_loss."
        )
    return loss, outputs


# ---------------------------------------------------------------------------------------------------------- predictions


@dataclass(frozen=True)
class Items:
    """What a model says of the items of a batch; tensors of shape (rows,), or (rows, tokens) for tokens.

    Attributes:
        labels: Class indices.
        predicted: Class indices of the largest logits, at the places of their labels.
        counted: Which of them are items at all: tokens without a label, and the first token of a text that a model
            predicts from left to right, are not.
        logits: (rows, classes) or (rows, tokens, classes), at the places of their labels.
    """

    labels: Tensor
    predicted: Tensor
    counted: Tensor
    logits: Tensor

    @property
    def wrong(self) -> Tensor:
        """Items whose prediction is not their label."""
        return self.counted & (self.predicted != self.labels)

    @property
    def right(self) -> Tensor:
        """Items whose prediction is their label."""
        return self.counted & (self.predicted == self.labels)

    @classmethod
    def joined(cls, parts: Sequence["Items"]) -> "Items":
        """The items of several parts of a batch, in their order."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((part.labels, part.predicted, part.counted, part.logits) for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def row_losses(self) -> Tensor:
        """Cross-entropy of each row that has items, the mean over them, (rows with items,)."""
        labels = self.labels.masked_fill(~self.counted, IGNORED).flatten()
        each = nn.functional.cross_entropy(self.logits.flatten(0, -2).float(), labels, reduction="none")
        counts = self.counted.view(len(self.labels), -1).sum(1)
        return (each.view(len(self.labels), -1).sum(1) / counts)[counts > 0]


def counted_items(labels: Tensor, shifted: bool) -> Tensor:
    """Which labels a loss counts, as a mask of their shape; (rows,) where labels are numbers, all of which count.

    Args:
        labels: The labels of a batch.
        shifted: See `shifts_labels`.
    """
    if labels.is_floating_point():
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    counted = labels != IGNORED
    if shifted:
        counted[:, 0] = False
    return counted


def items_of(model: nn.Module, outputs: Any, labels: Tensor, shifted: bool) -> Items:
    """Compares a model's outputs with labels.

    Args:
        model: The model, for messages.
        outputs: Its outputs.
        labels: The labels.
        shifted: See `shifts_labels`.

    Raises:
        AttributionError: If the outputs are not logits of classes for labels that are class indices.
    """
    logits = _logits(outputs)
    indices = labels.ndim in (1, 2) and not labels.is_floating_point()
    if not isinstance(logits, Tensor) or not indices or logits.shape[:-1] != labels.shape:
        found = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else "no logits"
        raise AttributionError(
            f"{type(model).__name__} cannot be right or wrong: it has {found} for labels of shape "
            f"{tuple(labels.shape)} and type {str(labels.dtype).removeprefix('torch.')}, where logits of classes and "
            "their indices, for examples or tokens, were expected; select all works without."
        )
    if shifted:  # at the place of each token, what was said before it; nothing was said before the first
        logits = logits.roll(1, dims=1)
    return Items(labels, logits.argmax(-1), counted_items(labels, shifted), logits)


@torch.no_grad()
def shifts_labels(
    model: nn.Module, compute_loss: ComputeLoss, inputs: Mapping[str, Any], label_name: str = "labels"
) -> bool | None:
    """Whether a loss compares each label with the logits of the place before it, so that the first does not count.

    What the loss does decides, since names of classes and of loss functions do not: of two networks named alike one
    shifts labels and the other expects them shifted. One text of the batch is given a single label, at its first place
    and then at its second. A loss at the same place counts both, a shifted one is without the first as it is without
    any label, whatever its smoothing, weights and scale.

    Args:
        model: In evaluation mode.
        compute_loss: Loss and outputs from model and batch.
        inputs: A batch.
        label_name: Its labels.

    Returns:
        None for a batch that does not tell: it has no tokens, or the loss is not finite.

    Raises:
        AttributionError: If the loss is neither.
    """
    labels = inputs[label_name]
    if not has_tokens(labels):
        return False
    if not labels.numel():
        return None
    lengths = (labels != IGNORED).sum(1)
    text = Rows(dict(inputs), len(labels), lengths).take([int(lengths.argmax())]).inputs

    loss, outputs = compute_loss(model, dict(text))
    if lengths.max() > 1 and not math.isfinite(loss):
        return None
    logits, label = _logits(outputs), 0
    if isinstance(logits, Tensor) and logits.shape[:-1] == (1, labels.shape[1]):
        label = int(logits[0, :2].amax(0).argmin())  # one that is not predicted, for it may have no loss then

    def loss_of(*places: int) -> float:
        kept = torch.full_like(text[label_name], IGNORED)
        kept[:, list(places)] = label
        return float(compute_loss(model, {**text, label_name: kept})[0])

    without = loss_of()  # not a number, 0, or what else is added to the loss
    counted = [not math.isnan(one) and one != without for one in map(loss_of, range(labels.shape[1])[:2])]
    if counted[1:] == [False]:
        raise AttributionError(
            f"The loss of {type(model).__name__} compares labels neither with the logits of their own places nor with "
            "those of the places before them, so its predictions cannot be told: pass a compute_loss that does either."
        )
    return not counted[0]


def not_finite(model: nn.Module, loss: float) -> str:
    """That a loss is not finite, as a sentence."""
    return (
        f"The loss of {type(model).__name__} is {loss}: the model has diverged, overflows in the precision it is "
        "evaluated in, or gets inputs that are not finite."
    )


def _logits(outputs: Any) -> Any:
    return outputs.get("logits") if isinstance(outputs, Mapping) else outputs[1] if len(outputs) > 1 else None


# ------------------------------------------------------------------------------------ all predictions, and what matches


@dataclass(frozen=True)
class Predictions:
    """Predictions of a whole dataset in its order, (examples,), or (texts, tokens) filled up with -100.

    Attributes:
        labels: Class indices; -100: not an item.
        predicted: Class indices.
        probabilities: Probability of every class, (examples, classes), where they were kept.
    """

    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None = None

    @property
    def counted(self) -> np.ndarray:
        return self.labels != IGNORED

    @property
    def wrong(self) -> np.ndarray:
        return self.counted & (self.predicted != self.labels)

    @property
    def right(self) -> np.ndarray:
        return self.counted & (self.predicted == self.labels)

    @property
    def accuracy(self) -> float:
        """Share of the items that are right."""
        return float(self.right.sum() / self.counted.sum())

    def matched(self, seed: int = 0) -> np.ndarray:
        """A mask of correctly predicted items, of every class as many as are wrong, drawn at random.

        Where a class has fewer right items than wrong ones, all of them are taken.
        """
        rng = np.random.default_rng(seed)
        chosen = np.zeros(self.labels.size, dtype=bool)
        labels, wrong, right = self.labels.ravel(), self.wrong.ravel(), self.right.ravel()
        order = np.argsort(labels, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            candidates = members[right[members]]
            chosen[rng.permutation(candidates)[: int(wrong[members].sum())]] = True
        return chosen.reshape(self.labels.shape)


def in_order(
    parts: Sequence[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]], accelerator: Accelerator | None
) -> Predictions:
    """Puts predictions of batches into the order of the dataset.

    Args:
        parts: Index of the first row, labels, predictions, and probabilities or None, of every batch of this process.
        accelerator: With it the batches of all processes are gathered.
    """
    parts = list(parts)
    if accelerator is not None and accelerator.num_processes > 1:
        parts = gather_object(parts)
    parts = sorted((part for part in parts if len(part[1])), key=lambda part: part[0])
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return Predictions(empty, empty)
    width = max((part[1].shape[1] for part in parts if part[1].ndim == 2), default=0)

    def filled(values: np.ndarray) -> np.ndarray:
        if values.ndim == 1:
            return values
        return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=IGNORED)

    labels = np.concatenate([filled(part[1]) for part in parts])
    predicted = np.concatenate([filled(part[2]) for part in parts])
    chances = [part[3] for part in parts if part[3] is not None]
    return Predictions(labels, predicted, np.concatenate(chances) if chances and labels.ndim == 1 else None)
