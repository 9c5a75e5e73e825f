"""How large the steps of a run are, and how much its weight decay shrinks the weights: what a comparison must tell.

At the same learning rate two optimizers differ in the step that a constant gradient would make them take, and in what a
step leaves of the weights. Both are computed from the param groups at every step, without touching a tensor.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import Optimizer

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


def _shrinkage(optimizer: Optimizer, lr: float, decay: float, step: float | None) -> float | None:
    """Share by which weight decay shrinks the weights in a step; as part of the gradient it takes part in momentum."""
    if decay == 0.0:
        return 0.0
    if isinstance(optimizer, torch.optim.AdamW):
        return lr * decay
    if isinstance(optimizer, torch.optim.SGD) and step is not None:
        return step * decay
    return None
