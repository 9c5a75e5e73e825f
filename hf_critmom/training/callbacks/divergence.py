"""Ends a run whose loss is no longer finite."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopWhenDiverged(TrainerCallback):
    """Ends a run whose logged training loss or evaluation loss is not finite, without saving a checkpoint.

    So an interrupted run continues from before it diverged, and ends as it would have without the interruption.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if has_diverged([logs or {}]):
            control.should_training_stop = True
            control.should_save = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_save and has_diverged(state.log_history):
            control.should_save = False


def has_diverged(log_history: list[dict[str, float]]) -> bool:
    """Whether the log history of a run holds a training or evaluation loss that is not finite."""
    return any(
        not math.isfinite(record[name]) for record in log_history for name in ("loss", "eval_loss") if name in record
    )
