"""Callbacks that record a run, and that set when it is evaluated and saved."""

import math
import os
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_critmom.experiments.comparison.records import RESERVED_NAMES
from hf_critmom.experiments.comparison.statistics.steps import StepStatistics
from hf_critmom.storage.cores import usable_cores
from hf_critmom.training.callbacks.clock import TrainingClock


class RunRecorder(TrainingClock):
    """Records evaluations with the seconds of training until then, and the sizes of the optimizer's steps.

    The load average is recorded with each evaluation, because seconds on a busy machine are not comparable.

    Args:
        seconds: Training seconds of earlier parts of the run.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(seconds)
        self.evaluations: list[dict[str, float]] = []
        self.loads: list[float] = []
        self.steps: dict[str, Any] = StepStatistics().as_json()
        self.wall_seconds = 0.0
        self._began = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """The state that checkpoints store."""
        wall_seconds = self.wall_seconds + time.perf_counter() - self._began
        attributes = {"evaluations": self.evaluations, "loads": self.loads, "steps": self.steps}
        return {"args": {"seconds": self.seconds}, "attributes": {**attributes, "wall_seconds": wall_seconds}}

    def summary(self) -> dict[str, Any]:
        """The load of the machine and the means of the steps, as a result holds them.

        The load is the mean and the largest, over the evaluations, of the load average of the minute before.
        """
        loads = {"mean": sum(self.loads) / len(self.loads), "largest": max(self.loads)} if self.loads else {}
        return {"load": {**loads, "cores": usable_cores()}, **StepStatistics(**self.steps).means()}

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The schedule has not advanced yet, so the param groups still hold the values of this step.
        optimizer = kwargs.get("optimizer")
        if optimizer is not None and not getattr(optimizer, "step_was_skipped", False):
            statistics = StepStatistics(**self.steps)
            statistics.add(getattr(optimizer, "optimizer", optimizer))
            self.steps = statistics.as_json()

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
            if name.startswith("eval_")
            and not name.endswith(("_runtime", "_per_second", "_time"))
            and name.removeprefix("eval_") not in RESERVED_NAMES
        }
        if not measured:  # an evaluation on another split, such as the test split
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


class EvaluateWithinEpochs(TrainerCallback):
    """Evaluates several times per epoch, evenly spaced; the Trainer itself makes the evaluation at the epoch's end.

    Args:
        evaluations: Evaluations per epoch; at most one per step is made. None for only the Trainer's own.
    """

    def __init__(self, evaluations: int | None) -> None:
        self.evaluations = evaluations or 1
        self._steps_per_epoch = 1
        self._evaluated_step: int | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._steps_per_epoch = max(1, math.ceil(len(kwargs["train_dataloader"]) / args.gradient_accumulation_steps))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        place = (state.global_step - 1) % self._steps_per_epoch + 1
        reached, before = (step * self.evaluations // self._steps_per_epoch for step in (place, place - 1))
        if reached > before and place < self._steps_per_epoch and args.eval_delay <= (state.epoch or 0.0):
            # The run's last step may lie within an epoch, which then ends there and is evaluated by the Trainer.
            control.should_evaluate = state.global_step < state.max_steps

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._evaluated_step = state.global_step

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # An epoch that ends early, for instance because training diverged, may end with a step that was evaluated.
        if state.global_step == self._evaluated_step:
            control.should_evaluate = False


class SaveAfterEvaluation(TrainerCallback):
    """Delays a checkpoint that is due at the last step of an epoch until the epoch has been evaluated.

    A run that resumed from a checkpoint before the evaluation would start the next epoch without it.
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
