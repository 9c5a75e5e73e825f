"""The sizes of a run's steps, and the share by which weight decay shrinks the weights in them.

At the same learning rate, optimizers differ in the step that they take for a constant gradient, and in the shrinkage of
the weights. Both are computed from the param groups at every step, without touching a tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from hf_critmom.damping import critical_momentum
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.optim.qhm import CritMomQHM


@dataclass
class StepStatistics:
    """Sums over the steps of a run, for the first param group with weight decay, or else the first one.

    Attributes:
        count: Number of steps so far.
        velocity: Sum of the weights of past gradients in the velocity, S_t = mu_t S_(t-1) + 1 - dampening (S_1 = 1).
        integrated: Sum of the integrated steps: how far a step moves per unit of a constant gradient
            (`hf_critmom.damping.integrated_steps`); None if it is not known for the optimizer.
        shrinkage: Sum of the shares by which weight decay shrinks the weights in a step; None if it is not known.
    """

    count: int = 0
    velocity: float = 0.0
    integrated: float | None = 0.0
    shrinkage: float | None = 0.0

    def add(self, optimizer: Optimizer) -> None:
        """Adds a step that an optimizer has just made, while its param groups still hold the values of that step."""
        groups = optimizer.param_groups
        group = next((one for one in groups if float(one.get("weight_decay", 0.0) or 0.0) > 0.0), groups[0])
        lr, decay = float(group.get("effective_lr", group["lr"])), float(group.get("weight_decay", 0.0) or 0.0)
        step = self._integrated(optimizer, group, lr)
        self.count += 1
        self.integrated = None if step is None or self.integrated is None else self.integrated + step
        shrunk = _shrinkage(optimizer, lr, decay, step)
        self.shrinkage = None if shrunk is None or self.shrinkage is None else self.shrinkage + shrunk

    def means(self) -> dict[str, float | None]:
        """The means, as a result holds them."""
        totals = {"integrated_step": self.integrated, "shrinkage": self.shrinkage}
        return {
            name: total / self.count if self.count and total is not None else None for name, total in totals.items()
        }

    def as_json(self) -> dict[str, Any]:
        """The sums, as checkpoints store them."""
        return asdict(self)

    def _integrated(self, optimizer: Optimizer, group: dict[str, Any], lr: float) -> float | None:
        if isinstance(optimizer, torch.optim.SGD):
            momentum, weight = float(group["momentum"]), 1.0 - float(group["dampening"])
            self.velocity = momentum * self.velocity + (weight if self.count else 1.0)
            if isinstance(optimizer, CritMomQHM):
                nu = float(group["nu"])
                return lr * (nu * self.velocity + (1.0 - nu) / (1.0 - momentum))
            return lr * (1.0 + momentum * self.velocity if group["nesterov"] else self.velocity)
        if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
            return lr  # the weights of the gradients in its running average sum to 1
        return None


def step_factor(optimizer: str, options: Mapping[str, Any], learning_rate: float, factor: float) -> float:
    """The factor of the learning rate that multiplies an arm's mean step at the peak learning rate by a given factor.

    The mean step of a heavy ball is ``lr / (1 - momentum)``. If momentum follows the learning rate, it is not
    proportional to it: under the linear rule it is ``sqrt(lr) / 2``, so that a step 3 times as large needs 9 times the
    learning rate. The step of every other optimizer is taken to be proportional to the learning rate.

        >>> step_factor("critmom", {}, 0.01, 2.0)
        4.0
        >>> step_factor("sgd", {"momentum": 0.9}, 0.01, 2.0)
        2.0

    Args:
        optimizer: The arm's optimizer.
        options: Options of the optimizer.
        learning_rate: The arm's own peak learning rate.
        factor: Factor of the mean step.

    Returns:
        Factor of the learning rate, rounded to six digits.

    Raises:
        ComparisonError: If no learning rate gives such a step, as where the ema rule's is never smaller.
    """
    if optimizer not in _FOLLOWING:
        return factor
    low, high = learning_rate * 1e-12, learning_rate * 1e12
    wanted = factor * _peak_step(optimizer, options, learning_rate)
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _peak_step(optimizer, options, middle) < wanted else (low, middle)
    found = math.sqrt(low * high)
    if not math.isclose(_peak_step(optimizer, options, found), wanted, rel_tol=1e-3):
        raise ComparisonError(
            f"No learning rate gives {optimizer} with rule={options.get('rule', 'linear')} a mean step {factor:g} "
            f"times that at {learning_rate:g}: leave this factor out of --step_grid, or use --learning_rate_grid."
        )
    return float(f"{found / learning_rate:.6g}")


_FOLLOWING = ("critmom", "critmom_hybrid", "critmom_matched")
"""Optimizers whose mean step is that of critical momentum, which follows the learning rate."""


def _peak_step(optimizer: str, options: Mapping[str, Any], lr: float) -> float:
    """Mean step of an optimizer in `_FOLLOWING` at a learning rate."""
    hold = options.get("hold", 0.9 if optimizer == "critmom_hybrid" else None)
    momentum = critical_momentum(lr, rule=options.get("rule", "linear"), curvature=options.get("curvature", 1.0))
    momentum = momentum if hold is None else min(momentum, hold)
    return lr / (1.0 - max(momentum, options.get("floor", 0.0)))


def _shrinkage(optimizer: Optimizer, lr: float, decay: float, step: float | None) -> float | None:
    """Share by which weight decay shrinks the weights in a step; SGD's L2 decay is part of the gradient."""
    if decay == 0.0:
        return 0.0
    if isinstance(optimizer, torch.optim.AdamW):
        return lr * decay
    if isinstance(optimizer, torch.optim.SGD) and step is not None:
        return step * decay
    return None
