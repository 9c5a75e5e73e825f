"""Callbacks of a run: what is recorded of it, and when its checkpoints are written."""

import os
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy


class RunRecorder(TrainerCallback, ExportableState):
    """Records every evaluation with the seconds spent on training until then.

    The clock stands still during evaluations and saves, and its state travels with the checkpoints, so a resumed
    run counts the seconds of its earlier parts too. With each evaluation the machine's load is noted: seconds measured
    while others kept it busy say little.

    Args:
        seconds: Training seconds of earlier parts of the run.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.evaluations: list[dict[str, float]] = []
        self.loads: list[float] = []
        self._running_since: float | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        attributes = {"evaluations": self.evaluations, "loads": self.loads}
        return {"args": {"seconds": self.seconds}, "attributes": attributes}

    @property
    def load(self) -> float | None:
        """Mean over the evaluations of how many threads wanted to run on the machine in the minute before."""
        return sum(self.loads) / len(self.loads) if self.loads else None

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

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        measured = {
            name.removeprefix("eval_"): value
            for name, value in (metrics or {}).items()
            if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second", "_time"))
        }
        if not measured:  # an evaluation on another split, such as the test set's
            return
        if hasattr(os, "getloadavg"):
            self.loads.append(os.getloadavg()[0])
        used: dict[str, float] = next((record for record in reversed(state.log_history) if "loss" in record), {})
        self.evaluations.append(
            {
                "step": state.global_step,
                "epoch": float(state.epoch or 0.0),
                "seconds": self.seconds,
                **measured,
                **{name: used[name] for name in ("learning_rate", "momentum", "damping_ratio") if name in used},
            }
        )

    def _start(self) -> None:
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def _stop(self) -> None:
        if self._running_since is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - self._running_since
            self._running_since = None


class SaveBehindEvaluation(TrainerCallback):
    """Puts a checkpoint that is due at the last step of an epoch off until the epoch has been evaluated.

    A run that continued from between the two would begin the next epoch and lack the evaluation.
    """

    def __init__(self) -> None:
        self._due = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        last = float(state.epoch or 0.0).is_integer() or state.global_step >= state.max_steps
        if control.should_save and last and args.eval_strategy == IntervalStrategy.EPOCH:
            control.should_save, self._due = False, True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._due:
            control.should_save, self._due = True, False
