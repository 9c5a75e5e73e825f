"""Seconds of training, summed over all launches of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class TrainingClock(TrainerCallback, ExportableState):
    """Counts the seconds of training; stopped during evaluations and saves.

    Its state travels with the checkpoints, so that a resumed run includes the seconds of its earlier parts (if
    `TrainingArguments.restore_callback_states_from_checkpoint` is set).

    Args:
        seconds: Training seconds of earlier parts of the run.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._running_since: float | None = None

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint keeps."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stops the clock within the context."""
        runs = self._running_since is not None
        self._stop()
        try:
            yield
        finally:
            if runs:
                self._start()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._start()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._start()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_evaluate or control.should_save:
            self._stop()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_evaluate or control.should_save:
            self._stop()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop()

    def _start(self) -> None:
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def _stop(self) -> None:
        if self._running_since is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - self._running_since
            self._running_since = None
