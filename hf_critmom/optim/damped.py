"""What the critically damped optimizers share: param groups whose momentum follows their own learning rate."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from hf_critmom.damping import critical_momentum, rule_named
from hf_critmom.optim.options import checked_option

DAMPING_OPTIONS = ("rule", "hold", "floor", "curvature")


class CriticallyDamped(Optimizer):
    """Base of optimizers whose param groups hold `DAMPING_OPTIONS`, as plain numbers and strings.

    It completes the groups of the constructor, of `add_param_group` and of state dicts that lack the options, such as
    those of torch's own optimizers. Put it before torch's optimizer among the bases and call `_begin_damping` at the
    end of the constructor.
    """

    def _begin_damping(self, **options: Any) -> None:
        self.defaults.update(options)
        for group in self.param_groups:
            self._damp(group)

    def _damp(self, group: dict[str, Any]) -> None:
        """Completes and checks a group's options and shows its momentum."""
        for name in DAMPING_OPTIONS:
            group[name] = checked_option(name, group.get(name, self.defaults[name]))
        if group["hold"] is not None and group["floor"] > group["hold"]:
            raise ValueError(f"floor={group['floor']} exceeds hold={group['hold']}: the floor must not be higher.")
        self._show_momentum(group, group_momentum(group))

    def _take_momentum(self, group: dict[str, Any]) -> float:
        """The momentum of a group's next step, which is also made visible."""
        momentum = group_momentum(group)
        if "base_momentum" in group:  # what OneCycleLR and CyclicLR leave in groups whose momentum they cycle
            warnings.warn(
                f"A learning-rate scheduler cycles the momentum too, which has no effect on {type(self).__name__}: its "
                "momentum follows the learning rate. Pass cycle_momentum=False, or bound it with floor and hold.",
                stacklevel=2,
            )
        self._show_momentum(group, momentum)
        return momentum

    def _show_momentum(self, group: dict[str, Any], momentum: float) -> None:
        """Makes a group's momentum visible where this kind of optimizer keeps it."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, which may override the options; its momentum follows its ``lr``."""
        for name in DAMPING_OPTIONS:
            if name in param_group:
                checked_option(name, param_group[name])
        super().add_param_group(param_group)
        if DAMPING_OPTIONS[0] in self.defaults:  # not yet while the constructor adds the first groups
            self._damp(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in DAMPING_OPTIONS:
                group.setdefault(name, self.defaults[name])


def group_momentum(group: Mapping[str, Any]) -> float:
    """The momentum of a param group from its own current learning rate: the critical one between floor and hold.

    The group's ``lr`` alone decides, so schedulers, warmup, resumed and restarted runs need nothing else.

    Raises:
        ValueError: If the group's ``lr``, ``rule`` or ``curvature`` is not valid.
    """
    momentum = critical_momentum(float(group["lr"]), rule=group["rule"], curvature=group["curvature"])
    if group["hold"] is not None:
        momentum = min(momentum, group["hold"])
    return max(momentum, group["floor"])


def warn_of_clamp(group: Mapping[str, Any], consequence: str) -> None:
    """Warns that a group's learning rate leaves no positive critical momentum.

    The text does not depend on the learning rate, so Python shows it once for a place in a program; of several
    processes that train together only the first says it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    limit = rule_named(group["rule"]).frequency(0.0) ** 2 / group["curvature"]
    warnings.warn(
        f"The learning rate is {limit:g} or more, from where on the {group['rule']} rule has no positive momentum at "
        f"curvature {group['curvature']:g}: momentum is clamped to 0, {consequence}. Lower the learning rate (scaling "
        "it with the number of processes raises it), or use rule=exponential.",
        stacklevel=2,
    )


def unhooked_step(optimizer_cls: type[Optimizer]) -> Any:
    """A torch optimizer's own step function, without the hooks that torch wraps around it.

    torch replaces ``cls.step`` by a version that runs the registered hooks when the first instance of ``cls`` is
    constructed. A subclass gets its own such version, so that calling the base's would run the hooks twice.
    """
    step: Any = optimizer_cls.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step
