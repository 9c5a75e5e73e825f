"""AdamW whose first beta is critically damped."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, overload

import torch
from torch.optim import AdamW

from hf_critmom.optim.damped import CohortStep, warn_of_clamp
from hf_critmom.optim.options import refusals_in_a_sentence
from hf_critmom.optim.uncompiled import uncompiled
from hf_critmom.upstream import unhooked_step

_LARGEST_SINGLE = 1.0 - 2.0**-24
"""The largest single-precision number below 1."""


class CritMomAdamW(CohortStep, AdamW):
    """AdamW whose ``beta1`` follows the learning rate, with the bias correction that a changing beta needs.

    Each step takes ``beta1`` of every param group from the group's current ``lr``:

        beta1 <- max(min(critical_momentum(lr), hold), floor)
        m     <- beta1 m + (1 - beta1) g
        v     <- beta2 v + (1 - beta2) g^2
        P     <- beta1 P                               (P starts at 1)
        theta <- theta - lr weight_decay theta - lr m / (1 - P) / (sqrt(v / (1 - beta2^t)) + eps)

    ``1 - P`` is the sum of the weights that ``m`` gives to the gradients; Adam's ``1 - beta1^t`` is its value for a
    constant beta, and NAdam keeps the same product for its schedule. At ``lr`` 0, where warmup begins, ``beta1`` is
    the largest float below 1: nothing moves, ``m`` hardly changes and ``1 - P`` stays above 0.

    torch computes the update, for-loop, foreach or fused: its own correction by ``1 - beta1^t`` cancels when it is
    given ``lr (1 - beta1^t) / (1 - P)``, and the decay stays right when weight decay is rescaled the other way.

        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = CritMomAdamW([weight], lr=0.01, rule="ema", hold=0.95)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> optimizer.param_groups[0]["betas"]
        (0.95, 0.999)

    `torch.compile` leaves the step as it is, and says so; ``fused=True`` is one kernel without compilation.

    State per parameter is that of `torch.optim.AdamW` and two plain numbers, ``P`` and the number of steps ``t``: a
    parameter without a gradient takes no step, so both are its own.

    Args:
        params: Parameters or param groups; a group may override any option.
        lr: Learning rate, finite and not negative.
        rule: How ``beta1`` follows from ``lr``: a name in `hf_critmom.damping.RULES`. ``linear`` is the paper's,
            made for SGD; ``ema`` is critical for the running average of Adam.
        hold: Ceiling of ``beta1``, or None.
        floor: Least ``beta1``.
        curvature: Curvature that is critically damped.
        betas: The second is Adam's; the first is replaced at every step and only shows what was used last.
        eps: As in `torch.optim.AdamW`.
        weight_decay: Decoupled weight decay.
        amsgrad: As in `torch.optim.AdamW`.
        maximize: As in `torch.optim.AdamW`.
        foreach: As in `torch.optim.AdamW`.
        differentiable: As in `torch.optim.AdamW`.
        fused: As in `torch.optim.AdamW`.

    Raises:
        ValueError: If an option is not valid, or ``lr`` negative or not finite (also at a later step).

    Source: the rule from arXiv 2603.28921, which states it for SGD; its use as Adam's beta1 is our own choice. The
    running product from Dozat, "Incorporating Nesterov Momentum into Adam" (2016).
    """

    INITIAL: ClassVar = {"num_steps": 0, "beta1_product": 1.0}

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        *,
        rule: str = "linear",
        hold: float | None = None,
        floor: float = 0.0,
        curvature: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        with refusals_in_a_sentence(type(self).__name__):
            super().__init__(
                params,
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                amsgrad=amsgrad,
                maximize=maximize,
                foreach=foreach,
                differentiable=differentiable,
                fused=fused,
            )
        self._init_damping(rule=rule, hold=hold, floor=floor, curvature=curvature)

    def _write_momentum(self, group: dict[str, Any], momentum: float) -> None:
        group["betas"] = (momentum, group["betas"][1])

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @uncompiled
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every param group, with the beta that belongs to the group's current ``lr``.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.
        """
        return self._step_cohorts(_adamw_step(), closure)

    def _advance(
        self, group: dict[str, Any], momentum: float, numbers: tuple[int, float]
    ) -> tuple[tuple[int, float], dict[str, Any]]:
        beta1, (num_steps, beta1_product) = momentum, numbers
        if beta1 == 0.0:
            warn_of_clamp(group, "which is RMSprop with decoupled weight decay")
        if group["differentiable"] or group["capturable"]:  # where torch computes 1 - beta1^t in single precision
            beta1 = min(beta1, _LARGEST_SINGLE)
        num_steps += 1
        beta1_product *= beta1
        correction = (1.0 - beta1**num_steps) / (1.0 - beta1_product)  # torch's divided by ours
        return (num_steps, beta1_product), {
            "betas": (beta1, group["betas"][1]),
            "lr": group["lr"] * correction,
            "weight_decay": group["weight_decay"] / correction,
        }

    def _forget_steps(self) -> None:
        super()._forget_steps()
        for state in self.state.values():
            state["step"].zero_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self._complete_counts(group)

    def _complete_counts(self, group: dict[str, Any]) -> None:
        """Completes loaded states that lack the two numbers, or whose steps were counted elsewhere.

        Checkpoints of hf-critmom 0.1 keep the numbers in the group. Plain AdamW knows neither, and hands those that it
        loaded back as they were, though it made steps: its beta was constant.
        """
        of_group = {name: group.pop(name) for name in (*self.INITIAL, "in_step") if name in group}
        beta1, lost = float(group["betas"][0]), False
        for p in group["params"]:
            state = self.state.get(p)
            if not state:
                continue
            num_steps = int(state["step"])
            counted = state.get("num_steps", of_group.get("num_steps"))
            if counted != num_steps:
                state.update(num_steps=num_steps, beta1_product=beta1**num_steps)
                lost = lost or counted is not None
            else:
                state.update({name: state.get(name, of_group.get(name)) for name in self.INITIAL})
        if lost:
            warnings.warn(
                "The state dict went through another optimizer and lost the product of the betas of some parameters: "
                "their bias correction takes beta1 as constant so far.",
                stacklevel=2,
            )


@functools.cache
def _adamw_step() -> Callable[..., Any]:
    """The step of `torch.optim.AdamW` itself."""
    return unhooked_step(AdamW)
