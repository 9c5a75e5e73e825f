"""How large the steps of a run are, and how much its weight decay shrinks the weights: what a comparison has to report.

At the same learning rate two optimizers differ in the step that a constant gradient would make them take, and in what a
step leaves of the weights. Both are computed from the param groups at every step, without touching a tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from hf_critmom.damping import critical_momentum
from hf_critmom.optim.qhm import CritMomQHM


@dataclass
class StepStatistics:
    """Sums over the steps of a run, of the first param group that has a weight decay, else of the first one.

    Attributes:
        count: Steps so far.
        velocity: Sum of the weights that the velocity gives to past gradients, S_t = mu_t S_(t-1) + 1 - dampening.
        integrated: Sum of the integrated steps: what a step moves by per unit of a constant gradient
            (`hf_critmom.damping.integrated_steps`); None: not known of this optimizer.
        shrinkage: Sum of the shares by which weight decay shrinks the weights in a step; None: not known.
    """

    count: int = 0
    velocity: float = 0.0
    integrated: float | None = 0.0
    shrinkage: float | None = 0.0

    def add(self, optimizer: Optimizer) -> None:
        """Counts a step that an optimizer has just made, while its groups hold what it was made with."""
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
        """The sums, as a checkpoint keeps them."""
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
            return lr  # its running average weighs the gradients with 1 in sum
        return None


def step_factor(optimizer: str, options: Mapping[str, Any], learning_rate: float, factor: float) -> float:
    """The factor of the learning rate that multiplies an arm's mean step at its peak by another factor.

    The mean step of a heavy ball is ``lr / (1 - momentum)``. Where momentum follows the learning rate it is not in
    proportion to it: ``sqrt(lr) / 2`` under the linear rule, where a step 3 times as large needs 9 times the learning
    rate. Of every other optimizer the step is taken to be in proportion.

        >>> step_factor("critmom", {}, 0.01, 2.0)
        4.0
        >>> step_factor("sgd", {"momentum": 0.9}, 0.01, 2.0)
        2.0

    Args:
        optimizer: The arm's optimizer.
        options: Its options.
        learning_rate: Its own peak learning rate.
        factor: Factor of the mean step.

    Returns:
        Factor of the learning rate, in six digits.
    """
    if optimizer not in _FOLLOWING:
        return factor
    low, high = learning_rate * 1e-12, learning_rate * 1e12
    wanted = factor * _peak_step(optimizer, options, learning_rate)
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _peak_step(optimizer, options, middle) < wanted else (low, middle)
    return float(f"{math.sqrt(low * high) / learning_rate:.6g}")


_FOLLOWING = ("critmom", "critmom_hybrid", "critmom_matched")
"""Optimizers whose mean step is that of critical momentum."""


def _peak_step(optimizer: str, options: Mapping[str, Any], lr: float) -> float:
    """Mean step at a learning rate, of an optimizer of critical momentum."""
    hold = options.get("hold", 0.9 if optimizer == "critmom_hybrid" else None)
    momentum = critical_momentum(lr, rule=options.get("rule", "linear"), curvature=options.get("curvature", 1.0))
    momentum = momentum if hold is None else min(momentum, hold)
    return lr / (1.0 - max(momentum, options.get("floor", 0.0)))


def _shrinkage(optimizer: Optimizer, lr: float, decay: float, step: float | None) -> float | None:
    """Share by which weight decay shrinks the weights in a step; as part of the gradient it takes part in momentum."""
    if decay == 0.0:
        return 0.0
    if isinstance(optimizer, torch.optim.AdamW):
        return lr * decay
    if isinstance(optimizer, torch.optim.SGD) and step is not None:
        return step * decay
    return None
