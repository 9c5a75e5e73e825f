"""What the critically damped optimizers share: param groups whose momentum follows their own learning rate."""

import warnings
from collections.abc import Callable, Mapping
from itertools import compress
from operator import itemgetter
from typing import Any, ClassVar

import torch

from hf_critmom.damping import critical_momentum, get_rule
from hf_critmom.errors import InputError
from hf_critmom.optim.options import check_option
from hf_critmom.optim.resuming import ChecksState
from hf_critmom.upstream import leave_unscaling_to_scaler

DAMPING_OPTIONS = ("rule", "hold", "floor", "curvature")


class CriticallyDamped(ChecksState):
    """Base of optimizers whose param groups hold `DAMPING_OPTIONS`, as plain numbers and strings.

    It completes the groups of the constructor, of `add_param_group` and of state dicts that lack the options, such as
    those of torch's own optimizers. Put it before torch's optimizer among the bases and call `_init_damping` at the
    end of the constructor.
    """

    def _init_damping(self, **options: Any) -> None:
        self.defaults.update(options)
        for group in self.param_groups:
            self._complete_group(group)

    def _complete_group(self, group: dict[str, Any]) -> None:
        """Completes and checks the options of a group and writes its momentum."""
        for name in DAMPING_OPTIONS:
            group[name] = check_option(name, group.get(name, self.defaults[name]))
        if group["hold"] is not None and group["floor"] > group["hold"]:
            raise InputError(f"floor={group['floor']} exceeds hold={group['hold']}: the floor must not be higher.")
        self._write_momentum(group, group_momentum(group))

    def _update_momentum(self, group: dict[str, Any]) -> float:
        """Writes the momentum of the next step into its group and returns the critical one (see `group_momentum`)."""
        momentum = group_momentum(group)
        if "base_momentum" in group:  # what OneCycleLR and CyclicLR leave in groups whose momentum they cycle
            warnings.warn(
                f"A learning-rate scheduler cycles the momentum too, which has no effect on {type(self).__name__}: its "
                "momentum follows the learning rate. Pass cycle_momentum=False, or bound it with floor and hold.",
                stacklevel=2,
            )
        self._write_momentum(group, momentum)
        return momentum

    def _write_momentum(self, group: dict[str, Any], momentum: float) -> None:
        """Writes the momentum into a group where this kind of optimizer keeps it."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, which may override the options; its momentum follows its ``lr``."""
        for name in DAMPING_OPTIONS:
            if name in param_group:
                check_option(name, param_group[name])
        super().add_param_group(param_group)
        if DAMPING_OPTIONS[0] in self.defaults:  # not yet while the constructor adds the first groups
            self._complete_group(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in DAMPING_OPTIONS:
                group.setdefault(name, self.defaults[name])


class CohortStep(CriticallyDamped):
    """Base of optimizers whose update depends on two numbers that each parameter carries from step to step.

    A parameter without a gradient takes no step, so its numbers stay behind those of its group: every parameter keeps
    its own two as plain numbers in its state. A step sorts the parameters of a group into cohorts of equal numbers
    (there is one, as long as all have had gradients) and hands each cohort as a param group to torch's own update, with
    the options that `_advance` replaces.
    """

    INITIAL: ClassVar[dict[str, int | float]]
    """Names of the two numbers, and their values before the first step."""

    def _init_damping(self, **options: Any) -> None:
        super()._init_damping(**options)
        if any(group["fused"] for group in self.param_groups):
            leave_unscaling_to_scaler(self)  # else a step that the kernel skips would be counted all the same

    def _advance(
        self, group: dict[str, Any], momentum: float, numbers: tuple[Any, Any]
    ) -> tuple[tuple[Any, Any], dict[str, Any]]:
        """What a step makes of a cohort.

        Args:
            group: Its param group.
            momentum: The critical momentum of the group's current ``lr``.
            numbers: The two numbers before the step.

        Returns:
            The two numbers after the step, and the options that torch's update takes in place of the group's.
        """
        raise NotImplementedError

    def _step_cohorts(self, torch_step: Callable[[Any], Any], closure: Callable[[], float] | None) -> float | None:
        """One step of every param group by ``torch_step``; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        momenta = [self._update_momentum(group) for group in groups]  # an impossible lr stops here, before any counting
        probe = self._is_probe()
        cohorts = [
            cohort for group, momentum in zip(groups, momenta, strict=True) for cohort in self._cohorts(group, momentum)
        ]
        try:
            self.param_groups = [group for group, _, _ in cohorts]
            torch_step(self)
        finally:
            self.param_groups = groups
        first, second = self.INITIAL
        for _, states, (one, other) in cohorts:
            for state in states:  # only now: torch creates its part of the state where there is none at all
                state[first], state[second] = one, other
        if probe:
            self._forget_steps()
        return loss

    def _cohorts(
        self, group: dict[str, Any], momentum: float
    ) -> list[tuple[dict[str, Any], list[dict[str, Any]], tuple[Any, Any]]]:
        """Torch's param group, the states of its parameters and their numbers after the step, for every cohort."""
        read: Callable[[dict[str, Any]], tuple[Any, Any]] = itemgetter(*self.INITIAL)
        initial = read(self.INITIAL)
        params = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in params]
        numbers = [read(state) if state else initial for state in states]
        cohorts = []
        for pair in sorted(set(numbers)):
            members = [own == pair for own in numbers]
            after, options = self._advance(group, momentum, pair)
            torch_group = {**group, **options, "params": list(compress(params, members))}
            cohorts.append((torch_group, list(compress(states, members)), after))
        return cohorts

    def _is_probe(self) -> bool:
        """Whether this step is the one by which `torch.distributed.checkpoint` finds out what a state looks like.

        It is a first step at learning rate 0 with gradients of 0, and is not counted.
        """
        if self.state or any(float(group["lr"]) != 0.0 for group in self.param_groups):
            return False
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        return all(_full(gradient.detach().abs().sum()).item() == 0.0 for gradient in gradients)

    def _forget_steps(self) -> None:
        for state in self.state.values():
            state.update(self.INITIAL)


def group_momentum(group: Mapping[str, Any]) -> float:
    """The momentum of a param group from its own current learning rate: the critical one between floor and hold.

    The group's ``lr`` alone decides, so schedulers, warmup and resumed runs need nothing else.

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
    limit = get_rule(group["rule"]).frequency(0.0) ** 2 / group["curvature"]
    warnings.warn(
        f"The learning rate is {limit:g} or more, where the {group['rule']} rule gives no positive momentum at "
        f"curvature {group['curvature']:g}: momentum is clamped to 0, {consequence}. Lower the learning rate (scaling "
        "it with the number of processes raises it), or use rule=exponential.",
        stacklevel=2,
    )


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, or the full one where it is sharded (FSDP2)."""
    return getattr(tensor, "full_tensor", lambda: tensor)()
