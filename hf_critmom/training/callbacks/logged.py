"""The base of callbacks that log by themselves, and their questions to a trainer and its log."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_critmom.errors import InputError

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)


class LoggingCallback(TrainerCallback):
    """A callback that logs by itself and needs its trainer for that.

    Trackers receive only what goes through `Trainer.log`, and the Trainer does not pass itself to callbacks:

        trainer.add_callback(DampingCallback(trainer))

    `CritMomTrainer` passes itself to callbacks that were made without one.
    """

    def __init__(self, trainer: "Trainer | None" = None) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is None:
            name = type(self).__name__
            logger.warning(
                f"{name} was constructed without a trainer, so it cannot log: use "
                f"trainer.add_callback({name}(trainer)), or CritMomTrainer."
            )
        elif self.trainer.state is not state:
            name = type(self).__name__
            raise InputError(
                f"{name} belongs to another trainer than the one that trains: construct one {name} for each trainer."
            )


def gradient_obstacle(trainer: "Trainer") -> str | None:
    """The reason why a trainer's gradients are not available; None if they are."""
    if trainer.is_deepspeed_enabled:
        return "DeepSpeed does not expose gradients"
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        return "FSDP1 flattens parameters, so layers have no gradients of their own; use FSDP2, which does not"
    return None


def is_training_record(logs: Mapping[str, Any]) -> bool:
    """Whether a log record is the Trainer's own for a logging step (not an evaluation, summary or other record)."""
    return "loss" in logs
