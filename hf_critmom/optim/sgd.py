"""SGD whose momentum is critically damped: the momentum of every step follows the group's own learning rate."""

import functools
import sys
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim import SGD

from hf_critmom.optim.damped import CriticallyDamped, warn_of_clamp
from hf_critmom.optim.options import refusals_in_a_sentence
from hf_critmom.optim.uncompiled import uncompiled
from hf_critmom.upstream import unhooked_step

ALMOST_ZERO = sys.float_info.min
"""Stands in for a momentum of exactly 0 within a step: torch's SGD would leave the velocity as it is, and a later
step would resume from a stale one instead of from the last gradient."""


class CritMomSGD(CriticallyDamped, SGD):
    """SGD with critically damped momentum, ``mu = 1 - 2 sqrt(lr)`` by default.

    Each step sets ``group["momentum"]`` of every param group from that group's current ``lr`` and then is a step
    of `torch.optim.SGD` in its own implementation (for-loop, foreach or fused):

        mu    <- max(min(critical_momentum(lr), hold), floor)
        v     <- mu v + g + weight_decay * theta
        theta <- theta - lr v                        (Nesterov: theta - lr (g + mu v))

    The optimizer keeps no memory of the schedule, so learning-rate schedulers, warmup, gradient accumulation and
    resumed runs need nothing. An abrupt rise of the learning rate from nearly 0 begins with long steps, since the
    velocity sums up gradients there; ``hold`` bounds them. State dicts are those of SGD with four more plain values in
    each group.

        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = CritMomSGD([weight], lr=0.04, rule="exact")
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> round(optimizer.param_groups[0]["momentum"], 6)
        0.64

    `torch.compile` leaves the step as it is, and says so; ``fused=True`` is one kernel without compilation.

    Args:
        params: Parameters or param groups; a group may override any option.
        lr: Learning rate, finite and not negative.
        rule: How momentum follows from ``lr``: a name in `hf_critmom.damping.RULES`.
        hold: Ceiling of the momentum, or None. 0.9 makes the paper's hybrid: critical while the learning rate is
            large, constant once the critical momentum exceeds it.
        floor: Least momentum.
        curvature: Curvature that is critically damped; the paper sets 1.
        weight_decay: L2 penalty, as in `torch.optim.SGD`.
        nesterov: Nesterov's look-ahead gradient.
        maximize: As in `torch.optim.SGD`.
        foreach: As in `torch.optim.SGD`.
        differentiable: As in `torch.optim.SGD`.
        fused: As in `torch.optim.SGD`.

    Raises:
        ValueError: If an option is not valid, or ``lr`` negative or not finite (also at a later step).

    Source: arXiv 2603.28921 for the linear rule. What the paper's hybrid does exactly could not be read; the
    ceiling is our own choice.
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor,
        *,
        rule: str = "linear",
        hold: float | None = None,
        floor: float = 0.0,
        curvature: float = 1.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        with refusals_in_a_sentence(type(self).__name__):
            super().__init__(
                params,
                lr=lr,
                momentum=0.5,  # any positive number: the group's own lr decides below
                weight_decay=weight_decay,
                nesterov=nesterov,
                maximize=maximize,
                foreach=foreach,
                differentiable=differentiable,
                fused=fused,
            )
        self._init_damping(rule=rule, hold=hold, floor=floor, curvature=curvature)

    def _write_momentum(self, group: dict[str, Any], momentum: float) -> None:
        group["momentum"] = momentum

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @uncompiled
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every param group, with the momentum that belongs to the group's current ``lr``.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.
        """
        clamped = [group for group in self.param_groups if self._update_momentum(group) == 0.0]
        for group in clamped:
            warn_of_clamp(group, "which is plain SGD")
            group["momentum"] = ALMOST_ZERO
        try:
            return sgd_step()(self, closure)
        finally:
            for group in clamped:
                group["momentum"] = 0.0


@functools.cache
def sgd_step() -> Callable[..., Any]:
    """The step of `torch.optim.SGD` itself, to be called within the step of a subclass."""
    return unhooked_step(SGD)
