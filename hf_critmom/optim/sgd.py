"""SGD whose momentum is critically damped: the momentum of every step follows the group's own learning rate."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim import SGD

from hf_critmom.damping import RULES
from hf_critmom.optim.options import checked_option, group_momentum

_DAMPING_OPTIONS = ("rule", "hold", "curvature")

_ALMOST_ZERO = sys.float_info.min
"""Stands in for a momentum of exactly 0 within a step: torch's SGD would leave the velocity as it is, and a later
step would resume from a stale one instead of from the last gradient."""


class CritMomSGD(SGD):
    """SGD with critically damped momentum, ``mu = 1 - 2 sqrt(lr)`` by default.

    Each step sets ``group["momentum"]`` of every param group from that group's current ``lr`` and then is a step
    of `torch.optim.SGD` in its own implementation (for-loop, foreach or fused):

        mu    <- min(critical_momentum(lr), hold)
        v     <- mu v + g + weight_decay * theta
        theta <- theta - lr v                        (Nesterov: theta - lr (g + mu v))

    The optimizer keeps no memory of the schedule, so learning-rate schedulers, warmup, gradient accumulation and
    resumed runs need nothing. State dicts are those of SGD with three more plain values in each group.

    Args:
        params: Parameters or param groups; a group may override any option.
        lr: Learning rate, finite and not negative.
        rule: How momentum follows from ``lr``: a name in `hf_critmom.damping.RULES`.
        hold: Ceiling of the momentum, or None. 0.9 makes the paper's hybrid: critical while the learning rate is
            large, constant once the critical momentum exceeds it.
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
        curvature: float = 1.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
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
        self.defaults.update(rule=rule, hold=hold, curvature=curvature)
        for group in self.param_groups:
            self._damp(group)

    def _damp(self, group: dict[str, Any]) -> None:
        """Completes and checks a group's damping options and sets its momentum."""
        for name in _DAMPING_OPTIONS:
            group[name] = checked_option(name, group.get(name, self.defaults[name]))
        group["momentum"] = group_momentum(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, which may override ``rule``, ``hold`` and ``curvature``; its momentum follows its ``lr``."""
        super().add_param_group(param_group)
        if "rule" in self.defaults:  # not yet while the constructor of torch's SGD adds the first groups
            self._damp(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a plain SGD's state dict has no damping options
            for name in _DAMPING_OPTIONS:
                group.setdefault(name, self.defaults[name])

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every param group, with the momentum that belongs to the group's current ``lr``.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.
        """
        for group in self.param_groups:
            group["momentum"] = group_momentum(group) or _ALMOST_ZERO
        loss = _sgd_step(self, closure)
        for group in self.param_groups:
            if group["momentum"] == _ALMOST_ZERO:
                group["momentum"] = 0.0
                _warn_of_clamp(group)
        return loss


# The class's own step function without the hooks that torch wraps around it when the first SGD is constructed: they
# run around CritMomSGD.step already and must not run twice.
_sgd_step: Callable[..., Any] = getattr(SGD.step, "__wrapped__", SGD.step) if hasattr(SGD.step, "hooked") else SGD.step


def _warn_of_clamp(group: dict[str, Any]) -> None:
    limit = RULES[group["rule"]].frequency(0.0) ** 2 / group["curvature"]
    warnings.warn(
        f"The learning rate {float(group['lr']):g} exceeds {limit:g}, from where on the {group['rule']} rule has no "
        "positive momentum: momentum is clamped to 0, which is plain SGD. Lower the learning rate (scaling it with "
        "the number of processes raises it) or use rule=exponential.",
        stacklevel=3,
    )
