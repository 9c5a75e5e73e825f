"""Whether momentum can matter in a training, from what was measured of it, and what to tune instead.

Two numbers decide. Where the gradient noise scale is well above the batch size, steps are mostly noise, and a heavy
ball differs little from plain SGD of the same mean step ``h = lr / (1 - mu)``. Where ``h k`` at the top curvature ``k``
is well above 2, plain SGD of that mean step is unstable, and momentum is what makes it possible: a heavy ball is stable
up to ``h k = 2 (1 + mu) / (1 - mu)``. "Well above" is twice, which is our own choice; in a pilot on small CIFAR-10
images tuned momentum 0.9 and 0 ended equal where the noise scale was 2 to 6 times the batch size.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.noise import NoiseScale

Role = Literal["hardly", "needed", "can", "open"]

WELL_ABOVE = 2.0
"""A number counts as well above another when it is this many times it (of an interval, its lower end)."""
STABLE = 2.0
"""Largest ``h k`` at which plain SGD of mean step ``h`` is stable at curvature ``k``."""


@dataclass(frozen=True)
class MomentumAdvice:
    """What momentum can do in a training.

    Attributes:
        role: "hardly" (noise decides), "needed" (the mean step is stable only with it), "can" (it may speed the
            training up), or "open" (the measurement does not tell).
        sentence: The same in words, with the numbers that it rests on, and what to tune.
        least_momentum: The smallest momentum that is stable at this mean step, 0 where none is needed.
    """

    role: Role
    sentence: str
    least_momentum: float


def momentum_advice(batch_size: int, noise: NoiseScale | None, mean_step: float, curvature: float) -> MomentumAdvice:
    """Says whether momentum can matter at a batch size, and what to tune.

    Args:
        batch_size: Examples of an optimizer step, of all processes and accumulated batches.
        noise: The measured gradient noise scale, or None where it was not measured.
        mean_step: ``lr / (1 - mu)`` where it was largest, or at the point that was measured.
        curvature: The measured top curvature there.

    Raises:
        CurvatureError: If a number is not positive and finite.
    """
    numbers = {"batch_size": batch_size, "mean_step": mean_step, "curvature": curvature}
    for name, number in numbers.items():
        if not (isinstance(number, Real) and math.isfinite(number) and number > 0.0):
            raise CurvatureError(
                f"{name}={number!r} says nothing about momentum: expected a positive number, measured while training."
            )
    product = mean_step * curvature
    measured = f"mean step lr/(1 - momentum) {mean_step:.3g} times top curvature {curvature:.3g} is {product:.3g}"
    return advice_for(batch_size, noise, product, measured)


def advice_for(batch_size: int, noise: NoiseScale | None, product: float, measured: str) -> MomentumAdvice:
    """As `momentum_advice`, for the product of mean step and top curvature.

    Args:
        batch_size: See `momentum_advice`.
        noise: See `momentum_advice`.
        product: The product, positive.
        measured: How it was measured, for the sentence.
    """
    least = least_momentum(product)
    measured = f"{measured}, gradient noise scale {'not measured' if noise is None else noise}, batch size {batch_size}"
    if product > WELL_ABOVE * STABLE:
        said = (
            f"Momentum is needed here: plain SGD of the same mean step would be unstable ({measured}; {STABLE:g} is "
            f"the limit without momentum). Tune momentum from {least:.2f} upwards, where a heavy ball becomes stable, "
            "together with the mean step; critically damped momentum below that value is unstable at this mean step. "
            f"critmom_qhm, or Nesterov's momentum from {_least_nesterov(product):.2f} upwards, damp the oscillation "
            "instead."
        )
        return MomentumAdvice("needed", said, least)
    if noise is not None and noise.low > WELL_ABOVE * batch_size:
        said = (
            f"Momentum can hardly matter here beyond its mean step: steps are mostly noise ({measured}). Tune the mean "
            "step and its schedule, or raise the batch size, and leave momentum as it is."
        )
        return MomentumAdvice("hardly", said, least)
    if noise is not None and noise.value is not None and noise.high < WELL_ABOVE * batch_size:
        said = (
            f"Momentum can matter here: the gradient is not lost in noise ({measured}). Tune momentum and mean step "
            "together."
        )
        return MomentumAdvice("can", said, least)
    said = (
        f"Whether momentum can matter here cannot be told ({measured}). Measure on more examples, or compare tuned "
        "momentum 0.9 with tuned momentum 0."
    )
    return MomentumAdvice("open", said, least)


def least_momentum(product: float) -> float:
    """The least momentum at which a heavy ball is stable at a product of mean step and curvature."""
    return max((product - STABLE) / (product + STABLE), 0.0)


def _least_nesterov(product: float) -> float:
    """The least momentum at which Nesterov's is stable, where ``h k`` is above 2.

    Quasi-hyperbolic momentum is stable up to ``h k = 2 (1 + mu) / (1 + mu - 2 nu mu)``, and Nesterov's is ``nu = mu``.
    The weight of critmom_qhm is stable wherever a heavy ball is.
    """
    excess = product - STABLE
    return (excess + math.sqrt(excess * (excess + 8.0 * product))) / (4.0 * product)
