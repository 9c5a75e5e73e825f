"""The arms of a comparison: methods as data, in one table.

`hf_critmom.experiments.comparison.arms.selection` finds the arms that ``--arms`` names, in this table and beyond it.
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

from hf_critmom.experiments.comparison.arms.schedules import SCHEDULES
from hf_critmom.experiments.comparison.arms.third_party import ARM_NAME, is_third_party, third_party_optimizer
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.optim.factory import OPTIMIZERS, named_optimizer
from hf_critmom.storage.redaction import find_secrets

TUNED_SUFFIX = "_tuned"
COLOR = "#[0-9A-Fa-f]{6}"
RANGES = {
    "learning_rate": (1e-300, 1e6, "a number above 0 and at most 1,000,000"),
    "weight_decay": (0.0, 1e6, "a number from 0 to 1,000,000"),
}
"""Least and largest value of an arm's own learning rate and weight decay, and their descriptions."""


@dataclass(frozen=True)
class Arm:
    """One method of a comparison.

    Attributes:
        name: Name of the arm.
        optimizer: A name in `hf_critmom.optim.OPTIMIZERS` or in `BASELINES`, or that of a third-party optimizer, see
            `hf_critmom.experiments.comparison.arms.third_party`.
        options: Options of the optimizer.
        schedule: A name in `hf_critmom.experiments.comparison.arms.schedules.SCHEDULES`.
        learning_rate: The arm's own peak learning rate; None for the comparison's ``--learning_rate``.
        weight_decay: The arm's own weight decay; None for the comparison's ``--weight_decay``.
        help: Description for cards and pages.
        color: Colour in every figure.
        base: Name of the arm of which this one is the tuned variant; None if it is not a tuned variant.
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
            raise ValueError(f"it holds what looks like {' and '.join(kinds)}, which would be stored")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r} instead of one of {', '.join(SCHEDULES)}")
        if not re.fullmatch(COLOR, self.color):
            raise ValueError(f"color is {self.color!r} instead of one such as #0072B2")
        for name, (least, most, expected) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} is {value:g} instead of {expected}")

    @property
    def is_heavy_ball(self) -> bool:
        """Whether its momentum is a heavy ball's, so that its damping ratio is comparable with those of other arms."""
        return "adam" not in self.optimizer.lower()

    def optimizer_cls_and_kwargs(self, lr: float) -> tuple[Any, dict[str, Any]]:
        """The class and keyword arguments from which the Trainer builds the arm's optimizer.

        Returns:
            A class, or for a third-party optimizer possibly a function, and its keyword arguments.

        Raises:
            ComparisonError: If a third-party optimizer cannot be built, or needs a package that is not installed.
        """
        if self.optimizer in BASELINES:
            return BASELINES[self.optimizer](), {"lr": lr, **self.options}
        if is_third_party(self.optimizer):
            return third_party_optimizer(self.optimizer, self.options, lr)
        return named_optimizer(self.optimizer, lr=lr, options=self.options)

    def record(self) -> dict[str, Any]:
        """Everything but the name, as JSON; defaults are left out, except for options, help and colour."""
        defaults = Arm(self.name, self.optimizer)
        values = {part.name: getattr(self, part.name) for part in dataclasses.fields(self) if part.name != "name"}
        changed = {name: value for name, value in values.items() if value != getattr(defaults, name)}
        shown = {"help": self.help, "color": self.color}
        return {"optimizer": self.optimizer, **changed, "options": dict(self.options), **shown}

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a stored arm; early plans did not store help and colour, which then come from the table."""
        known = ARMS.get(str(content.get("name")))
        return {**({} if known is None else {"help": known.help, "color": known.color}), **content}


def _schedule_free() -> type[Optimizer]:
    if importlib.util.find_spec("schedulefree") is None:
        raise ComparisonError("The arm schedule_free needs the package schedulefree: pip install 'schedulefree>=1.4'.")
    from schedulefree import AdamWScheduleFree  # only where it is used: the package is optional

    return AdamWScheduleFree


BASELINES: dict[str, Callable[[], type[Optimizer]]] = {
    "sgd": lambda: torch.optim.SGD,
    "adamw": lambda: torch.optim.AdamW,
    "schedule_free_adamw": _schedule_free,
}
"""Baseline optimizers by the names that arms use; every option that matters is written out in the arm."""

_SGD = {"momentum": 0.9}
_ADAMW = {"betas": [0.9, 0.999], "eps": 1e-8}
# Adam's usual learning rate, and a weight decay with the same lr x weight decay as the SGD defaults: 1e-3 x 0.05 =
# 0.1 x 5e-4. Momentum 0.9 multiplies SGD's step by ten, so AdamW shrinks weights a tenth as much as `constant` does.
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
            help="SGD, constant momentum 0.9 at the learning rate that gives critmom's mean step",
            color="#E69F00",
        ),
        Arm(
            "compensated",
            "critmom_compensated",
            help="SGD, critically damped momentum at the learning rate that gives constant 0.9's mean step",
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
            help="SGD, constant Nesterov momentum 0.9 at learning rate 0.05 sqrt(lr): critmom's mean step up to "
            "lr 0.25, which follows a quarter of a cosine where lr follows half of one",
            color="#997700",
        ),
        Arm(
            "qhm",
            "critmom_qhm",
            {"nu": 0.7},
            help="SGD, quasi-hyperbolic momentum 0.9 with constant immediate weight 0.7 (arXiv 1810.06801)",
            color="#994455",
        ),
        Arm(
            "critmom_qhm",
            "critmom_qhm",
            help="SGD, quasi-hyperbolic momentum 0.9 whose immediate weight damps curvature 10 critically",
            color="#EE3377",
        ),
        Arm(
            "critmom_qhm_auto",
            "critmom_qhm",
            {"curvature": "auto"},
            help="SGD, quasi-hyperbolic momentum 0.9 whose immediate weight damps the measured top curvature "
            "critically",
            color="#004488",
        ),
    )
}
"""Colours: the palette of Okabe and Ito (2008) for the arms of most comparisons, Tol's muted scheme for the rest."""

ADAPTIVE = ("adamw", "critmom_adamw")
"""Optimizers of our arms to which a learning rate for Adam applies."""


def is_adaptive(optim: str) -> bool:
    """Whether a name of ``--optim`` is that of an adaptive optimizer, such as Adam, rather than a kind of SGD."""
    return not ("sgd" in optim or (optim in OPTIMIZERS and optim not in ADAPTIVE))


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
"""Arms as early plans store them: a comparison that was started with one continues with it."""

ARM_SETS: dict[str, tuple[str, ...]] = {
    "paper": ("constant", "matched", "critmom", "hybrid", "onecycle", "ikfad", "adamw"),
    "strong": ("constant", "constant_08", "nesterov", "quarter", "qhm", "critmom_qhm"),
    "fair": ("constant", "nesterov", "matched", "critmom", "hybrid", "onecycle", "demon", "ikfad", "adamw"),
}
"""Names of sets of arms: "paper", the paper's methods with AdamW and the matched control; "fair", these with more
controls; and "strong", the methods that critically damped momentum has to beat."""
