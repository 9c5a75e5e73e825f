"""The arms of a comparison: methods as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from hf_critmom.comparison.errors import ComparisonError
from hf_critmom.optim.factory import OPTIMIZERS, named_optimizer


@dataclass(frozen=True)
class Arm:
    """One method of a comparison.

    Attributes:
        name: What ``--arms`` is called with.
        optimizer: A name in `hf_critmom.optim.OPTIMIZERS` or in `BASELINES`.
        options: Its options.
        help: What it is, for tables and legends.
        color: Its colour in every figure, from the colour-blind safe palette of Okabe and Ito (2008).
    """

    name: str
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    help: str = ""
    color: str = "#000000"

    def optimizer_cls_and_kwargs(self, lr: float) -> tuple[type[Optimizer], dict[str, Any]]:
        """What the Trainer builds this arm's optimizer from, at a learning rate."""
        if self.optimizer in BASELINES:
            return BASELINES[self.optimizer], {"lr": lr, **self.options}
        return named_optimizer(self.optimizer, lr=lr, options=self.options)


BASELINES: dict[str, type[Optimizer]] = {"sgd": torch.optim.SGD}
"""Optimizers of torch by the names that arms use; every value that matters is written out in the arm's options."""

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("constant", "sgd", {"momentum": 0.9}, "SGD, constant momentum 0.9", "#0072B2"),
        Arm("critmom", "critmom", {}, "SGD, critically damped momentum, 1 - 2 sqrt(lr)", "#D55E00"),
        Arm("hybrid", "critmom_hybrid", {}, "SGD, critically damped momentum up to 0.9, then constant", "#009E73"),
    )
}


def arms_named(names: list[str]) -> list[Arm]:
    """Looks arms up.

    Raises:
        ComparisonError: If one is not known or named twice.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise ComparisonError(
            f"Unknown arm {', '.join(map(repr, unknown))}: choose among {', '.join(ARMS)}; "
            f"optimizer names such as {', '.join(OPTIMIZERS)} belong to --optim."
        )
    if len(set(names)) < len(names):
        raise ComparisonError(f"An arm is named twice in --arms {' '.join(names)}: name each once.")
    return [ARMS[name] for name in names]
