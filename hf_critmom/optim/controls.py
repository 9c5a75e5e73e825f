"""Exact controls for critically damped momentum: its steps without its momentum, and its momentum without its steps.

Momentum also sets the size of the steps. On a constant gradient g a heavy ball's velocity is S g, where

    S_t = mu_t S_(t-1) + 1,        S_0 = 0,

so that step t moves by the *integrated step* lr_t S_t per unit of gradient (`hf_critmom.damping.integrated_steps`).
Under the linear rule that is about sqrt(lr) / 2, under constant momentum 0.9 about 10 lr: a run with critical momentum
differs from one with momentum 0.9 in both. Each optimizer here changes one of them only, by rescaling the learning rate
of each step:

    optimizer              momentum     learning rate            integrated step
    torch.optim.SGD        0.9          lr                       lr S'
    CritMomSGD             critical     lr                       lr S
    CritMomMatched         0.9          lr S / S'                lr S
    CritMomCompensated     critical     lr S' / S                lr S'

S belongs to the critical momentum of the group's current ``lr``, S' to 0.9. With Nesterov's momentum, 1 + mu_t S_t
stands in the place of S_t. (Our own derivation; L2 weight decay is part of the gradient and scales with the step.)
"""

from collections.abc import Callable
from typing import Any, ClassVar, overload

from hf_critmom.optim.damped import CohortStep, warn_of_clamp
from hf_critmom.optim.sgd import ALMOST_ZERO, CritMomSGD, sgd_step
from hf_critmom.optim.uncompiled import uncompiled

CONSTANT_MOMENTUM = 0.9
"""The momentum that critical momentum is compared with."""

_EQUILIBRIUM = 1.0 / (1.0 - CONSTANT_MOMENTUM)
"""What S' tends to: assumed of both sums of a parameter whose velocity another optimizer made."""


class _Control(CohortStep, CritMomSGD):
    """Base of the controls, which keeps the two sums of each parameter and takes the step of `torch.optim.SGD`.

    ``group["lr"]`` remains the scheduler's. What a step takes in its place is written into ``group["effective_lr"]``
    (where parameters of a group have missed steps: for those that have missed the fewest).
    """

    INITIAL: ClassVar = {"critical_sum": 0.0, "constant_sum": 0.0}

    control: ClassVar[str]
    """Its name in its param groups, so that a state dict shows whose velocities it holds."""

    def _rescale(self, momentum: float, ratio: float) -> tuple[float, float]:
        """Momentum and factor of the learning rate of a step.

        Args:
            momentum: The critical momentum.
            ratio: Its integrated step divided by that of the constant momentum.
        """
        raise NotImplementedError

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @uncompiled
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every param group, at the learning rate that takes the intended integrated step.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.
        """
        return self._step_cohorts(sgd_step(), closure)

    def _advance(
        self, group: dict[str, Any], momentum: float, numbers: tuple[float, float]
    ) -> tuple[tuple[float, float], dict[str, Any]]:
        if momentum == 0.0:
            warn_of_clamp(group, "which is plain SGD")
        critical_sum = momentum * numbers[0] + 1.0
        constant_sum = CONSTANT_MOMENTUM * numbers[1] + 1.0
        if group["nesterov"]:
            ratio = (1.0 + momentum * critical_sum) / (1.0 + CONSTANT_MOMENTUM * constant_sum)
        else:
            ratio = critical_sum / constant_sum
        used_momentum, factor = self._rescale(momentum, ratio)
        lr = group["lr"] * factor
        group["effective_lr"] = float(lr)
        return (critical_sum, constant_sum), {"lr": lr, "momentum": used_momentum or ALMOST_ZERO}

    def _write_momentum(self, group: dict[str, Any], momentum: float) -> None:
        group["momentum"], _ = self._rescale(momentum, 1.0)

    def _complete_group(self, group: dict[str, Any]) -> None:
        super()._complete_group(group)
        group.setdefault("effective_lr", float(group["lr"]))
        group["control"] = self.control

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            others = group.get("control") != self.control
            self._complete_group(group)
            for p in group["params"]:
                if own := self.state.get(p):
                    for name in self.INITIAL:
                        own[name] = _EQUILIBRIUM if others else own.get(name, _EQUILIBRIUM)


class CritMomMatched(_Control):
    """Constant momentum 0.9 that takes the integrated step of `CritMomSGD` at every step.

    What this run gains over constant momentum 0.9 at the same schedule is due to the size of the steps alone; what
    `CritMomSGD` gains over this run is due to its momentum. Arguments, param groups and errors are those of
    `CritMomSGD`: ``rule``, ``hold``, ``floor`` and ``curvature`` say which critical momentum is matched.

        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = CritMomMatched([weight], lr=0.04)
        >>> for _ in range(2):
        ...     weight.grad = torch.ones(1)
        ...     optimizer.step()
        >>> group = optimizer.param_groups[0]  # two steps of critmom: S = 1.6, S' = 1.9
        >>> group["momentum"], round(group["effective_lr"], 6) == round(0.04 * 1.6 / 1.9, 6)
        (0.9, True)
    """

    control = "matched"

    def _rescale(self, momentum: float, ratio: float) -> tuple[float, float]:
        return CONSTANT_MOMENTUM, ratio


class CritMomCompensated(_Control):
    """Critical momentum that takes the integrated step of constant momentum 0.9 at every step.

    What this run gains over constant momentum 0.9 at the same schedule is due to its momentum alone. Arguments, param
    groups and errors are those of `CritMomSGD`.
    """

    control = "compensated"

    def _rescale(self, momentum: float, ratio: float) -> tuple[float, float]:
        return momentum, 1.0 / ratio
