"""The arms of a comparison: methods as data, in one table.

`hf_critmom.experiments.comparison.arms.selection` finds arms by what ``--arms`` names, in this table and beyond it.
"""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from hf_critmom.experiments.comparison.arms.foreign import ARM_NAME, foreign_optimizer, is_foreign
from hf_critmom.experiments.comparison.arms.schedules import SCHEDULES
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.optim.factory import named_optimizer
from hf_critmom.storage.redaction import find_secrets

TUNED_SUFFIX = "_tuned"
COLOR = "#[0-9A-Fa-f]{6}"
LEAST_LEARNING_RATE, LARGEST_RATE = 1e-300, 1e6


@dataclass(frozen=True)
class Arm:
    """One method of a comparison.

    Attributes:
        name: What ``--arms`` is called with.
        optimizer: A name in `hf_critmom.optim.OPTIMIZERS` or in `BASELINES`, or one of
            `hf_critmom.experiments.comparison.arms.foreign`.
        options: Its options.
        schedule: A name in `hf_critmom.experiments.comparison.arms.schedules.SCHEDULES`.
        learning_rate: Its own peak learning rate; None: the comparison's ``--learning_rate``.
        weight_decay: Its own weight decay; None: the comparison's ``--weight_decay``.
        help: What it is, for tables and legends.
        color: Its colour in every figure.
        base: The arm of which this one is the tuned variant; None: it is none.
    """

    name: str
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "trainer"
    learning_rate: float | None = None
    weight_decay: float | None = None
    help: str = ""
    color: str = "#000000"
    base: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(ARM_NAME, self.name):
            raise ValueError(f"{self.name!r} cannot name an arm")
        if kinds := find_secrets(json.dumps(dataclasses.asdict(self), default=str)):
            raise ValueError(f"it holds what looks like {' and '.join(kinds)}, which records would keep")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r} instead of one of {', '.join(SCHEDULES)}")
        if not re.fullmatch(COLOR, self.color):
            raise ValueError(f"color is {self.color!r} instead of one such as #0072B2")
        for name, least in (("learning_rate", LEAST_LEARNING_RATE), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= LARGEST_RATE:
                raise ValueError(
                    f"{name} is {value:g} instead of a number {'above' if least else 'from'} 0 to {LARGEST_RATE:,.0f}"
                )

    @property
    def is_heavy_ball(self) -> bool:
        """Whether its momentum is that of a heavy ball, so that its damping ratio compares with those of others."""
        return "adam" not in self.optimizer.lower()

    def optimizer_cls_and_kwargs(self, lr: float) -> tuple[Any, dict[str, Any]]:
        """What the Trainer builds this arm's optimizer from, at a learning rate.

        Returns:
            A class, or for a foreign optimizer maybe a function, and its keyword arguments.

        Raises:
            ComparisonError: If a foreign optimizer cannot be built, or needs a package that is not installed.
        """
        if self.optimizer in BASELINES:
            return BASELINES[self.optimizer](), {"lr": lr, **self.options}
        if is_foreign(self.optimizer):
            return foreign_optimizer(self.optimizer, self.options, lr)
        return named_optimizer(self.optimizer, lr=lr, options=self.options)

    def record(self) -> dict[str, Any]:
        """Everything but the name, as JSON; what is at its default is left out, but how it is shown is not."""
        defaults = Arm(self.name, self.optimizer)
        values = {part.name: getattr(self, part.name) for part in dataclasses.fields(self) if part.name != "name"}
        told = {name: value for name, value in values.items() if value != getattr(defaults, name)}
        shown = {"help": self.help, "color": self.color}
        return {"optimizer": self.optimizer, **told, "options": dict(self.options), **shown}

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of what a plan holds; early plans recorded no help and colour, which the table knows."""
        known = ARMS.get(str(content.get("name")))
        return {**({} if known is None else {"help": known.help, "color": known.color}), **content}


def _schedule_free() -> type[Optimizer]:
    if importlib.util.find_spec("schedulefree") is None:
        raise ComparisonError("The arm schedule_free needs the package schedulefree: pip install schedulefree.")
    from schedulefree import AdamWScheduleFree  # only where it is used: the package is optional

    return AdamWScheduleFree


BASELINES: dict[str, Callable[[], type[Optimizer]]] = {
    "sgd": lambda: torch.optim.SGD,
    "adamw": lambda: torch.optim.AdamW,
    "schedule_free_adamw": _schedule_free,
}
"""Baseline optimizers by the names that arms use; every value that matters is written out in the arm's options."""

_SGD = {"momentum": 0.9}
_ADAMW = {"betas": [0.9, 0.999], "eps": 1e-8}
# Adam's usual learning rate, and a weight decay of which lr x weight decay is that of the SGD defaults, 1e-3 x 0.05 =
# 0.1 x 5e-4. Momentum 0.9 takes ten times that lr, so that AdamW shrinks weights a tenth as much as `constant` does.
_ADAMW_SCALE: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.05}

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("constant", "sgd", _SGD, help="SGD, constant momentum 0.9", color="#0072B2"),
        Arm(
            "nesterov",
            "sgd",
            {**_SGD, "nesterov": True},
            help="SGD, constant Nesterov momentum 0.9",
            color="#332288",
        ),
        Arm(
            "matched",
            "critmom_matched",
            help="SGD, constant momentum 0.9 at the learning rate that takes critmom's integrated step",
            color="#E69F00",
        ),
        Arm(
            "compensated",
            "critmom_compensated",
            help="SGD, critically damped momentum at the learning rate that takes constant 0.9's integrated step",
            color="#CC6677",
        ),
        Arm("critmom", "critmom", help="SGD, critically damped momentum, 1 - 2 sqrt(lr)", color="#D55E00"),
        Arm(
            "critmom_exact",
            "critmom",
            {"rule": "exact"},
            help="SGD, critically damped momentum by the exact rule, (1 - sqrt(lr))^2",
            color="#882255",
        ),
        Arm(
            "critmom_exponential",
            "critmom",
            {"rule": "exponential"},
            help="SGD, critically damped momentum by the exponential rule, exp(-2 sqrt(lr))",
            color="#AA4499",
        ),
        Arm(
            "hybrid",
            "critmom_hybrid",
            help="SGD, critically damped momentum up to 0.9, then constant",
            color="#009E73",
        ),
        Arm(
            "onecycle",
            "sgd",
            _SGD,
            schedule="onecycle",
            help="SGD, torch's OneCycleLR with its defaults: lr up and down, momentum 0.95 to 0.85 and back",
            color="#56B4E9",
        ),
        Arm(
            "demon",
            "sgd",
            _SGD,
            schedule="demon",
            help="SGD, momentum decaying from 0.9 to 0 (Demon, arXiv 1910.04952)",
            color="#999933",
        ),
        Arm("ikfad", "ikfad", help="adaptive friction per parameter (iKFAD, arXiv 2602.00334)", color="#117733"),
        Arm(
            "adamw",
            "adamw",
            _ADAMW,
            **_ADAMW_SCALE,
            help="AdamW, betas 0.9 and 0.999",
            color="#CC79A7",
        ),
        Arm(
            "critmom_adamw",
            "critmom_adamw",
            **_ADAMW_SCALE,
            help="AdamW, critically damped beta1, 1 - 2 sqrt(lr)",
            color="#661100",
        ),
        Arm(
            "schedule_free",
            "schedule_free_adamw",
            {"betas": [0.9, 0.999], "eps": 1e-8},
            schedule="constant",
            learning_rate=2.5e-3,
            weight_decay=0.05,
            help="Schedule-Free AdamW (arXiv 2405.15682) at its package's own learning rate, no schedule",
            color="#44AA99",
        ),
        Arm("constant_08", "sgd", {"momentum": 0.8}, help="SGD, constant momentum 0.8", color="#6699CC"),
        Arm(
            "quarter",
            "sgd",
            {**_SGD, "nesterov": True},
            schedule="matched",
            help="SGD, constant Nesterov momentum 0.9 at learning rate 0.05 sqrt(lr): critmom's mean step, "
            "which follows a quarter of a cosine where lr follows half of one",
            color="#997700",
        ),
        Arm(
            "qhm",
            "critmom_qhm",
            {"nu": 0.7},
            help="SGD, quasi-hyperbolic momentum 0.9 of constant weight 0.7 (arXiv 1810.06801)",
            color="#994455",
        ),
        Arm(
            "critmom_qhm",
            "critmom_qhm",
            help="SGD, quasi-hyperbolic momentum 0.9 whose weight damps curvature 10 critically",
            color="#EE3377",
        ),
        Arm(
            "critmom_qhm_auto",
            "critmom_qhm",
            {"curvature": "auto"},
            help="SGD, quasi-hyperbolic momentum 0.9 whose weight damps the measured top curvature critically",
            color="#004488",
        ),
    )
}
"""Colours: the palette of Okabe and Ito (2008) for the arms of most comparisons, Tol's muted scheme for the rest."""

EARLY_ARMS: dict[str, Arm] = {
    "matched": Arm(
        "matched",
        "sgd",
        _SGD,
        schedule="matched",
        help="SGD, constant momentum 0.9 at learning rate 0.05 sqrt(lr), which takes critmom's mean step",
        color="#E69F00",
    )
}
"""Arms as early plans have them: a comparison that was begun with one goes on with it."""

ARM_SETS: dict[str, tuple[str, ...]] = {
    "paper": ("constant", "matched", "critmom", "hybrid", "onecycle", "ikfad", "adamw"),
    "strong": ("constant", "constant_08", "nesterov", "quarter", "qhm", "critmom_qhm"),
    "fair": ("constant", "nesterov", "matched", "critmom", "hybrid", "onecycle", "demon", "ikfad", "adamw"),
}
"""Names that stand for several arms: the paper's methods with AdamW and the matched control; the same with more;
and what a critically damped method has to beat."""
