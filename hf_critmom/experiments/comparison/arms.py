"""The arms of a comparison: methods as data, in one table that a file of the user's extends."""

import dataclasses
import importlib.util
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from hf_critmom.errors import InputError, root_message
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.schedules import SCHEDULES
from hf_critmom.optim.damped import CriticallyDamped
from hf_critmom.optim.factory import OPTIMIZERS, named_optimizer

ARM_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
"""What the names of arms match, which are names of folders too."""
TUNED_SUFFIX = "_tuned"
_COLOR = "#[0-9A-Fa-f]{6}"
_LEAST_LEARNING_RATE = 1e-300


@dataclass(frozen=True)
class Arm:
    """One method of a comparison.

    Attributes:
        name: What ``--arms`` is called with.
        optimizer: A name in `hf_critmom.optim.OPTIMIZERS` or in `BASELINES`.
        options: Its options.
        schedule: A name in `hf_critmom.experiments.comparison.schedules.SCHEDULES`.
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
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r} instead of one of {', '.join(SCHEDULES)}")
        if not re.fullmatch(_COLOR, self.color):
            raise ValueError(f"color is {self.color!r} instead of one such as #0072B2")
        for name, least in (("learning_rate", _LEAST_LEARNING_RATE), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"{name} is {value:g} instead of a finite number {'above' if least else 'from'} 0")

    def optimizer_cls_and_kwargs(self, lr: float) -> tuple[type[Optimizer], dict[str, Any]]:
        """What the Trainer builds this arm's optimizer from, at a learning rate."""
        if self.optimizer in BASELINES:
            return BASELINES[self.optimizer](), {"lr": lr, **self.options}
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
    from schedulefree import AdamWScheduleFree  # only where it is asked for: the package is optional

    return AdamWScheduleFree


BASELINES: dict[str, Callable[[], type[Optimizer]]] = {
    "sgd": lambda: torch.optim.SGD,
    "adamw": lambda: torch.optim.AdamW,
    "schedule_free_adamw": _schedule_free,
}
"""Optimizers of others by the names that arms use; every value that matters is written out in the arm's options."""

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
            "sgd",
            _SGD,
            schedule="matched",
            help="SGD, constant momentum 0.9 at learning rate 0.05 sqrt(lr), which takes critmom's mean step",
            color="#E69F00",
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
    )
}
"""Colours: the palette of Okabe and Ito (2008) for the arms of most comparisons, Tol's muted scheme for the rest."""

ARM_SETS: dict[str, tuple[str, ...]] = {
    "paper": ("constant", "critmom", "hybrid", "onecycle", "ikfad", "adamw"),
    "fair": ("constant", "nesterov", "matched", "critmom", "hybrid", "onecycle", "demon", "ikfad", "adamw"),
}
"""Names that stand for several arms: the paper's five methods with AdamW beside them; the same with the controls."""


def get_arms(names: list[str], arms: Mapping[str, Arm] = ARMS) -> list[Arm]:
    """Looks arms up; a name of `ARM_SETS` stands for its arms.

    Args:
        names: Names of arms and of sets of arms.
        arms: The arms to choose among.

    Raises:
        ComparisonError: If one is not known or named twice, or needs a package that is not installed.
    """
    spelled = [arm for name in names for arm in (ARM_SETS[name] if name in ARM_SETS and name not in arms else (name,))]
    if unknown := [name for name in spelled if name not in arms]:
        raise ComparisonError(
            f"Unknown arm {', '.join(map(repr, unknown))}: choose among {', '.join(arms)}, or {', '.join(ARM_SETS)} "
            f"for several at once; optimizer names such as {', '.join(OPTIMIZERS)} belong to --optim."
        )
    if len(set(spelled)) < len(spelled):
        raise ComparisonError(f"An arm is named twice in --arms {' '.join(names)}: name each once.")
    found = [arms[name] for name in spelled]
    for arm in found:
        arm.optimizer_cls_and_kwargs(0.1)
    return found


def read_arms(file: Path) -> dict[str, Arm]:
    """Reads arms from a TOML or JSON file: a table per arm, with the attributes of `Arm` but the name.

    Returns:
        The table `ARMS` with the file's arms added or in the place of those of the same name.

    Raises:
        ComparisonError: If the file cannot be read, or an arm in it cannot be made.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ComparisonError(
            f"--arms_file {file} cannot be read ({root_message(error)}): expected a TOML or JSON file "
            "with a table per arm."
        ) from None
    if not isinstance(content, dict) or not content:
        raise ComparisonError(f"--arms_file {file} holds no arms: expected a table per arm, such as [slow] in TOML.")
    arms = dict(ARMS)
    for number, (name, values) in enumerate(content.items()):
        try:
            arms[name] = _arm_from_file(name, values, _SPARE_COLORS[number % len(_SPARE_COLORS)])
        except InputError as error:
            raise ComparisonError(f"The arm {name!r} in {file} cannot be made: {error}") from None
    return arms


_SPARE_COLORS = ("#000000", "#F0E442", "#88CCEE", "#CC6677", "#DDCC77", "#777777")


def _arm_from_file(name: str, values: Any, color: str) -> Arm:
    if not re.fullmatch(ARM_NAME, name) or name in ARM_SETS or name.endswith(TUNED_SUFFIX):
        raise ComparisonError(
            f"a name is of letters, digits, '_', '-' and '.', other than {', '.join(ARM_SETS)}, and does not end in "
            f"{TUNED_SUFFIX}."
        )
    settable = [part.name for part in dataclasses.fields(Arm) if part.name not in ("name", "base")]
    if not isinstance(values, dict) or "optimizer" not in values:
        raise ComparisonError("expected a table with at least its optimizer.")
    if unknown := [key for key in values if key not in settable]:
        raise ComparisonError(f"unknown {', '.join(unknown)}: an arm has {', '.join(settable)}.")
    if json_error := _json_error(values):
        raise ComparisonError(f"its values must be texts, finite numbers, booleans, lists and tables ({json_error}).")
    if values["optimizer"] not in (*BASELINES, *OPTIMIZERS):
        raise ComparisonError(
            f"unknown optimizer {values['optimizer']!r}: choose among {', '.join((*BASELINES, *OPTIMIZERS))}."
        )
    if values.get("schedule", "trainer") not in list(SCHEDULES):
        raise ComparisonError(f"unknown schedule {values['schedule']!r}: choose among {', '.join(SCHEDULES)}.")
    for key, least in (("learning_rate", _LEAST_LEARNING_RATE), ("weight_decay", 0.0)):
        value = values.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (least <= value < math.inf):
            raise ComparisonError(f"{key} must be a finite number, {'above' if least else 'at least'} 0: {value!r}.")
    options = values.get("options", {})
    if not isinstance(options, dict) or {"lr", "weight_decay"} & options.keys():
        raise ComparisonError("options must be a table without lr and weight_decay, which stand beside it.")
    shown = {"color": color, "help": f"{values['optimizer']}, from a file of arms"}
    shown |= {key: value for key, value in values.items() if key in shown}
    if not (
        isinstance(shown["color"], str) and re.fullmatch(_COLOR, shown["color"]) and isinstance(shown["help"], str)
    ):
        raise ComparisonError(f"color must be like #0072B2, help a text: {shown['color']!r}, {shown['help']!r}.")
    arm = Arm(name, **{**values, **shown})
    try:
        cls, kwargs = arm.optimizer_cls_and_kwargs(0.1)
        optimizer = cls([torch.zeros(1, requires_grad=True)], **kwargs)
    except (TypeError, ValueError) as error:
        raise ComparisonError(f"{values['optimizer']} refuses its options ({root_message(error)}).") from None
    group, follows = optimizer.param_groups[0], isinstance(optimizer, CriticallyDamped)
    if arm.schedule in ("demon", "matched") and ("momentum" not in group or follows):
        raise ComparisonError(
            f"the schedule {arm.schedule} is one for a momentum that does not follow the learning rate by itself, "
            f"which {arm.optimizer} does not have."
        )
    if arm.schedule == "onecycle" and not {"momentum", "betas"} & group.keys():
        raise ComparisonError(f"the schedule onecycle cycles a momentum, which {arm.optimizer} does not have.")
    return arm


def _json_error(values: Any) -> str:
    """Why values cannot be kept in a plan; empty if they can."""
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        return root_message(error)
    return ""
