"""Curvature of the loss where a model's parameters are: the largest, along the gradient, along the last update."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_critmom.curvature.eigenvalue import Eigenvalue, top_eigenvalue
from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.objective import ComputeLoss, Objective, as_batches, model_loss
from hf_critmom.curvature.preserving import preserved
from hf_critmom.curvature.products import Hessian, MethodChangedError, hessian
from hf_critmom.curvature.vectors import dot, norm
from hf_critmom.curvature.wrappers import unwrapped

GroupsOfParameters = Mapping[str, Mapping[str, nn.Parameter] | Sequence[nn.Parameter]]
"""Parameters by layer group, as ``layer_groups(model).of(model)`` gives them."""


@dataclass(frozen=True)
class Curvature:
    """Curvatures of the loss along parameters: second derivatives along unit vectors.

    Attributes:
        top: The largest eigenvalue of the Hessian.
        gradient: Curvature along the gradient, ``g'Hg / g'g``; None where the gradient is 0.
        update: Curvature along the last update of the parameters; None where there is none.
        gradient_norm: Length of the gradient.
    """

    top: Eigenvalue
    gradient: float | None
    update: float | None
    gradient_norm: float


@dataclass(frozen=True)
class Measurement(Curvature):
    """The curvature of a whole network and what it was measured on.

    Attributes:
        groups: The curvature of each layer group, of its own parameters alone (a diagonal block of the Hessian).
        method: "double_backward" or "central_differences".
        batch_norm: Which statistics batch normalization used: "train", those of the batch, or "eval".
        examples: Number of examples, of this process.
        products: Products with a Hessian that it took.
        seconds: What it took.
    """

    groups: Mapping[str, Curvature] = field(default_factory=dict)
    method: str = "double_backward"
    batch_norm: str = "train"
    examples: int = 0
    products: int = 0
    seconds: float = 0.0


def measure_curvature(
    model: nn.Module,
    batches: Sequence[Any],
    compute_loss: ComputeLoss = model_loss,
    *,
    groups: GroupsOfParameters | None = None,
    update: Mapping[str, Tensor] | None = None,
    method: str = "auto",
    batch_norm: str = "train",
    weighting: str = "items",
    tolerance: float = 0.02,
    max_iterations: int = 100,
    accelerator: Accelerator | None = None,
    seed: int = 0,
) -> Measurement:
    """Measures the curvature of the mean loss over fixed examples, with respect to the trainable parameters.

    The model is left as it is, to the bit: parameters, gradients, buffers, modes and random number generators. Dropout
    is off. Parameters in half precision are measured in single precision. At most three vectors of the size of the
    parameters are held at a time, beside ``update`` and what the graph of the network needs.

    Args:
        model: The model; wrappers of data parallelism and compilation are taken off.
        batches: The examples with labels, in as many pieces as memory needs. One piece is fastest.
        compute_loss: Computes the loss from model and batch; by default the model itself does, from labels.
        groups: Layer groups to measure as well, each on its own.
        update: The last update of the parameters, by their names in ``model.named_parameters()``.
        method: "double_backward" is exact; "central_differences" serves models without second derivatives; "auto" takes
            the first where it works. In both cases the result says which.
        batch_norm: "train": batch normalization uses each piece's own statistics, as training does. "eval": running
            ones.
        weighting: "items": the mean is over all labelled tokens or rows. "batches": it is over the pieces, each with
            the mean loss of its own.
        tolerance: Largest residual of the top eigenvalue, as a share of it.
        max_iterations: Most products with the Hessian for a top eigenvalue.
        accelerator: Where several processes train one model by data parallelism, each with examples of its own: every
            process must call this, and all get the curvature of the mean loss. None for this process alone.
        seed: Seed of the random vector that the top eigenvalue is found from.

    Raises:
        CurvatureError: If an argument is not valid, the model has no trainable parameters, labels are missing, the loss
            is not finite, there is no second derivative where ``method`` demands it, or the parameters are sharded over
            processes.
    """
    began = time.perf_counter()
    common: dict[str, Any] = {"batch_norm": batch_norm, "weighting": weighting}
    common |= {"accelerator": accelerator, "seed": seed}
    search: dict[str, Any] = {"tolerance": tolerance, "max_iterations": max_iterations, "seed": seed}
    batches = as_batches(batches)
    update = None if update is None else _by_inner_name(update, model)
    if not isinstance(groups, Mapping | None):
        raise CurvatureError(
            f"groups={groups!r} is not valid: pass parameters by the name of their group, such as "
            "layer_groups(model).of(model)."
        )
    with preserved(model, compute_loss, batch_norm=batch_norm):
        objective = Objective(model, batches, compute_loss, **common)
        whole, method, products = _curvature(objective, method, update, search)
        found: dict[str, Curvature] = {}
        for name, parameters in _trainable_groups(groups or {}):
            block = Objective(model, batches, compute_loss, parameters=parameters, **common)
            found[name], _, more = _curvature(block, method, update, search)
            products += more
    return Measurement(
        top=whole.top,
        gradient=whole.gradient,
        update=whole.update,
        gradient_norm=whole.gradient_norm,
        groups=found,
        method=method,
        batch_norm=batch_norm,
        examples=sum(objective.rows),
        products=products,
        seconds=time.perf_counter() - began,
    )


def measure_along(
    model: nn.Module,
    batches: Sequence[Any],
    direction: Mapping[str, Tensor],
    compute_loss: ComputeLoss = model_loss,
    *,
    method: str = "auto",
    batch_norm: str = "train",
    weighting: str = "items",
    accelerator: Accelerator | None = None,
    seed: int = 0,
) -> float | None:
    """Measures the curvature of the mean loss along one direction, such as an update, by a single product.

    Args:
        model: See `measure_curvature`.
        batches: See `measure_curvature`.
        direction: A tensor for every trainable parameter, by its name in ``model.named_parameters()``.
        compute_loss: See `measure_curvature`.
        method: See `measure_curvature`.
        batch_norm: See `measure_curvature`.
        weighting: See `measure_curvature`.
        accelerator: See `measure_curvature`.
        seed: See `measure_curvature`.

    Returns:
        The curvature, ``v'Hv / v'v``; None where the direction is 0.

    Raises:
        CurvatureError: As `measure_curvature`, and if the direction lacks a parameter.
    """
    common: dict[str, Any] = {"batch_norm": batch_norm, "weighting": weighting}
    common |= {"accelerator": accelerator, "seed": seed}
    with preserved(model, compute_loss, batch_norm=batch_norm):
        objective = Objective(model, batches, compute_loss, **common)
        with hessian(objective, method) as operator:
            return curvature_along(operator, _vector(_by_inner_name(direction, model), objective))


def curvature_along(hessian: Hessian, vector: Sequence[Tensor]) -> float | None:
    """The curvature along a direction, ``v'Hv / v'v``; None where the vector is 0.

    Raises:
        CurvatureError: If it is not finite.
    """
    square = dot(vector, vector)
    if square == 0.0:
        return None
    product = [torch.zeros_like(part) for part in vector]
    try:
        hessian.add_product(vector, product)
    except MethodChangedError:  # it may have failed half-way
        torch._foreach_zero_(product)
        hessian.add_product(vector, product)
    curvature = dot(vector, product) / square
    if not math.isfinite(curvature):
        raise CurvatureError("The curvature along a direction is not finite: measure before the training diverges.")
    return curvature


def _curvature(
    objective: Objective, method: str, update: Mapping[str, Tensor] | None, search: Mapping[str, Any]
) -> tuple[Curvature, str, int]:
    with hessian(objective, method) as operator:
        along_update = None
        if update is not None:
            along_update = curvature_along(operator, _vector(update, objective))
        gradient = objective.gradient()
        length, along_gradient = norm(gradient), curvature_along(operator, gradient)
        del gradient
        top = top_eigenvalue(operator, **search)
        return Curvature(top, along_gradient, along_update, length), operator.method, operator.products


def _vector(update: Mapping[str, Tensor], objective: Objective) -> list[Tensor]:
    if missing := [name for name in objective.names if name not in update]:
        raise CurvatureError(
            f"The update lacks {missing[0]} ({len(missing)} parameters are missing): pass the change of every "
            "trainable parameter by its name in model.named_parameters()."
        )
    vector = [update[name].detach() for name in objective.names]
    for name, part, value in zip(objective.names, vector, objective.values(), strict=True):
        if part.shape != value.shape:
            raise CurvatureError(
                f"The update of {name} has shape {tuple(part.shape)}, and the parameter {tuple(value.shape)}: pass the "
                "change of every trainable parameter."
            )
    return [part.to(like.device, like.dtype) for part, like in zip(vector, objective.parts(), strict=True)]


def _by_inner_name(update: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """An update by the names that parameters have within the wrappers of data parallelism and compilation."""
    if not isinstance(update, Mapping):
        raise CurvatureError("An update is not by name: pass the change of every trainable parameter in a dict.")
    inner = {id(p): name for name, p in unwrapped(model).named_parameters()}
    return {**update, **{inner[id(p)]: update[name] for name, p in model.named_parameters() if name in update}}


def _trainable_groups(groups: GroupsOfParameters) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Groups with their trainable parameters; frozen groups are left out."""
    for name, members in groups.items():
        parameters = list(members.values() if isinstance(members, Mapping) else members)
        if trainable := [p for p in parameters if p.requires_grad]:
            yield name, trainable
