"""Gradient attribution: how the gradient of the loss on chosen examples is spread over a model's layer groups.

The paper (I. Pasichnyk, arXiv 2603.28921) attributes the mistakes that are left to layers by the gradients on
misclassified images. Which norm it takes and how it normalises it could not be read, so what follows is our own choice:
the share of a group is its part of the squared norm of the *mean* gradient over the chosen examples. Squared norms of
groups add up to that of the whole model, so shares add up to 1, and splitting a group splits its share. Beside it stand
the norms themselves, relative to the parameters (as in Auto-RGN, Lee et al., arXiv 2210.11466) and per parameter,
because a norm by itself is largest where a network is widest.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from torch import nn

from hf_critmom.attribution.bootstrap import share_intervals
from hf_critmom.attribution.errors import DiagnosisError
from hf_critmom.attribution.gradients import GradientSums, reshard
from hf_critmom.attribution.groups import Groups, LayerGroups, layer_groups
from hf_critmom.attribution.passes import GradientPass, device_of, undisturbed
from hf_critmom.attribution.predictions import (
    IGNORED,
    SELECTIONS,
    ComputeLoss,
    Predictions,
    batches,
    gathered,
    items_of,
    model_loss,
)
from hf_critmom.errors import root_message
from hf_critmom.storage.files import write_json


@dataclass(frozen=True)
class GroupGradient:
    """The gradient of one layer group over the chosen items.

    Attributes:
        norm: Norm of the mean gradient.
        mean_batch_norm: Mean over the backward passes, weighted by items, of the norm of their mean gradients. Unlike
            `norm` it grows as the passes get smaller, because the noise of single examples is in it; so it is not the
            same for another number of processes.
        share: Part of the squared norm of the whole model's mean gradient, from 0 to 1.
        share_interval: Bootstrap interval of the share: what other examples from the same source would give for this
            very model. It says nothing on other training seeds. None: too few items to tell.
        log_odds_error: Standard error of log(share / (1 - share)), from the same resampling.
        relative_norm: Norm of the mean gradient by norm of the parameters; None where these are all zero.
        rms: Root mean square of the mean gradient's values, norm / sqrt(parameters).
        parameters: Number of trainable values.
    """

    norm: float
    mean_batch_norm: float
    share: float
    share_interval: tuple[float, float] | None
    log_odds_error: float | None
    relative_norm: float | None
    rms: float
    parameters: int


@dataclass(frozen=True)
class Attribution:
    """Gradients by layer group, over chosen examples (or tokens) of a data set.

    Attributes:
        groups: Gradient of each group that has trainable parameters, in the model's order.
        frozen: Number of frozen values of each group that has any; no gradient is computed for them.
        select: What was chosen, a name in `SELECTIONS`, or "given" for a mask.
        unit: What is counted: "examples" or "tokens".
        selected: How many were chosen.
        total: How many there are in the data set.
        misclassified: How many of them are predicted wrongly; None where the selection needed no predictions.
        loss: Mean loss of the chosen ones.
        batches: Number of backward passes.
        units: Number of resampled units behind the intervals.
        confidence: Level of the intervals.
    """

    groups: dict[str, GroupGradient]
    frozen: dict[str, int]
    select: str
    unit: str
    selected: int
    total: int
    misclassified: int | None
    loss: float
    batches: int
    units: int
    confidence: float = 0.95

    @property
    def shares(self) -> dict[str, float]:
        """Share of each group."""
        return {name: group.share for name, group in self.groups.items()}

    @property
    def accuracy(self) -> float | None:
        """Share of the items that are predicted rightly, where that is known."""
        return None if self.misclassified is None else 1.0 - self.misclassified / self.total

    def ranked(self, by: str = "share") -> list[str]:
        """Names of the groups, the largest first, by `share`, `relative_norm`, `rms` or another attribute."""
        return sorted(self.groups, key=lambda name: -(getattr(self.groups[name], by) or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Attribution":
        """The inverse of `to_dict`.

        Raises:
            DiagnosisError: If it is not one.
        """
        try:
            groups = {}
            for name, group in content["groups"].items():
                interval = group["share_interval"]
                groups[name] = GroupGradient(**{**group, "share_interval": interval and (interval[0], interval[1])})
            return cls(**{**content, "groups": groups})
        except (AttributeError, KeyError, TypeError) as error:
            raise DiagnosisError(f"This is not a stored attribution ({root_message(error)}): make it anew.") from None

    def save(self, path: str | Path) -> None:
        """Writes it as JSON, whole or not at all."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Attribution":
        """Reads what `save` wrote.

        Raises:
            DiagnosisError: If the file does not exist or holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DiagnosisError(f"No attribution could be read from {path} ({root_message(error)}).") from None


def attribute_gradients(
    model: nn.Module,
    dataloader: Any,
    *,
    groups: Groups = None,
    select: str | np.ndarray = "misclassified",
    num_top_rows: int | None = None,
    batch_size: int | None = None,
    compute_loss: ComputeLoss = model_loss,
    accelerator: Accelerator | None = None,
    label_name: str = "labels",
    confidence: float = 0.95,
    seed: int = 0,
) -> Attribution:
    """Attributes the gradient of the loss on chosen examples to layer groups.

    One forward pass over the data finds what is chosen; only that is passed forward and backward again, in batches of
    its own, so the cost follows the number of errors. The model is in evaluation mode meanwhile; afterwards it is as it
    was to the bit: parameters, ``.grad``, buffers, modes, and so are the random number generators. Memory holds the
    gradient of a batch, the sum of them, and two batches of inputs: nothing that grows with the number of examples.

    Args:
        model: Computes a loss, the mean over items, from batches with labels: any Transformers model with a head. Also
            wrapped by DDP, torch.compile or PEFT, or sharded by FSDP2 (then with an accelerator).
        dataloader: Batches are mappings that the model is called with.
        groups: See `layer_groups`.
        select: A name in `SELECTIONS`; or a mask in the order of the data set, (examples,) or (texts, tokens), see
            `predict`. For language models the items are tokens.
        num_top_rows: How many rows "top_loss" takes; default: as many as the loader's batches hold.
        batch_size: Rows of a backward pass; default: 32, or fewer where few are chosen, so that there are sixteen
            passes. But no more than one for 128 rows that had to be predicted: of less than 640, a name chooses too few
            for an interval, and takes an explicit batch size, or the mask of `predict`, to have one.
        compute_loss: Loss and outputs from model and batch, in the place of the model's own.
        accelerator: With it the loader must be one that it prepared; sums are then taken over all its processes, and
            each of them returns the same. Without it the result is of this process alone.
        label_name: The batches' labels.
        confidence: Level of the intervals.
        seed: Of the resampling.

    Raises:
        DiagnosisError: If the model computes no loss, its predictions cannot be compared with the labels, the data set
            is empty, nothing is chosen, nothing is trainable, or gradients are not finite.
    """
    if isinstance(select, str) and select not in SELECTIONS:
        raise DiagnosisError(f"Unknown selection {select!r}: choose one of {', '.join(SELECTIONS)}.")
    for name, value in (("batch_size", batch_size), ("num_top_rows", num_top_rows)):
        if value is not None and value < 1:
            raise DiagnosisError(f"{name} must be at least 1, got {value}.")
    if not 0.0 < confidence < 1.0:
        raise DiagnosisError(f"confidence must lie between 0 and 1, got {confidence}.")
    model = _unwrapped(model)
    reshard(model)
    trainable, frozen = _trainable(layer_groups(model, groups), model)
    sums = GradientSums(trainable)
    one_pass = GradientPass(model, sums, compute_loss, accelerator, label_name)
    with undisturbed(model, dataloader):
        one_pass.run(dataloader, select, num_top_rows, batch_size)
        reshard(model)
    sums.reduce(accelerator)
    total, wrong, unit = one_pass.counts()
    if total == 0:
        raise DiagnosisError("The data set is empty: there is no labelled example to attribute gradients of.")
    if sums.items == 0:
        raise DiagnosisError(_nothing_chosen(select, total, unit))
    norms, units = sums.group_norms() / sums.items, sums.units(accelerator)
    shares = _shares(norms, list(trainable))
    intervals, errors = share_intervals(units, sums.parts, shares, confidence=confidence, seed=seed)
    weights = sums.parameter_norms()
    found = {}
    for place, (name, members) in enumerate(trainable.items()):
        norm, size = float(norms[place]), sum(parameter.numel() for parameter in members)
        found[name] = GroupGradient(
            norm=norm,
            mean_batch_norm=float(sums.batch_norms[place]) / sums.items,
            share=shares[place],
            share_interval=intervals[place],
            log_odds_error=errors[place],
            relative_norm=float(norm / weights[place]) if weights[place] > 0.0 else None,
            rms=norm / math.sqrt(size),
            parameters=size,
        )
    predicted = isinstance(select, str) and select != "all"
    return Attribution(
        groups=found,
        frozen=frozen,
        select=select if isinstance(select, str) else "given",
        unit=unit,
        selected=sums.items,
        total=total,
        misclassified=wrong if predicted else None,
        loss=sums.loss / sums.items,
        batches=sums.batches,
        units=len(units),
        confidence=confidence,
    )


def predict(
    model: nn.Module,
    dataloader: Any,
    *,
    compute_loss: ComputeLoss = model_loss,
    accelerator: Accelerator | None = None,
    label_name: str = "labels",
) -> Predictions:
    """Predicts a whole data set, without changing anything, as `attribute_gradients` does.

    Its masks (such as ``predictions.wrong``) choose items for `attribute_gradients` with the same loader.

    Raises:
        DiagnosisError: If predictions cannot be compared with the labels, or the data set is empty.
    """
    model = _unwrapped(model)
    parts = []
    with undisturbed(model, dataloader), torch.no_grad():
        for batch in batches(dataloader, device_of(model), accelerator, label_name):
            _, outputs = compute_loss(model, dict(batch.inputs))
            items = items_of(model, outputs, batch.labels)
            labels = items.labels.masked_fill(~items.counted, IGNORED)[: batch.valid]
            parts.append((batch.first, labels.cpu().numpy(), items.predicted[: batch.valid].cpu().numpy()))
        reshard(model)
    predictions = gathered(parts, accelerator)
    if not predictions.counted.any():
        raise DiagnosisError("The data set is empty: there is no labelled example to predict.")
    return predictions


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself: the hooks of DDP would wait for gradients that never come to ``.grad``."""
    model = extract_model_from_parallel(model)
    if next(model.parameters(), None) is None:
        raise DiagnosisError(f"{type(model).__name__} has no parameters: there is no gradient to attribute.")
    return model


def _trainable(groups: LayerGroups, model: nn.Module) -> tuple[dict[str, list[nn.Parameter]], dict[str, int]]:
    """Trainable parameters of each group that has any, and how many values of each group are frozen."""
    trainable: dict[str, list[nn.Parameter]] = {}
    frozen: dict[str, int] = {}
    for name, members in groups.of(model).items():
        for parameter in members.values():
            if parameter.requires_grad:
                trainable.setdefault(name, []).append(parameter)
            else:
                frozen[name] = frozen.get(name, 0) + parameter.numel()
    if not trainable:
        raise DiagnosisError(
            f"All parameters of {type(model).__name__} are frozen: set requires_grad on those whose gradient is wanted."
        )
    return trainable, frozen


def _shares(norms: np.ndarray, names: list[str]) -> list[float]:
    if odd := [name for name, norm in zip(names, norms, strict=True) if not math.isfinite(norm)]:
        raise DiagnosisError(
            f"The gradient of {', '.join(odd)} is not finite: the model has diverged, or overflows in the precision it "
            "is evaluated in."
        )
    squares = norms**2
    if not squares.sum() > 0.0:
        raise DiagnosisError("The gradient is zero everywhere: nothing would lower the loss of the chosen examples.")
    return [float(share) for share in squares / squares.sum()]


def _nothing_chosen(select: str | np.ndarray, total: int, unit: str) -> str:
    if not isinstance(select, str):
        return f"The mask chooses none of the {total:,} {unit}: there is no gradient to attribute."
    chosen = {"misclassified": "misclassified", "correct": "classified correctly"}.get(select, "chosen")
    return (
        f"None of the {total:,} {unit} is {chosen}, so there is no gradient to attribute: take more or harder "
        "examples, or select all or top_loss."
    )
