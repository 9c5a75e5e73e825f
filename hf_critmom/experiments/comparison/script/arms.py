"""How an arm reaches a script: as flags of `TrainingArguments`, and what no flag can say through its Trainer.

Our optimizers and those of ``--optim`` are named as a user of the script would name them. Any other optimizer is
registered in the script's process under its own name, such as ``--optim timm:lion``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hf_critmom.experiments.comparison.arms.arm import ARMS, Arm
from hf_critmom.experiments.comparison.arms.foreign import is_foreign
from hf_critmom.experiments.comparison.arms.muon import MuonWithAdamW
from hf_critmom.experiments.comparison.arms.schedules import SCHEDULES
from hf_critmom.optim.factory import OPTIMIZERS
from hf_critmom.optim.registration import register_optimizer
from hf_critmom.upstream import optimizer_handlers, optimizer_names

if TYPE_CHECKING:
    from transformers import Trainer

ADAPTIVE = ("adamw", "critmom_adamw")
"""Optimizers for which a learning rate is meant where the script's own is an Adam."""
SGD_SCALE: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 5e-4}
"""What arms of SGD train with where the script's own learning rate is meant for an Adam: that of our own tasks."""
_BY_OPTIM_ARGS = (*OPTIMIZERS, "sgd")
NATIVE = {"sgd": "sgd", "adamw": "adamw_torch", "schedule_free_adamw": "schedule_free_adamw"}
"""Names of ``--optim`` for the optimizers of the table of arms that are no names of ours."""


def is_adaptive(optim: str) -> bool:
    """Whether a name of ``--optim`` is of an optimizer whose steps do not grow with the gradient, as Adam's."""
    return not ("sgd" in optim or (optim in OPTIMIZERS and optim not in ADAPTIVE))


def arms_for(optim: str) -> dict[str, Arm]:
    """The table of arms as a script has it whose own learning rate and weight decay are meant for an optimizer.

    Arms of the same kind, Adam's or SGD's, train with the script's own values, and those of the other kind with values
    of their own.

    Args:
        optim: The script's own ``--optim``.
    """
    found = {}
    for name, arm in ARMS.items():
        if is_adaptive(optim) and arm.optimizer in ADAPTIVE:
            arm = replace(arm, learning_rate=None, weight_decay=None)
        elif is_adaptive(optim) and arm.learning_rate is None:
            arm = replace(arm, **SGD_SCALE)
        found[name] = arm
    return found


def arm_flags(arm: Arm) -> dict[str, Any]:
    """Flags of `TrainingArguments` that say what an arm's optimizer and schedule are; None: the flag is left out.

    Args:
        arm: The arm, at the learning rate and weight decay of the run.
    """
    flags: dict[str, Any] = {
        "optim": optim_name(arm),
        "optim_args": None,
        "learning_rate": arm.learning_rate,
        "weight_decay": arm.weight_decay,
    }
    if arm.schedule == "constant":
        flags["lr_scheduler_type"] = "constant"
    if arm.optimizer in _BY_OPTIM_ARGS and arm.options and not is_registered(arm):
        flags["optim_args"] = ",".join(f"{name}={_text(value)}" for name, value in arm.options.items())
    return flags


def optim_name(arm: Arm) -> str:
    """The name of ``--optim`` by which an arm's optimizer is known in the script's process."""
    if is_registered(arm):
        return arm.optimizer if is_foreign(arm.optimizer) else f"{arm.optimizer}:{arm.name}"
    return NATIVE.get(arm.optimizer, arm.optimizer.removeprefix("optim:"))


def is_registered(arm: Arm) -> bool:
    """Whether an arm's optimizer is registered for the script, since the Trainer does not know it with these options.

    The Trainer passes over options that it does not expect, without a word.
    """
    if arm.optimizer in OPTIMIZERS:
        return any(not isinstance(value, str | int | float) for value in arm.options.values())
    if arm.optimizer == "sgd":
        return bool(arm.options.keys() - {"momentum", "dampening", "nesterov"})
    if arm.optimizer in NATIVE:  # betas and epsilon at their defaults are those of the script
        return arm.options != ARMS["adamw"].options
    return not arm.optimizer.startswith("optim:") or bool(arm.options)


def register_arm(arm: Arm) -> None:
    """Makes an arm's optimizer known to ``--optim``, unless it is so already."""
    if not is_registered(arm):
        return

    def build(context: Any) -> tuple[Any, dict[str, Any]]:
        prefix, _, name = arm.optimizer.rpartition(":")
        if prefix == "optim":
            found, kwargs = optimizer_handlers()[optimizer_names()(name)](context)
            return found, {**kwargs, **arm.options}
        found, kwargs = arm.optimizer_cls_and_kwargs(context.args.learning_rate)
        if isinstance(found, type) and found is not MuonWithAdamW:
            return found, kwargs
        # What is no plain class is given our own groups: the Trainer would call it with the model.
        return lambda: lambda model, **options: found(param_groups(model, context.args, found), **options), kwargs

    register_optimizer(optim_name(arm), build)


def give_arm(trainer: "Trainer", arm: Arm) -> None:
    """Gives a Trainer the schedule of an arm, where that is none of ``--lr_scheduler_type``."""
    if arm.schedule in ("trainer", "constant"):
        return

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        if trainer.lr_scheduler is None:
            build = SCHEDULES[arm.schedule]
            trainer.lr_scheduler = build(optimizer or trainer.optimizer, trainer.args, num_training_steps)
        return trainer.lr_scheduler

    trainer.create_scheduler = create_scheduler


def param_groups(model: torch.nn.Module, args: Any, build: Any) -> list[dict[str, Any]]:
    """The Trainer's groups, with and without weight decay; for Muon the embeddings apart, which are no matrices.

    Args:
        model: The model.
        args: Training arguments.
        build: What the optimizer is built by.
    """
    from transformers import Trainer

    decayed = set(Trainer.get_decay_parameter_names(None, model))  # it uses the model alone
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in decayed, id(parameter) not in embeddings), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": args.weight_decay if has_decay else 0.0,
            **({"matrix": may_be_matrix} if build is MuonWithAdamW else {}),
        }
        for (has_decay, may_be_matrix), parameters in groups.items()
    ]


def _text(value: Any) -> str:
    """A value as ``--optim_args`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def described(arm: Arm) -> Mapping[str, Any]:
    """An arm as instructions hold it."""
    return {"name": arm.name, **arm.record()}
