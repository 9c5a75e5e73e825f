"""Schedules of arms: what becomes of learning rate and momentum over a run.

Each entry of `SCHEDULES` builds the scheduler of a run from the optimizer, the training arguments and the number of
optimizer steps. What it builds behaves as the Trainer expects of its ``lr_scheduler``: ``step``, ``get_last_lr``, and a
state dict of plain numbers, so that an interrupted run continues on the same schedule.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from transformers import SchedulerType, TrainingArguments, get_scheduler

from hf_critmom.experiments.comparison.errors import ComparisonError


def matched_lr(lr: float, momentum: float = 0.9) -> float:
    """The learning rate at which constant momentum takes the mean step of the linear critical rule.

    The mean step of a heavy ball is ``lr / (1 - momentum)``; the linear rule's is ``sqrt(lr) / 2``. So the matched
    learning rate is ``(1 - momentum) sqrt(lr) / 2``, for momentum 0.9 ``0.05 sqrt(lr)``. (Our own derivation.)
    """
    return (1.0 - momentum) * math.sqrt(lr) / 2.0


def trainer_schedule(optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> Any:
    """The schedule of ``--lr_scheduler_type``, as the Trainer would build it."""
    return get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(num_training_steps),
        num_training_steps=num_training_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )


def _stepwise_schedule(optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> Any:
    """The schedule of ``--lr_scheduler_type`` for those here that run it themselves, without an evaluation's metric."""
    kind = SchedulerType(args.lr_scheduler_type).value
    if kind in ("reduce_lr_on_plateau", "greedy"):
        raise ComparisonError(
            f"--lr_scheduler_type {kind} follows the evaluations, which the schedules matched and "
            "demon cannot: choose another, or leave out the arms that have them."
        )
    return trainer_schedule(optimizer, args, num_training_steps)


class MatchedSchedule:
    """Constant momentum at the learning rate matched, step by step, to a critically damped run's.

    The Trainer's own schedule runs on a shadow optimizer, and every group gets `matched_lr` of what it says, at the
    group's own momentum.
    """

    def __init__(self, optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> None:
        self.optimizer = optimizer
        self._shadow = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
        self._schedule = _stepwise_schedule(self._shadow, args, num_training_steps)
        self._apply()

    def step(self) -> None:
        """Advances by one optimizer step."""
        self._shadow.step()  # only so that torch does not warn of a scheduler ahead of its optimizer
        self._schedule.step()
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The learning rate of every group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The state of the Trainer's schedule."""
        return {"schedule": self._schedule.state_dict(), "lr": self._shadow.param_groups[0]["lr"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._schedule.load_state_dict(state["schedule"])
        self._shadow.param_groups[0]["lr"] = state["lr"]
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = matched_lr(self._shadow.param_groups[0]["lr"], group["momentum"])


class DemonSchedule:
    """Demon: momentum that decays to 0 over the run, beside the Trainer's own learning-rate schedule.

    ``beta_t = beta_0 r / ((1 - beta_0) + beta_0 r)`` with ``r = 1 - t / T`` (Chen et al., arXiv 1910.04952).
    """

    def __init__(self, optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> None:
        self.optimizer = optimizer
        self.initial = [group["momentum"] for group in optimizer.param_groups]
        self.num_training_steps = num_training_steps
        self.steps = 0
        self._schedule = _stepwise_schedule(optimizer, args, num_training_steps)
        self._apply()

    def step(self) -> None:
        """Advances by one optimizer step."""
        self.steps += 1
        self._schedule.step()
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The learning rate of every group."""
        return self._schedule.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """The state of the Trainer's schedule, and the steps taken."""
        return {"schedule": self._schedule.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._schedule.load_state_dict(state["schedule"])
        self.steps = state["steps"]
        self._apply()

    def _apply(self) -> None:
        left = max(1.0 - self.steps / self.num_training_steps, 0.0)
        for group, initial in zip(self.optimizer.param_groups, self.initial, strict=True):
            group["momentum"] = initial * left / ((1.0 - initial) + initial * left)


def one_cycle(optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> LRScheduler:
    """torch's OneCycleLR as it is: up to ``learning_rate`` and down, momentum between 0.85 and 0.95 against it."""
    return OneCycleLR(optimizer, max_lr=args.learning_rate, total_steps=num_training_steps)


def constant(optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> LRScheduler:
    """The learning rate as it is, for optimizers that need no schedule."""
    return LambdaLR(optimizer, lambda step: 1.0)


SCHEDULES: dict[str, Callable[[Optimizer, TrainingArguments, int], Any]] = {
    "trainer": trainer_schedule,
    "matched": MatchedSchedule,
    "onecycle": one_cycle,
    "demon": DemonSchedule,
    "constant": constant,
}
"""Schedules by the names that arms use; ``trainer`` is the one of ``--lr_scheduler_type``."""
