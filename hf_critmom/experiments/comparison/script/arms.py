"""How a script gets an arm: by flags of `TrainingArguments` and, where no flag suffices, through its Trainer.

Our optimizers and those of ``--optim`` are named as a user of the script would name them. Any other optimizer is
registered in the script's process under its own name, such as ``--optim timm:lion``.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hf_critmom.experiments.comparison.arms.arm import ADAPTIVE, ARMS, Arm, is_adaptive
from hf_critmom.experiments.comparison.arms.muon import MuonWithAdamW, decay_groups
from hf_critmom.experiments.comparison.arms.schedules import SCHEDULES
from hf_critmom.experiments.comparison.arms.third_party import is_third_party
from hf_critmom.experiments.comparison.script.command_line import flag_text
from hf_critmom.optim.factory import OPTIMIZERS
from hf_critmom.optim.registration import register_optimizer
from hf_critmom.upstream import optimizer_handlers, optimizer_names

if TYPE_CHECKING:
    from transformers import Trainer

SGD_SCALE: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 5e-4}
"""Settings of SGD arms if the script's learning rate is meant for an adaptive optimizer: those of our own tasks."""
_BY_OPTIM_ARGS = (*OPTIMIZERS, "sgd")
NATIVE = {"sgd": "sgd", "adamw": "adamw_torch", "schedule_free_adamw": "schedule_free_adamw"}
"""Names of ``--optim`` for the baseline optimizers of the table of arms."""


def arms_for(optim: str) -> dict[str, Arm]:
    """The table of arms for a script whose learning rate and weight decay are meant for an optimizer.

    Arms of the same kind, adaptive or SGD, use the script's values; arms of the other kind use their own.

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
    """Flags of `TrainingArguments` that set an arm's optimizer and schedule; None if a flag is left out.

    Args:
        arm: The arm, with the learning rate and weight decay of the run.
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
        flags["optim_args"] = ",".join(f"{name}={flag_text(value)}" for name, value in arm.options.items())
    return flags


def optim_name(arm: Arm) -> str:
    """The name of an arm's optimizer for ``--optim`` in the script's process."""
    if is_registered(arm):
        return arm.optimizer if is_third_party(arm.optimizer) else f"{arm.optimizer}:{arm.name}"
    return NATIVE.get(arm.optimizer, arm.optimizer.removeprefix("optim:"))


def is_registered(arm: Arm) -> bool:
    """Whether an arm's optimizer must be registered, because the Trainer does not know it with these options.

    The Trainer silently ignores options that it does not expect.
    """
    if arm.optimizer in OPTIMIZERS:
        return any(not isinstance(value, str | int | float) for value in arm.options.values())
    if arm.optimizer == "sgd":
        return bool(arm.options.keys() - {"momentum", "dampening", "nesterov"})
    if arm.optimizer in NATIVE:  # default betas and epsilon are those of the TrainingArguments, too
        return arm.options != ARMS["adamw"].options
    return not arm.optimizer.startswith("optim:") or bool(arm.options)


def register_arm(arm: Arm) -> None:
    """Registers an arm's optimizer for ``--optim``, if that is necessary."""
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

        def build_for(model: torch.nn.Module, **options: Any) -> Any:
            from transformers import Trainer

            decayed = set(Trainer.get_decay_parameter_names(None, model))  # it uses only the model
            for_muon = found is MuonWithAdamW
            return found(decay_groups(model, context.args.weight_decay, decayed, for_muon=for_muon), **options)

        return lambda: build_for, kwargs  # what is not a class, the Trainer calls with the model

    register_optimizer(optim_name(arm), build)


def set_scheduler(trainer: "Trainer", arm: Arm) -> None:
    """Makes a Trainer use the schedule of an arm, if that is not one of ``--lr_scheduler_type``."""
    if arm.schedule in ("trainer", "constant"):
        return

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        if trainer.lr_scheduler is None:
            build = SCHEDULES[arm.schedule]
            trainer.lr_scheduler = build(optimizer or trainer.optimizer, trainer.args, num_training_steps)
        return trainer.lr_scheduler

    trainer.create_scheduler = create_scheduler
