"""Guards the state of an optimizer when a run is continued: by another optimizer, or with other options.

torch's ``load_state_dict`` takes the saved param groups over those of the constructor and compares neither: another
optimizer fails at its first step with a ``KeyError``, or trains on with a momentum that is not its own; other options
of the same optimizer are dropped in silence.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch.optim import Optimizer

from hf_critmom.errors import InputError
from hf_critmom.storage.errors import CheckpointError

CLASS_KEY = "optimizer_class"
"""Where the state dict of a guarded optimizer names its class."""

EXCHANGEABLE: tuple[frozenset[str], ...] = (
    frozenset({"SGD", "CritMomSGD", "CritMomMatched", "CritMomCompensated", "CritMomQHM"}),
    frozenset({"Adam", "AdamW", "CritMomAdamW"}),
)
"""Optimizers whose state is that of one another: a run may change between them."""

KNOWN_BY: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("CritMomMatched", {"control": "matched"}),
    ("CritMomCompensated", {"control": "compensated"}),
    ("CritMomAdamW", {"rule": ..., "betas": ...}),
    ("CritMomQHM", {"nu": ..., "curvature_source": ...}),
    ("CritMomSGD", {"rule": ..., "dampening": ...}),
    ("IKFAD", {"mass": ..., "gamma": ...}),
    ("AdamW", {"betas": ..., "amsgrad": ..., "decoupled_weight_decay": True}),
    ("Adam", {"betas": ..., "amsgrad": ...}),
    ("SGD", {"dampening": ..., "nesterov": ...}),
)
"""Options by which a param group shows its optimizer where no class is named; `...` stands for any value."""

STATE_KEYS = {
    *("params", "param_names", "lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "effective_lr", "control"),
    *("num_steps", "beta1_product", "in_step"),
    *("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode"),  # of Schedule-Free optimizers
}
"""Keys of param groups that hold the parameters, and what schedulers and steps write for later steps."""
_WRITTEN = STATE_KEYS | {"nu", "curvature_source"}
"""All keys of param groups that are no options."""
_COMPUTED_BY = {"foreach", "fused", "capturable", "differentiable"}
"""Options that say how steps are computed, and change nothing else."""

ELEMENTWISE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "velocity", "friction")
"""Tensors of state that have the shape of their parameter."""


class OtherOptimizerError(InputError):
    """A checkpoint of an optimizer that the run's own cannot take over; the message names both."""


class ChecksState(Optimizer):
    """Base of optimizers that check whose state they load: all of this package, under any Trainer."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads a state dict, as `torch.optim.Optimizer` does, after `state_to_continue` has checked it."""
        super().load_state_dict(state_to_continue(self, state_dict))


def guard_resuming(optimizer: Optimizer) -> None:
    """Makes an optimizer of any class name that class in its state dict, and check whose state it loads.

    Args:
        optimizer: The optimizer, not wrapped. What it loads goes through `state_to_continue` from now on.
    """
    if optimizer not in _guarded:
        _guarded.add(optimizer)
        optimizer.register_state_dict_post_hook(_name_class)
        if not isinstance(optimizer, ChecksState):
            optimizer.register_load_state_dict_pre_hook(state_to_continue)


_guarded: "WeakSet[Optimizer]" = WeakSet()


def state_to_continue(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a state dict and returns what an optimizer loads to continue it.

    One warning names other options of the same optimizer, which continue, and one of another optimizer whose state
    is exchangeable. The run's optimizer then keeps its own options, so that none inherits a momentum that was meant for
    another learning rate.

    Args:
        optimizer: The optimizer of the run.
        state: The state dict of a checkpoint.

    Raises:
        OtherOptimizerError: See `check_state`.
        CheckpointError: See `check_state`.
    """
    check_state(optimizer, state)
    theirs, ours = optimizer_name(state), type(optimizer).__name__
    if _is_same(optimizer, state):
        if changed := changed_options(optimizer, state):
            _warn(
                f"The checkpoint was trained with other options of {ours}, which continue: "
                + "; ".join(f"{name} {stored}, not {own}" for name, (stored, own) in sorted(changed.items()))
                + "."
            )
        return dict(state)
    _warn(f"The checkpoint was trained with {theirs}, and {ours} continues it with options of its own.")
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [_continued_group(saved, own) for saved, own in pairs]
    maximized = {key for group in groups if group.get("amsgrad") for key in group["params"]}
    entries = {key: _with_maximum(one) if key in maximized else one for key, one in state["state"].items()}
    return {**state, "state": entries, "param_groups": groups}


def check_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Checks that a state dict is one that an optimizer can continue.

    Args:
        optimizer: The optimizer of the run.
        state: The state dict of a checkpoint.

    Raises:
        OtherOptimizerError: If it is that of another optimizer.
        CheckpointError: If it is that of other parameters, or damaged.
    """
    saved, own = state["param_groups"], optimizer.param_groups
    theirs, ours = optimizer_name(state), type(optimizer).__name__
    if not (_is_same(optimizer, state) or _exchangeable(theirs, ours)):
        raise OtherOptimizerError(
            f"The checkpoint holds the state of {theirs or 'an unknown optimizer'}, and this run trains with {ours}: "
            "continue with the optimizer that began, or begin another run in another folder."
        )
    sizes = [[len(group["params"]) for group in groups] for groups in (saved, own)]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"The checkpoint's optimizer has param groups of {_listed(sizes[0])} parameters, and this run's of "
            f"{_listed(sizes[1])}: other parameters are trained, or another weight decay is excluded."
        )
    for saved_group, group in zip(saved, own, strict=True):
        for key, parameter in zip(saved_group["params"], group["params"], strict=True):
            entry = state["state"].get(key, {})
            for name in ELEMENTWISE:
                value = entry.get(name)
                if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
                    raise CheckpointError(
                        f"The checkpoint's optimizer holds {name} of shape {tuple(value.shape)} for a parameter of "
                        f"shape {tuple(parameter.shape)}: it is damaged, or another model's."
                    )


def optimizer_name(state: Mapping[str, Any]) -> str | None:
    """The class of the optimizer whose state dict this is: as it says itself, else as its options tell."""
    if isinstance(name := state.get(CLASS_KEY), str):
        return name
    return _name_by_options(state["param_groups"][0])


def _name_by_options(group: Mapping[str, Any]) -> str | None:
    for name, marks in KNOWN_BY:
        if all(key in group and value in (..., group[key]) for key, value in marks.items()):
            return name
    return None


def changed_options(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options that differ between a checkpoint and an optimizer, which the checkpoint's replace: (stored, own)."""
    changed: dict[str, tuple[Any, Any]] = {}
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        derived = {"momentum", "betas"} & own.keys() if "rule" in own else set()  # they follow the learning rate
        automatic = [group.get("curvature_source", "given") != "given" for group in (saved, own)]
        if any(automatic):
            derived.add("curvature")  # it is measured
            if not all(automatic):
                stored, given = (
                    "auto" if auto else group["curvature"] for auto, group in zip(automatic, (saved, own), strict=True)
                )
                changed.setdefault("curvature", (stored, given))
        for key in saved.keys() & own.keys() - _WRITTEN - _COMPUTED_BY - derived:
            if _differ(saved[key], own[key]):
                changed.setdefault("learning_rate" if key == "initial_lr" else key, (saved[key], own[key]))
        if "betas" in derived and _differ(saved["betas"][1], own["betas"][1]):
            changed.setdefault("beta2", (saved["betas"][1], own["betas"][1]))
    return changed


def _name_class(optimizer: Optimizer, state: dict[str, Any]) -> None:
    state[CLASS_KEY] = type(optimizer).__name__


def _continued_group(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A param group with an optimizer's own options, and the parameters and learning rate of another's."""
    group = {key: value for key, value in own.items() if key not in STATE_KEYS | {"initial_lr"}}
    group |= {key: saved[key] for key in ("params", "lr", "initial_lr") if key in saved}
    if "rule" in own and "betas" in own:  # the steps so far were made with the first beta that is saved
        group["betas"] = (saved["betas"][0], own["betas"][1])
    return group


def _with_maximum(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of a parameter with the maximum that AMSGrad takes, which begins where Adam did not keep it."""
    return {"max_exp_avg_sq": torch.zeros_like(entry["exp_avg_sq"]), **entry} if "exp_avg_sq" in entry else entry


def _is_same(optimizer: Optimizer, state: Mapping[str, Any]) -> bool:
    """Whether a state dict is of the optimizer's class; of the same options, where it does not name its class."""
    if optimizer_name(state) == type(optimizer).__name__:
        return True
    saved, own = state["param_groups"][0], optimizer.param_groups[0]
    no_options = _WRITTEN | {"initial_lr"}
    return (
        CLASS_KEY not in state
        and saved.keys() - no_options == own.keys() - no_options
        and _name_by_options(saved) == _name_by_options(own)
    )


def _exchangeable(theirs: str | None, ours: str) -> bool:
    return any({theirs, ours} <= family for family in EXCHANGEABLE)


def _differ(stored: Any, own: Any) -> bool:
    if isinstance(stored, torch.Tensor) or isinstance(own, torch.Tensor):
        return not torch.equal(torch.as_tensor(stored).cpu(), torch.as_tensor(own).cpu())
    return list(stored) != list(own) if isinstance(stored, (list, tuple)) else stored != own


def _warn(sentence: str) -> None:
    """Logs as the Trainer does; of several processes that train together, the first."""
    from transformers.utils import logging  # optimizers work without Transformers, too

    if not (torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank()):
        logging.get_logger(__name__).warning(sentence)


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes))
