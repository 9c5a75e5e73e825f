"""Observes a trainer without changing its own metrics.

Trainers of other packages collect metrics in ``compute_loss`` and flush them in ``log``, such as TRL's token accuracy.
A callback that called these methods would mix its own values into them. So losses are computed by a copy of the
trainer, and records go through `transformers.Trainer.log` itself.
"""

import copy
import types
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hf_critmom.curvature.owned import is_generator

if TYPE_CHECKING:
    from transformers import Trainer

SHARED = {
    *("model", "model_wrapped", "args", "accelerator", "callback_handler", "optimizer", "lr_scheduler", "deepspeed"),
    *("train_dataset", "eval_dataset", "data_collator", "processing_class", "label_smoother", "_memory_tracker"),
}
"""Attributes of a trainer that its copy shares: computing a loss does not change them, and some are large."""


def log_beside(trainer: "Trainer", metrics: Mapping[str, float]) -> None:
    """Logs a separate record: to the log history, the trackers and the other callbacks.

    Args:
        trainer: The trainer. An override of ``log`` in its class, which may flush other metrics, is bypassed.
        metrics: Plain floats by name.
    """
    from transformers import Trainer

    is_due = trainer.control.should_log
    Trainer.log(trainer, dict(metrics))
    trainer.control.should_log = is_due  # the trainer takes any record for its own


def observing_copy(trainer: "Trainer") -> "Trainer":
    """A copy of a trainer for computing losses, which leave the trainer's own metrics unchanged.

    The attributes in `SHARED`, such as model, accelerator and data, are shared. Numbers, tensors, random number
    generators, containers of them and objects that hold them are copied; functions and objects that cannot be copied
    are shared.

    Args:
        trainer: The trainer, of any class.
    """
    twin = copy.copy(trainer)
    seen: dict[int, Any] = {id(trainer): twin}
    for name, value in vars(trainer).items():
        if name not in SHARED:
            vars(twin)[name] = _copied(value, seen)
    return twin


def _copied(value: Any, seen: dict[int, Any]) -> Any:
    """A copy of a value that may accumulate; any other value itself."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, types.MethodType):  # a method of the trainer, to be bound to the copy
        return types.MethodType(value.__func__, seen.get(id(value.__self__), value.__self__))
    found: Any
    if isinstance(value, torch.Tensor):
        found = value if isinstance(value, nn.Parameter) else value.detach().clone()
    elif isinstance(value, np.ndarray):
        found = value.copy()
    elif is_generator(value):
        found = value.clone_state() if isinstance(value, torch.Generator) else copy.deepcopy(value)
    elif isinstance(value, nn.Module):  # torchmetrics' are modules without parameters
        found = value if any(True for _ in value.parameters()) else _deep_copied(value)
    elif isinstance(value, dict):
        found = copy.copy(value)
        seen[id(value)] = found
        for key, item in value.items():
            found[key] = _copied(item, seen)
    elif isinstance(value, list | deque):
        found = copy.copy(value)
        seen[id(value)] = found
        for index, item in enumerate(value):
            found[index] = _copied(item, seen)
    elif type(value) is tuple:
        found = tuple(_copied(item, seen) for item in value)
    elif isinstance(value, set | bytearray):
        found = copy.copy(value)
    elif _counts(value):
        found = copy.copy(value)
        seen[id(value)] = found
        for name, item in vars(value).items():
            vars(found)[name] = _copied(item, seen)
    else:
        found = value
    seen[id(value)] = found
    return found


def _counts(value: Any) -> bool:
    """Whether an object may accumulate: it has attributes, and is neither a resource nor from a large library."""
    cls = type(value)
    if not hasattr(value, "__dict__") or isinstance(value, type | types.ModuleType | types.FunctionType):
        return False
    if cls.__module__ == "transformers.trainer_callback":  # its state and control
        return True
    library = cls.__module__.partition(".")[0]
    heavy = library in {"torch", "transformers", "accelerate", "datasets", "peft", "tokenizers", "functools"}
    return not (heavy or hasattr(cls, "__del__") or hasattr(cls, "__enter__") or hasattr(cls, "__getitem__"))


def _deep_copied(value: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(value)
    except (RuntimeError, TypeError):  # it holds something that cannot be copied
        return value
