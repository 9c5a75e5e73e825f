"""iKFAD: adaptive friction for every parameter, driven by its own kinetic energy."""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch

from hf_critmom.errors import InputError
from hf_critmom.optim.options import check_option
from hf_critmom.optim.resuming import ChecksState
from hf_critmom.optim.uncompiled import uncompiled
from hf_critmom.upstream import multi_tensor_operations


class IKFAD(ChecksState):
    """Individual kinetic-friction adaptive descent: momentum descent with a friction per parameter.

    The dynamics ``x' = p, p' = -grad f - xi p - gamma p, xi' = p^2 / mass - alpha xi`` is integrated with steps of
    ``h = sqrt(lr)``, all operations by element:

        p  <- p - h g
        x  <- x + h p
        p  <- p exp(-h xi / 2)
        xi <- exp(-alpha h) xi + (1 - exp(-alpha h)) p^2 / (mass alpha)
        p  <- p exp(-h xi / 2)
        p  <- p exp(-gamma h)

    ``lr`` is ``h^2``, the learning rate that a heavy ball of the same step would have, so that the schedules of SGD
    apply; the source's default step 0.001 is ``lr`` 1e-6. With ``gamma`` 2 and no adaptive friction this is SGD with
    the ``exponential`` rule. Complex parameters are taken as pairs of real ones, as torch's Adam takes them. Two
    tensors of state per parameter, ``velocity`` and ``friction``.

        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = IKFAD([weight], lr=0.01)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> 0.0 < optimizer.friction([weight]) < 0.01
        True

    `torch.compile` leaves the step as it is, and says so.

    Args:
        params: Parameters or param groups; a group may override any option.
        lr: Square of the step, finite and not negative.
        gamma: Constant friction.
        alpha: Decay rate of the adaptive friction.
        mass: Thermal mass: how much kinetic energy raises the friction.
        weight_decay: L2 penalty, added to the gradient as in `torch.optim.SGD`.
        maximize: Ascend instead.
        foreach: torch's multi-tensor operations; None: where they help (every dense gradient).

    Raises:
        ValueError: If an option is not valid, or ``lr`` negative or not finite (also at a later step).
        RuntimeError: If a gradient is sparse.

    Source: Karoni, Rajpal, Leimkuhler, Stoltz, arXiv 2602.00334, for dynamics, splitting and defaults; that ``lr`` is
    the square of the step, and weight decay, are our own choices.
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor,
        *,
        gamma: float = 1.0,
        alpha: float = 1.0,
        mass: float = 1.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        if not (math.isfinite(weight_decay) and weight_decay >= 0.0):
            raise InputError(f"Weight decay must be finite and not negative, got {weight_decay}.")
        defaults = {
            "lr": lr,
            "gamma": gamma,
            "alpha": alpha,
            "mass": mass,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
        }
        multi_tensor_operations()  # says where torch has changed what `_foreach_update` calls
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, which may override any option."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _step_size(group)
        for name in ("gamma", "alpha", "mass", "foreach"):
            group[name] = check_option(name, group[name])

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @uncompiled
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every param group, of size ``sqrt(lr)`` of the group's current ``lr``.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sizes = [_step_size(group) for group in self.param_groups]  # an impossible lr stops here
        for group, h in zip(self.param_groups, sizes, strict=True):
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            states = [self._state_of(p) for p in params]
            velocities = _as_real([state["velocity"] for state in states])
            frictions = _as_real([state["friction"] for state in states])
            gradients = _as_real([p.grad for p in params if p.grad is not None])
            update = _foreach_update if group["foreach"] in (None, True) else _single_tensor_update
            update(_as_real(params), gradients, velocities, frictions, group, h)
        return loss

    def friction(self, params: Iterable[torch.Tensor]) -> float:
        """Mean adaptive friction over all elements of some parameters, such as those of a layer group.

        Where the parameters are sharded (FSDP2), all processes must call this, and all get the mean over every shard.

        Args:
            params: Parameters of this optimizer; those that have not taken a step count as friction 0.

        Returns:
            The mean.

        Raises:
            ValueError: If there are no parameters.
        """
        params = list(params)
        if not params:
            raise ValueError("friction() got no parameters: pass at least one parameter.")
        frictions = _as_real([self.state[p]["friction"] for p in params if self.state.get(p)])
        sums = [friction.sum(dtype=torch.float64) for friction in frictions]
        full = [getattr(part, "full_tensor", lambda part=part: part)() for part in sums]  # a DTensor is a shard
        total = torch.stack([part.cpu() for part in full]).sum().item() if full else 0.0
        return total / sum(p.numel() for p in _as_real(params))

    def _state_of(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        if p.grad is not None and p.grad.is_sparse:
            raise RuntimeError("IKFAD does not support sparse gradients: use dense ones, or CritMomSGD.")
        state = self.state[p]
        if not state:
            state["velocity"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["friction"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


def _step_size(group: dict[str, Any]) -> float:
    lr = float(group["lr"])
    if not (math.isfinite(lr) and lr >= 0.0):
        raise InputError(f"The learning rate must be finite and not negative, got {lr}.")
    return math.sqrt(lr)


Tensors = list[torch.Tensor]


def _as_real(tensors: Tensors) -> Tensors:
    """Tensors, with views of complex ones as pairs of real ones: real and imaginary part have a friction each."""
    return [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]


def _single_tensor_update(
    params: Tensors, gradients: Tensors, velocities: Tensors, frictions: Tensors, group: dict[str, Any], h: float
) -> None:
    sign = 1.0 if group["maximize"] else -1.0
    decay = math.exp(-group["alpha"] * h)
    for x, g, p, xi in zip(params, gradients, velocities, frictions, strict=True):
        if group["weight_decay"]:
            g = g.add(x, alpha=-sign * group["weight_decay"])
        p.add_(g, alpha=sign * h)
        x.add_(p, alpha=h)
        p.mul_(torch.exp(xi * (-0.5 * h)))
        xi.mul_(decay).addcmul_(p, p, value=(1.0 - decay) / (group["mass"] * group["alpha"]))
        p.mul_(torch.exp(xi * (-0.5 * h)))
        p.mul_(math.exp(-group["gamma"] * h))


def _foreach_update(
    params: Tensors, gradients: Tensors, velocities: Tensors, frictions: Tensors, group: dict[str, Any], h: float
) -> None:
    sign = 1.0 if group["maximize"] else -1.0
    decay = math.exp(-group["alpha"] * h)
    if group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, params, alpha=-sign * group["weight_decay"]))
    torch._foreach_add_(velocities, gradients, alpha=sign * h)
    torch._foreach_add_(params, velocities, alpha=h)
    _apply_friction(velocities, frictions, h)
    torch._foreach_mul_(frictions, decay)
    torch._foreach_addcmul_(frictions, velocities, velocities, value=(1.0 - decay) / (group["mass"] * group["alpha"]))
    _apply_friction(velocities, frictions, h)
    torch._foreach_mul_(velocities, math.exp(-group["gamma"] * h))


def _apply_friction(velocities: Tensors, frictions: Tensors, h: float) -> None:
    """Half a step of adaptive friction: velocities times exp(-h xi / 2)."""
    factors = torch._foreach_mul(frictions, -0.5 * h)
    torch._foreach_exp_(factors)
    torch._foreach_mul_(velocities, factors)
