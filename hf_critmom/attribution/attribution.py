"""Gradient attribution: how the gradient of the loss on chosen examples is spread over a model's layer groups.

The paper (I. Pasichnyk, arXiv 2603.28921) attributes the mistakes that are left to layers by the gradients on
misclassified images. Which norm it takes and how it normalises it could not be read, so what follows is our own choice:
the share of a group is its part of the squared norm of the *mean* gradient over the chosen examples. Squared norms of
groups add up to that of the whole model, so shares add up to 1, and splitting a group splits its share. Beside it stand
the norms themselves, relative to the parameters (as in Auto-RGN, Lee et al., arXiv 2210.11466) and per parameter,
because a norm by itself is largest where a network is widest.
"""

import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from hf_critmom.attribution.batches import IGNORED, batches
from hf_critmom.attribution.bootstrap import share_intervals
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.gradients import GradientSums, reshard
from hf_critmom.attribution.groups import Groups, LayerGroups, layer_groups
from hf_critmom.attribution.names import named_parameters
from hf_critmom.attribution.passes import TOP_ROWS, GradientPass, device_of, preserve_state, unfitting_mask
from hf_critmom.attribution.predictions import (
    SELECTIONS,
    ComputeLoss,
    Predictions,
    in_order,
    items_of,
    model_loss,
    not_finite,
    shifts_labels,
)
from hf_critmom.attribution.results import Attribution, GroupGradient
from hf_critmom.attribution.signal import signal_shares


def attribute_gradients(
    model: nn.Module,
    dataloader: Any,
    *,
    groups: Groups = None,
    select: str | np.ndarray = "misclassified",
    num_top_rows: int = TOP_ROWS,
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
        select: A name in `SELECTIONS`; or a mask in the order of the dataset, (examples,) or (texts, tokens), see
            `predict`. For language models the items are tokens.
        num_top_rows: How many rows "top_loss" takes; all where there are fewer.
        batch_size: Rows of a backward pass; default: 32, or fewer where few are chosen, so that there are up to sixteen
            passes of equal size. But no more than one for 128 rows that had to be predicted: of less than 640, a name
            chooses too few for an interval, and takes an explicit batch size, or the mask of `predict`, to have one.
        compute_loss: Loss and outputs from model and batch, in the place of the model's own.
        accelerator: With it the loader must be one that it prepared; sums are then taken over all its processes, and
            each of them returns the same. Without it the result is of this process alone.
        label_name: The batches' labels.
        confidence: Level of the intervals.
        seed: Seed for resampling and for the order in which the rows are taken.

    Raises:
        AttributionError: If the model computes no loss, its predictions cannot be compared with the labels, the
            dataset is empty, nothing is chosen, nothing is trainable, or gradients or their loss are not finite.
    """
    if not 0.0 < confidence < 1.0:
        raise AttributionError(f"confidence must lie between 0 and 1, got {confidence}.")
    sums, counts, trainable, frozen = _gradient_sums(
        model,
        dataloader,
        groups=groups,
        select=select,
        num_top_rows=num_top_rows,
        batch_size=batch_size,
        compute_loss=compute_loss,
        accelerator=accelerator,
        label_name=label_name,
        seed=seed,
    )
    total, wrong, unit = counts
    norms, units = sums.group_norms() / sums.items, sums.units(accelerator)
    shares = _shares(norms, list(trainable))
    if not math.isfinite(sums.loss):
        raise AttributionError(not_finite(_unwrapped(model), sums.loss / sums.items))
    intervals, errors = share_intervals(units, sums.parts, shares, confidence=confidence, seed=seed)
    signals = signal_shares(units, sums.parts, norms)
    weights = sums.parameter_norms()
    found = {}
    for place, (name, members) in enumerate(trainable.items()):
        norm, size = float(norms[place]), sum(parameter.numel() for parameter in members)
        found[name] = GroupGradient(
            norm=norm,
            share=shares[place],
            share_interval=intervals[place],
            log_odds_error=errors[place],
            relative_norm=float(norm / weights[place]) if 0.0 < weights[place] < math.inf else None,
            parameters=size,
            signal_share=None if (signal := signals[place]) is None else signal[0],
            signal_error=None if signal is None else signal[1],
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
        signal_shares=True,
    )


def mean_gradients(
    model: nn.Module,
    dataloader: Any,
    *,
    select: str | np.ndarray = "misclassified",
    compute_loss: ComputeLoss = model_loss,
    accelerator: Accelerator | None = None,
    label_name: str = "labels",
) -> dict[str, Tensor]:
    """The mean gradient of the loss over chosen examples itself, whose norms `attribute_gradients` returns.

    Args:
        model: See `attribute_gradients`, as of all that follow.
        dataloader: Batches are mappings that the model is called with.
        select: What is chosen.
        compute_loss: Loss and outputs from model and batch.
        accelerator: The one that prepared the loader.
        label_name: The batches' labels.

    Returns:
        The gradient of each trainable parameter by its name, in the parameter's shape, at least in float32.

    Raises:
        AttributionError: As `attribute_gradients`.
    """
    sums, _, trainable, _ = _gradient_sums(
        model,
        dataloader,
        select=select,
        compute_loss=compute_loss,
        accelerator=accelerator,
        label_name=label_name,
    )
    _shares(sums.group_norms(), list(trainable))
    names = {id(parameter): name for name, parameter in named_parameters(_unwrapped(model)).items()}
    pairs = zip(sums.parameters, sums.sums, strict=True)
    return {names[id(parameter)]: total / sums.items for parameter, total in pairs}


def _gradient_sums(
    model: nn.Module,
    dataloader: Any,
    *,
    groups: Groups = None,
    select: str | np.ndarray,
    num_top_rows: int = TOP_ROWS,
    batch_size: int | None = None,
    compute_loss: ComputeLoss,
    accelerator: Accelerator | None,
    label_name: str,
    seed: int = 0,
) -> tuple[GradientSums, tuple[int, int, str], dict[str, list[nn.Parameter]], dict[str, int]]:
    """Gradients summed over the chosen rows; all, wrong ones and their unit; trainable parameters, frozen values."""
    check_options(select, batch_size=batch_size, num_top_rows=num_top_rows)
    select = select if isinstance(select, str) else np.asarray(select)
    model = _unwrapped(model)
    reshard(model)
    trainable, frozen = _trainable(layer_groups(model, groups), model)
    sums = GradientSums(trainable)
    one_pass = GradientPass(model, sums, compute_loss, accelerator, label_name, seed)
    with preserve_state(model, dataloader):
        one_pass.run(dataloader, select, num_top_rows, batch_size)
        reshard(model)
    sums.reduce(accelerator)
    rows, total, wrong, unit = one_pass.counts()
    if not isinstance(select, str) and len(select) != rows:
        raise AttributionError(unfitting_mask(select, f"which has {rows:,} rows"))
    if total == 0:
        raise AttributionError("The dataset is empty: there is no labelled example to attribute gradients of.")
    if sums.items == 0:
        raise AttributionError(_nothing_chosen(select, total, unit))
    return sums, (total, wrong, unit), trainable, frozen


def check_options(select: Any, *, batch_size: Any = None, num_top_rows: Any = TOP_ROWS) -> None:
    """Checks what to choose, and how much at a time, before any work; see `attribute_gradients`.

    Raises:
        AttributionError: If one of them is not valid.
    """
    if isinstance(select, str):
        if select not in SELECTIONS:
            raise AttributionError(f"Unknown selection {select!r}: choose one of {', '.join(SELECTIONS)}.")
    elif (mask := np.asarray(select)).dtype != np.bool_:
        raise AttributionError(
            f"select must be a name or a mask of true and false, in the order of the dataset; got {mask.dtype} values "
            f"of shape {mask.shape}."
        )
    for name, value in (("batch_size", batch_size), ("num_top_rows", num_top_rows)):
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise AttributionError(f"{name} must be at least 1, and whole, got {value}.")


def predict(
    model: nn.Module,
    dataloader: Any,
    *,
    compute_loss: ComputeLoss = model_loss,
    accelerator: Accelerator | None = None,
    label_name: str = "labels",
    probabilities: bool = False,
) -> Predictions:
    """Predicts a whole dataset, without changing anything, as `attribute_gradients` does.

    Its masks (such as ``predictions.wrong``) choose items for `attribute_gradients` with the same loader.

    Args:
        model: See `attribute_gradients`.
        dataloader: Batches are mappings that the model is called with.
        compute_loss: Loss and outputs from model and batch.
        accelerator: The one that prepared the loader.
        label_name: The batches' labels.
        probabilities: Whether the probabilities of all classes are kept, which takes memory of examples times classes.

    Raises:
        AttributionError: If predictions cannot be compared with the labels, or the dataset is empty.
    """
    model = _unwrapped(model)
    parts, shifted = [], None
    with preserve_state(model, dataloader), torch.no_grad():
        for batch in batches(dataloader, device_of(model), accelerator, label_name):
            if shifted is None:
                shifted = shifts_labels(model, compute_loss, batch.inputs, label_name)
            _, outputs = compute_loss(model, dict(batch.inputs))
            items = items_of(model, outputs, batch.labels, bool(shifted))
            labels = items.labels.masked_fill(~items.counted, IGNORED)[: batch.valid]
            predicted = items.predicted[: batch.valid].cpu().numpy()
            chances = items.logits[: batch.valid].float().softmax(-1).cpu().numpy() if probabilities else None
            parts.append((batch.first, labels.cpu().numpy(), predicted, chances))
        reshard(model)
    predictions = in_order(parts, accelerator)
    if not predictions.counted.any():
        raise AttributionError("The dataset is empty: there is no labelled example to predict.")
    return predictions


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself: the hooks of DDP would wait for gradients that never come to ``.grad``."""
    model = extract_model_from_parallel(model)
    if next(model.parameters(), None) is None:
        raise AttributionError(f"{type(model).__name__} has no parameters: there is no gradient to attribute.")
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
        raise AttributionError(
            f"All parameters of {type(model).__name__} are frozen: set requires_grad on those whose gradient is wanted."
        )
    return trainable, frozen


def _shares(norms: np.ndarray, names: list[str]) -> list[float]:
    if odd := [name for name, norm in zip(names, norms, strict=True) if not math.isfinite(norm)]:
        raise AttributionError(
            f"The gradient of {', '.join(odd)} is not finite: the model has diverged, or overflows in the precision it "
            "is evaluated in."
        )
    squares = norms**2
    if not squares.sum() > 0.0:
        raise AttributionError("The gradient is zero everywhere: nothing would lower the loss of the chosen examples.")
    return [float(share) for share in squares / squares.sum()]


def _nothing_chosen(select: str | np.ndarray, total: int, unit: str) -> str:
    if not isinstance(select, str):
        return f"The mask chooses none of the {total:,} {unit}: there is no gradient to attribute."
    chosen = {"misclassified": "misclassified", "correct": "classified correctly"}.get(select, "chosen")
    return (
        f"None of the {total:,} {unit} is {chosen}, so there is no gradient to attribute: take more or harder "
        "examples, or select all or top_loss."
    )
