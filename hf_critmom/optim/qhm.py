"""Quasi-hyperbolic momentum whose immediate weight is critically damped, at a constant momentum."""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch.distributed.tensor import DTensor
from torch.optim import SGD

from hf_critmom.damping import critical_nu
from hf_critmom.errors import InputError
from hf_critmom.optim.options import DEFAULT_QHM_CURVATURE, QHM_CURVATURE, check_option, refusals_in_a_sentence
from hf_critmom.optim.resuming import ChecksState
from hf_critmom.optim.sgd import ALMOST_ZERO
from hf_critmom.optim.uncompiled import uncompiled
from hf_critmom.upstream import fused_sgd, leave_unscaling_to_scaler, multi_tensor_operations

Tensors = list[torch.Tensor]

_WIDE = (torch.float32, torch.float64)
_KERNEL_DEVICES = ("cpu", "cuda", "mps", "xpu")

_LARGEST_SHRINKAGE = 0.1
"""Share of a weight that one step's weight decay takes directly, from where on the fused update would lose digits."""


class CritMomQHM(ChecksState, SGD):
    """SGD with quasi-hyperbolic momentum, whose immediate weight ``nu`` makes one curvature critically damped.

    Momentum ``mu`` stays constant. Each step sets ``group["nu"]`` of every param group from the group's own current
    ``lr``, ``momentum`` and ``curvature``, by `hf_critmom.damping.critical_nu`, and then is

        g     <- g + weight_decay * theta
        v     <- mu v + g
        theta <- theta - lr [nu v + (1 - nu) / (1 - mu) g]

    With the mean step ``h = lr / (1 - mu)`` and curvature ``k``, ``nu = (1 - sqrt((1 - mu) / (h k)))^2 / mu``, at most
    1, and 0 where ``h k <= 1 - mu``. ``nu`` does not change ``h``, so that this takes the place of SGD with the same
    momentum at the same learning rate. ``nu`` 1 is the heavy ball, ``nu = mu`` Nesterov's momentum, and ``nu`` 0 plain
    SGD of learning rate ``h``; Ma and Yarats call ``nu`` the immediate discount factor. State dicts are those of SGD
    with a few more plain values in each group.

    Parameters in single and double precision are updated by torch's fused SGD kernel and one multi-tensor addition,
    which pass over memory less often than SGD's own multi-tensor form. There is no form of it for AdamW: under Adam's
    preconditioner the curvature of a direction is not that of the loss, so that ``nu`` does not follow from it.

    `torch.compile` leaves the step as it is, and says so.

    Args:
        params: Parameters or param groups; a group may override any option.
        lr: Learning rate, finite and not negative, as for `torch.optim.SGD` with the same momentum.
        momentum: Momentum ``mu``, in [0, 1).
        curvature: Curvature ``k`` that is critically damped, or "auto": then `hf_critmom.CurvatureCallback` measures
            the top curvature at a few points of the run and leaves it in the groups as a plain number. By default, and
            until it is measured, `DEFAULT_QHM_CURVATURE`.
        nu: A constant weight in [0, 1] in place of the critical one, or None.
        weight_decay: L2 penalty, as in `torch.optim.SGD`.
        maximize: As in `torch.optim.SGD`.
        foreach: False for one tensor after the other; None and True for several at once.
        fused: True for torch's fused kernel also in half precision.

    Raises:
        ValueError: If an option is not valid, or ``lr`` negative or not finite (also at a later step).

    Source: Ma and Yarats, arXiv 1810.06801, for quasi-hyperbolic momentum, there with ``(1 - mu) v`` for ``v`` and
    ``h`` for ``lr``; the critical weight is our own derivation.
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor,
        *,
        momentum: float = 0.9,
        curvature: float | str = DEFAULT_QHM_CURVATURE,
        nu: float | None = None,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        with refusals_in_a_sentence(type(self).__name__):
            super().__init__(
                params,
                lr=lr,
                momentum=check_option("momentum", momentum),
                weight_decay=weight_decay,
                maximize=maximize,
                foreach=foreach,
                fused=fused,
            )
        multi_tensor_operations()  # says where torch has changed what the updates call
        # A part of the update lies outside of the kernel, so the kernel must not be the one that unscales gradients.
        leave_unscaling_to_scaler(self)
        options = {"curvature": curvature, "nu": nu}
        kept: dict[str, Any] = {}
        _keep_options(kept, options)
        self.defaults.update(kept)
        for group in self.param_groups:
            _keep_options(group, {**options, **_given(group)})
            _show_nu(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, which may override the options.

        Raises:
            InputError: If an option is not valid, or one of `torch.optim.SGD` that this step does not have.
        """
        for name in ("dampening", "nesterov", "differentiable"):  # torch's SGD would take them
            if param_group.get(name):
                raise InputError(
                    f"A param group has {name}={param_group[name]!r}, which CritMomQHM does not have: leave it out "
                    "(nu equal to the momentum is Nesterov's momentum)."
                )
        options: dict[str, Any] = {
            name: value for name, value in _given(param_group).items() if name in ("momentum", "curvature", "nu")
        }
        _keep_options({}, options)  # checks them
        super().add_param_group(param_group)
        if "fixed_nu" in self.defaults:  # not yet while the constructor adds the first groups
            group = self.param_groups[-1]
            _keep_options(group, options)
            _show_nu(group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # those of torch's SGD lack the options
            for name in ("curvature", "curvature_source", "fixed_nu", "nu"):
                group.setdefault(name, self.defaults[name])

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @uncompiled
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every param group, with the weight that belongs to the group's current ``lr``.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:  # an impossible lr stops here, before anything moves
            _show_nu(group)
            if group["curvature_source"] == "assumed" and group["lr"] > 0.0 and group["fixed_nu"] is None:
                _warn_of_assumed_curvature(group["curvature"])
        for group in self.param_groups:
            for params in _alike([p for p in group["params"] if p.grad is not None]):
                self._update(params, group)
        return loss

    def _update(self, params: Tensors, group: dict[str, Any]) -> None:
        gradients: Tensors = [p.grad for p in params if p.grad is not None]
        velocities = [self._velocity_of(p) for p in params]
        if gradients[0].is_sparse or (group["foreach"] is False and not group["fused"]):
            _single_tensor_update(params, gradients, velocities, group)
        elif group["fused"] or _fit_for_kernel(params[0], gradients[0]):
            _fused_update(params, gradients, velocities, group)
        else:
            _foreach_update(params, gradients, velocities, group)

    def _velocity_of(self, p: torch.Tensor) -> torch.Tensor:
        state = self.state[p]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state["momentum_buffer"]


def set_measured_curvature(param_groups: Iterable[dict[str, Any]], curvature: float) -> bool:
    """Hands a measured curvature to the param groups of an optimizer that were given ``curvature="auto"``.

    Args:
        param_groups: Param groups of any optimizer.
        curvature: A positive number.

    Returns:
        Whether there is any such group.

    Raises:
        ValueError: If the curvature is not positive and finite.
    """
    automatic = [group for group in param_groups if group.get("curvature_source", "given") != "given"]
    for group in automatic:
        group["curvature"] = check_option("curvature", curvature)
        group["curvature_source"] = "measured"
    return bool(automatic)


def _given(group: dict[str, Any]) -> dict[str, Any]:
    """A group's options as they were given, also where it is one of another such optimizer."""
    given = dict(group)
    if "fixed_nu" in group:
        given["nu"] = group["fixed_nu"]
    if group.get("curvature_source", "given") != "given":
        given["curvature"] = "auto"
    return given


def _keep_options(group: dict[str, Any], options: dict[str, Any]) -> None:
    """Checks options and writes them into a group, as plain numbers and strings.

    ``nu`` becomes ``fixed_nu``, since ``group["nu"]`` shows the weight in use; ``curvature="auto"`` becomes a number
    and ``curvature_source`` says where it comes from: "given", "assumed" (nothing was measured yet) or "measured".
    """
    if "nu" in options:
        group["fixed_nu"] = check_option("nu", options["nu"])
        group["nu"] = 0.0
    if "curvature" in options:
        curvature = check_option(QHM_CURVATURE, options["curvature"])
        if curvature != "auto":
            group |= {"curvature": curvature, "curvature_source": "given"}
        elif group.get("curvature_source") != "measured":
            group |= {"curvature": DEFAULT_QHM_CURVATURE, "curvature_source": "assumed"}
    if "momentum" in options:
        group["momentum"] = check_option("momentum", options["momentum"])


def _show_nu(group: dict[str, Any]) -> None:
    nu = critical_nu(float(group["momentum"]), float(group["lr"]), curvature=group["curvature"])
    group["nu"] = nu if group["fixed_nu"] is None else group["fixed_nu"]


def _warn_of_assumed_curvature(curvature: float) -> None:
    warnings.warn(
        f"curvature=auto, but nothing measured the curvature before this step: {curvature:g} is assumed. Add "
        "CurvatureCallback(trainer) to the Trainer, or give curvature a number.",
        stacklevel=2,
    )


def _fit_for_kernel(p: torch.Tensor, gradient: torch.Tensor) -> bool:
    """Whether torch's fused kernel is the better one: in half precision it would round the parameters twice."""
    return p.dtype in _WIDE and gradient.dtype == p.dtype and p.device.type in _KERNEL_DEVICES


def _alike(params: Tensors) -> Iterator[Tensors]:
    """Parameters that one kernel takes together."""
    sorts: dict[Any, Tensors] = {}
    for p in params:
        sparse = p.grad is not None and p.grad.is_sparse
        sorts.setdefault((p.device, p.dtype, isinstance(p, DTensor), sparse), []).append(p)
    yield from sorts.values()


# ------------------------------------------------------------------------------------------------------- the update


def _single_tensor_update(params: Tensors, gradients: Tensors, velocities: Tensors, group: dict[str, Any]) -> None:
    momentum, nu, lr = group["momentum"], group["nu"], float(group["lr"])
    for theta, g, v in zip(params, gradients, velocities, strict=True):
        if group["maximize"]:
            g = -g
        if group["weight_decay"]:
            g = g.add(theta, alpha=group["weight_decay"])
        v.mul_(momentum).add_(g)
        direct = (1.0 - nu) / (1.0 - momentum)
        if theta.dtype in _WIDE:
            theta.add_(v, alpha=-lr * nu).add_(g, alpha=-lr * direct)
        else:  # rounded once
            theta.add_(v.mul(nu).add_(g, alpha=direct), alpha=-lr)


def _foreach_update(params: Tensors, gradients: Tensors, velocities: Tensors, group: dict[str, Any]) -> None:
    momentum, nu, lr = group["momentum"], group["nu"], float(group["lr"])
    if group["maximize"]:
        gradients = list(torch._foreach_neg(gradients))
    if group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_add_(velocities, gradients)
    steps = torch._foreach_mul(velocities, nu)
    torch._foreach_add_(steps, gradients, alpha=(1.0 - nu) / (1.0 - momentum))
    torch._foreach_add_(params, steps, alpha=-lr)


def _fused_update(params: Tensors, gradients: Tensors, velocities: Tensors, group: dict[str, Any]) -> None:
    """The update by torch's fused kernel ``v <- mu v + s g``, ``theta <- theta - lr nu v`` and an addition before it.

    The addition takes the direct share of the newest gradient, ``q g`` with ``q = lr (1 - nu) / (1 - mu)``, and of
    weight decay off the parameters. What the kernel then adds to the velocity is ``g + decay * theta`` of the changed
    parameters, which is that of the original ones times ``1 - q decay``: so it is told to scale it back.
    """
    momentum, nu, lr, decay = group["momentum"], group["nu"], float(group["lr"]), group["weight_decay"]
    direct = lr * (1.0 - nu) / (1.0 - momentum)
    kept = 1.0 - direct * decay
    local = [_local(tensors) for tensors in (params, gradients, velocities)]
    if kept < 1.0 - _LARGEST_SHRINKAGE or not _same_layout(*local):
        return _foreach_update(params, gradients, velocities, group)
    params, gradients, velocities = local
    if direct:
        if kept != 1.0:
            torch._foreach_mul_(params, kept)
        torch._foreach_add_(params, gradients, alpha=direct if group["maximize"] else -direct)
    _kernel()(
        params,
        gradients,
        velocities,
        weight_decay=decay,
        momentum=max(momentum, ALMOST_ZERO),
        lr=lr * nu,
        dampening=1.0 - 1.0 / kept,
        nesterov=False,
        maximize=group["maximize"],
        is_first_step=False,
    )


_kernel = functools.cache(fused_sgd)


def _same_layout(params: Tensors, gradients: Tensors, velocities: Tensors) -> bool:
    """Whether each parameter lies in memory as its gradient and velocity do; the kernel takes that for granted."""
    return all(
        (p.is_contiguous() and g.is_contiguous() and v.is_contiguous()) or p.stride() == g.stride() == v.stride()
        for p, g, v in zip(params, gradients, velocities, strict=True)
    )


def _local(tensors: Tensors) -> Tensors:
    """The shards of this process, of tensors that FSDP2 shards in the same way."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
