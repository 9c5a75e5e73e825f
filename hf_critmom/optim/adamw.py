"""AdamW whose first beta is critically damped."""

import warnings
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim import AdamW

from hf_critmom.optim.damped import CriticallyDamped, unhooked_step, warn_of_clamp
from hf_critmom.optim.uncompiled import uncompiled

_LARGEST_SINGLE = 1.0 - 2.0**-24
"""The largest single-precision number below 1."""


class CritMomAdamW(CriticallyDamped, AdamW):
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

    `torch.compile` leaves the step as it is, and says so; ``fused=True`` is one kernel without compilation.

    State per parameter is that of `torch.optim.AdamW`. ``P`` and the number of steps are two plain numbers of the
    group. Only a parameter that missed a step of its group, having had no gradient, carries its own two.

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
        # A fused step that finds an overflow on the device would be counted here all the same; without this promise
        # GradScaler looks before it steps, as it does for every optimizer that is not fused.
        self._step_supports_amp_scaling = False
        self._begin_damping(rule=rule, hold=hold, floor=floor, curvature=curvature)

    def _damp(self, group: dict[str, Any]) -> None:
        super()._damp(group)
        group.setdefault("num_steps", 0)
        group.setdefault("beta1_product", 1.0)
        group.setdefault("in_step", True)

    def _show_momentum(self, group: dict[str, Any], momentum: float) -> None:
        group["betas"] = (momentum, group["betas"][1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._step_supports_amp_scaling = False
        for group in self.param_groups:
            self._adopt(group)

    def _adopt(self, group: dict[str, Any]) -> None:
        """Completes a loaded group whose steps were counted elsewhere, as by plain AdamW: with its constant beta."""
        states = [state for p in group["params"] if (state := self.state.get(p))]
        steps = [int(state["step"]) for state in states]
        beta1 = float(group["betas"][0])
        ours = "num_steps" in group
        if not ours:
            group["num_steps"] = max(steps, default=0)
            group["beta1_product"] = beta1 ** group["num_steps"]
            group["in_step"] = len(steps) in (0, len(group["params"]))
        for state, num_steps in zip(states, steps, strict=True):
            if num_steps != state.get("num_steps", group["num_steps"]):
                group["in_step"] = False
                state.update(num_steps=num_steps, beta1_product=beta1**num_steps)
                if ours:
                    warnings.warn(
                        "The state dict went through another optimizer, or was flattened, and lost the product of the "
                        "betas of some parameters: their bias correction takes beta1 as constant so far.",
                        stacklevel=2,
                    )

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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        betas = [self._take_momentum(group) for group in groups]  # an impossible lr stops here, before steps count
        apart: dict[torch.Tensor, dict[str, Any]] = {}
        try:
            self.param_groups = [
                part for group, beta1 in zip(groups, betas, strict=True) for part in self._parts(group, beta1, apart)
            ]
            _adamw_step(self)
        finally:
            self.param_groups = groups
        for p, counts in apart.items():  # only now, since torch creates the state of parameters that have none
            self.state[p].update(counts)
        return loss

    def _parts(
        self, group: dict[str, Any], beta1: float, apart: dict[torch.Tensor, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Counts a group's step and returns the groups that make it with torch's AdamW.

        That is one, as long as all parameters of the group have taken part in all of its steps (``in_step``).

        Args:
            group: A group of ours.
            beta1: The beta of this step.
            apart: Gains the counts, after this step, of parameters that missed steps of the group.
        """
        if beta1 == 0.0:
            warn_of_clamp(group, "which is RMSprop with decoupled weight decay")
        if group["differentiable"] or group["capturable"]:  # where torch computes 1 - beta1^t in single precision
            beta1 = min(beta1, _LARGEST_SINGLE)
        if group["in_step"] and all(p.grad is not None for p in group["params"]):
            return [_part(group, beta1, group["params"], group)]

        group["in_step"] = False
        regular: list[torch.Tensor] = []
        others: dict[tuple[int, float], list[torch.Tensor]] = {}
        for p in group["params"]:
            state = self.state.get(p, {})
            if p.grad is None:
                if state and "num_steps" not in state:
                    state.update(num_steps=group["num_steps"], beta1_product=group["beta1_product"])
            elif "num_steps" in state or (not state and group["num_steps"] > 0):
                counts = state.get("num_steps", 0), state.get("beta1_product", 1.0)
                others.setdefault(counts, []).append(p)
            else:
                regular.append(p)
        parts = [_part(group, beta1, regular, group)]
        for (num_steps, beta1_product), params in others.items():
            own = {"num_steps": num_steps, "beta1_product": beta1_product}
            parts.append(_part(group, beta1, params, own))
            apart.update(dict.fromkeys(params, own))
        return parts


def _part(group: dict[str, Any], beta1: float, params: list[torch.Tensor], counts: dict[str, Any]) -> dict[str, Any]:
    """Counts a step in ``counts`` and returns a group of plain AdamW that takes it with our bias correction."""
    counts["num_steps"] += 1
    counts["beta1_product"] *= beta1
    correction = (1.0 - beta1 ** counts["num_steps"]) / (1.0 - counts["beta1_product"])
    return {
        **group,
        "params": params,
        "betas": (beta1, group["betas"][1]),
        "lr": group["lr"] * correction,
        "weight_decay": group["weight_decay"] / correction,
    }


_adamw_step = unhooked_step(AdamW)
