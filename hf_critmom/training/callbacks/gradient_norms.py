"""Logs the norm of each layer group's training gradient."""

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from hf_critmom.attribution.gradients import stacked_norms
from hf_critmom.attribution.groups import Groups, layer_groups
from hf_critmom.training.callbacks.logged import LoggingCallback, gradient_obstacle, is_training_record
from hf_critmom.training.callbacks.observing import log_beside

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)


class GradientNormCallback(LoggingCallback):
    """Logs the norm of each layer group's training gradient, before clipping, at the logging steps.

    Keys are ``gradient_norm/GROUP``, in a record beside that of the loss; their squares add up to the square of the
    Trainer's ``grad_norm``. Other steps cost nothing, unless logging is by epoch, where any step may be the last. If
    gradients are not available (DeepSpeed, FSDP1), it warns once.

    Args:
        trainer: The trainer; not needed with `CritMomTrainer`.
        groups: Layer groups, see `layer_groups`.
    """

    def __init__(self, trainer: "Trainer | None" = None, *, groups: Groups = None) -> None:
        super().__init__(trainer)
        self.groups = groups
        self._members: list[tuple[str, torch.nn.Parameter]] = []
        self._measured: tuple[int, list[str], torch.Tensor] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._members, self._measured = [], None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is None or not _logs_next_step(args, state):
            return
        if obstacle := gradient_obstacle(self.trainer):
            logger.warning_once(f"GradientNormCallback logs nothing: {obstacle}.")
            return
        if not self._members:  # only now have all wrappers swapped their parameters
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            grouped = layer_groups(model, self.groups).of(model)
            self._members = [(name, parameter) for name, members in grouped.items() for parameter in members.values()]
        present = [(name, parameter.grad) for name, parameter in self._members if parameter.grad is not None]
        if present:
            names, gradients = zip(*present, strict=True)
            self._measured = (state.global_step + 1, list(names), stacked_norms(gradients))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.trainer is None or self._measured is None or logs is None or not is_training_record(logs):
            return
        step, names, norms = self._measured
        self._measured = None
        if step != state.global_step:
            return
        squares: dict[str, float] = {}
        for name, norm in zip(names, norms.tolist(), strict=True):
            squares[name] = squares.get(name, 0.0) + norm**2
        # The gradients are clipped by now, all by the same factor, which follows from the Trainer's norm.
        clipped, before = math.sqrt(sum(squares.values())), logs.get("grad_norm", math.nan)
        scale = before / clipped if args.max_grad_norm > 0.0 and 0.0 < clipped <= before < math.inf else 1.0
        record = {f"gradient_norm/{name}": scale * math.sqrt(square) for name, square in squares.items()}
        log_beside(self.trainer, record)


def _logs_next_step(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the Trainer logs after the current step."""
    step = state.global_step + 1
    if args.logging_strategy == IntervalStrategy.STEPS:
        return step % state.logging_steps == 0 or (args.logging_first_step and step == 1)
    return args.logging_strategy == IntervalStrategy.EPOCH
