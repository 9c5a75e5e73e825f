"""The simple gradient noise scale: the batch size at which noise and gradient are equally large.

``B = tr(S) / |G|^2``, with the covariance ``S`` of one example's gradient and the mean gradient ``G`` (McCandlish,
Kaplan, Amodei et al., arXiv 1812.06162, equation 2.9). Where it is far above the batch size, steps are mostly noise,
which momentum averages no better than a smaller mean step does; where it is below, momentum can speed a training up.

Both are estimated without bias from gradients of a small batch size and of their mean, a large one (appendix A.1
there), and each is averaged before one is divided by the other. The interval is Fieller's for a ratio of means (Fieller
1954, Journal of the Royal Statistical Society B 16:175), on jackknife pseudo-values of the batches.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from scipy.special import stdtrit
from torch import nn

from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.objective import (
    ComputeLoss,
    Objective,
    as_batches,
    count_rows,
    model_loss,
    summed,
)
from hf_critmom.curvature.preserving import preserved
from hf_critmom.curvature.vectors import Vector, dot

DEFAULT_BATCHES = 16
"""Default number of small batches that examples are divided into."""


@dataclass(frozen=True)
class NoiseSample:
    """Statistics of the gradients of some batches at one point of a training.

    Attributes:
        rows: Examples of a small batch.
        batches: Number of these.
        trace: Unbiased estimate of the trace of the covariance of a small batch's gradient, times ``rows``.
        square: Unbiased estimate of the squared norm of the mean gradient; negative where it is lost in the noise.
        traces: Jackknife pseudo-values of ``trace``, one per batch; empty with two batches.
        squares: Those of ``square``.
    """

    rows: int
    batches: int
    trace: float
    square: float
    traces: tuple[float, ...]
    squares: tuple[float, ...]


@dataclass(frozen=True)
class NoiseScale:
    """The simple gradient noise scale, in examples.

    Attributes:
        value: The estimate; None where it cannot be determined.
        low: Lower end of its interval; 0 where nothing is known.
        high: Upper end; infinite where the mean gradient is lost in the noise.
        level: Confidence of the interval.
        samples: Points of the training that were averaged over.
        rows: The two batch sizes, small and large.
    """

    value: float | None
    low: float
    high: float
    level: float
    samples: int
    rows: tuple[int, int]

    def __str__(self) -> str:
        if self.value is not None:
            low, value, high = (_shown(number) for number in (self.low, self.value, self.high))
            return f"{value} ({self.level:.0%} interval {low} to {high})"
        if self.low > 0.0:
            return f"at least {_shown(self.low)} (its upper end cannot be told)"
        return "one that cannot be told from so few examples"


def _shown(examples: float) -> str:
    return f"{examples:,.0f}" if examples >= 10.0 else f"{examples:.2g}"


def sample_noise(
    model: nn.Module,
    batches: Sequence[Any],
    compute_loss: ComputeLoss = model_loss,
    *,
    rows: int | None = None,
    batch_norm: str = "train",
    accelerator: Accelerator | None = None,
    seed: int = 0,
) -> NoiseSample:
    """Gradient noise where a model's parameters are; `noise_scale` turns samples into the noise scale.

    Two passes over the examples, in the memory of two gradients. The model is left as it is, to the bit.

    Args:
        model: The model.
        batches: Examples, each to be drawn as training draws them.
        compute_loss: See `Objective`.
        rows: Examples of a small batch, into which the batches are divided; what does not fill one, or has no label, is
            left out. By default as many as make `DEFAULT_BATCHES` of them. With batch normalization in "train" mode
            noise depends on the batch size, so choose that of the training where the examples are enough. The same in
            every process.
        batch_norm: "train" or "eval".
        accelerator: See `Objective`.
        seed: See `Objective`.

    Raises:
        CurvatureError: If the examples do not make two small batches, and as `Objective`.
    """
    batches = as_batches(batches)
    available = int(summed(sum(count_rows(batch) for batch in batches), accelerator))
    rows = max(available // DEFAULT_BATCHES, 1) if rows is None else rows
    if not isinstance(rows, int) or rows < 1:
        raise CurvatureError(f"rows={rows!r} is not valid: expected a whole number of examples, at least 1.")
    too_few = (
        f"{available} examples do not make two batches of {rows} with labels: the gradient noise scale compares two "
        "batch sizes, so pass more examples, or fewer rows for a batch."
    )
    pieces = [piece for batch in batches for piece in _divided(batch, rows)]
    if summed(len(pieces), accelerator) < 2:
        raise CurvatureError(too_few)
    with preserved(model, compute_loss, batch_norm=batch_norm):
        objective = Objective(model, pieces, compute_loss, batch_norm=batch_norm, accelerator=accelerator, seed=seed)
        if objective.summed(len(objective.batches)) < 2:
            raise CurvatureError(too_few)
        squares, along, total = _inner_products(objective)
    return _sample(np.array(squares), np.array(along), total, rows)


def noise_scale(samples: Sequence[NoiseSample], *, level: float = 0.9) -> NoiseScale:
    """The noise scale over one or several samples, such as those of many steps of a training.

    Args:
        samples: At least one.
        level: Confidence of the interval.

    Returns:
        The ratio of the mean trace to the mean squared gradient. Where the interval has no upper end, the mean gradient
        cannot be told from noise: then there is no value, and at best a lower bound.

    Raises:
        CurvatureError: If there are no samples, or the level lies outside (0, 1).
    """
    if not (isinstance(level, Real) and 0.0 < level < 1.0):
        raise CurvatureError(f"level={level!r} is not valid: expected a number between 0 and 1.")
    if not samples:
        raise CurvatureError("No gradient noise was sampled: measure at one step at least.")
    trace, square = (float(np.mean([getattr(s, name) for s in samples])) for name in ("trace", "square"))
    pairs = np.array([pair for s in samples for pair in zip(s.traces, s.squares, strict=True)]).reshape(-1, 2)
    low, high = _fieller(trace, square, pairs, level)
    rows, batches = samples[-1].rows, samples[-1].batches
    told = math.isfinite(high) and square > 0.0
    return NoiseScale(trace / square if told else None, low, high, level, len(samples), (rows, rows * batches))


def _inner_products(objective: Objective) -> tuple[list[float], list[float], float]:
    """Squared norms of the batches' gradients, their inner products with the mean one, and its squared norm."""
    point = objective.point()
    count = objective.summed(float(len(objective.batches)))
    mean = [torch.zeros_like(value) for value in point]
    squares, along = [], []
    for index, weight in enumerate(objective.weights):
        # What autograd returns may be shared by parameters, or be one number in the shape of many: it is left as it is.
        gradient, parts = _present(objective.batch_gradient(point, index), mean)
        squares.append(dot(gradient, gradient) / weight**2 if gradient else 0.0)
        if gradient:
            torch._foreach_add_(parts, gradient, alpha=1.0 / (count * weight))
        del gradient
    objective.reduce_(mean)
    for index, weight in enumerate(objective.weights):
        gradient, parts = _present(objective.batch_gradient(point, index), mean)
        along.append(dot(gradient, parts) / weight if gradient else 0.0)
        del gradient
    if objective.accelerator is not None:
        squares, along = gather_object(squares), gather_object(along)
    return squares, along, dot(mean, mean)


def _present(gradient: Sequence[torch.Tensor | None], whole: Vector) -> tuple[Vector, Vector]:
    """The parts of a gradient that there are, and those of another vector in the same places."""
    pairs = [(part, other) for part, other in zip(gradient, whole, strict=True) if part is not None]
    return [part for part, _ in pairs], [other for _, other in pairs]


def _sample(squares: np.ndarray, along: np.ndarray, mean_square: float, rows: int) -> NoiseSample:
    """Estimates from ``|g_i|^2``, ``g_i G`` and ``|G|^2``; leaving one batch out needs no other gradients."""
    count = len(squares)

    def estimates(squared_sum: Any, sum_of_squares: Any, number: int) -> tuple[Any, Any]:
        square = (squared_sum - sum_of_squares) / (number * (number - 1))
        return rows * (sum_of_squares - squared_sum / number) / (number - 1), square

    whole = estimates(count**2 * mean_square, squares.sum(), count)
    traces, gradients = np.empty(0), np.empty(0)
    if count > 2:
        without = count**2 * mean_square - 2.0 * count * along + squares
        left = estimates(without, squares.sum() - squares, count - 1)
        traces, gradients = (count * full - (count - 1) * part for full, part in zip(whole, left, strict=True))
    return NoiseSample(rows, count, float(whole[0]), float(whole[1]), tuple(traces.tolist()), tuple(gradients.tolist()))


def _fieller(trace: float, square: float, pairs: np.ndarray, level: float) -> tuple[float, float]:
    """Ends of the interval of ``trace / square``, within 0 and infinity."""
    count = len(pairs)
    if count < 3:
        return 0.0, math.inf
    quantile = float(stdtrit(count - 1, 0.5 + level / 2.0)) ** 2
    (variance, covariance), (_, variance_of_square) = np.cov(pairs.T, ddof=1) / count
    a = float(square**2 - quantile * variance_of_square)
    b = float(trace * square - quantile * covariance)
    c = float(trace**2 - quantile * variance)
    root = b * b - a * c
    if root < 0.0:
        return 0.0, math.inf
    ends = sorted(((b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a)) if a else [c / (2.0 * b) if b else 0.0] * 2
    if a > 0.0 and square > 0.0:
        return max(ends[0], 0.0), max(ends[1], 0.0)
    # The mean gradient may be 0, and the ratio anything from some number on, if there is any noise at all.
    return max(ends[1], 0.0) if a <= 0.0 < c else 0.0, math.inf


def _divided(batch: Any, rows: int) -> list[Any]:
    """A batch in pieces of so many rows; what does not fill one is left out."""
    count = count_rows(batch)
    return [_piece(batch, start, rows, count) for start in range(0, count - rows + 1, rows)]


def _piece(value: Any, start: int, rows: int, count: int, inner: bool = False) -> Any:
    """Rows of tensors that have so many, and of lists that hold one item for each, such as the boxes of each image."""
    if isinstance(value, torch.Tensor):
        return value[start : start + rows] if value.ndim and len(value) == count else value
    if isinstance(value, Mapping):
        return {name: _piece(part, start, rows, count, inner=True) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        together = all(isinstance(part, torch.Tensor) and part.ndim and len(part) == count for part in value)
        if inner and len(value) == count and not together:
            return value[start : start + rows]
        parts = [_piece(part, start, rows, count, inner=True) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value
