"""Schedules of arms: learning rate and momentum over a run.

Each entry of `SCHEDULES` builds the scheduler of a run from the optimizer, the training arguments and the number of
optimizer steps. The scheduler has what the Trainer needs: ``step``, ``get_last_lr``, and a state dict of plain numbers,
so that an interrupted run continues on the same schedule.
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

    The mean step of a heavy ball is ``lr / (1 - momentum)``, and ``sqrt(lr) / 2`` under the linear rule. So the matched
    learning rate is ``(1 - momentum) sqrt(lr) / 2``, or ``0.05 sqrt(lr)`` for momentum 0.9. (Our own derivation.)
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
    """The schedule of ``--lr_scheduler_type`` for schedules that step it themselves, without metrics of evaluations."""
    kind = SchedulerType(args.lr_scheduler_type).value
    if kind in ("reduce_lr_on_plateau", "greedy"):
        raise ComparisonError(
            f"--lr_scheduler_type {kind} follows the evaluations, which the schedules matched and demon cannot: choose "
            "another type, or leave out the arms with these schedules."
        )
    return trainer_schedule(optimizer, args, num_training_steps)


class MatchedSchedule:
    """Constant momentum at the learning rate matched, step by step, to a critically damped run's.

    The Trainer's own schedule runs on a shadow optimizer; each param group gets the `matched_lr` of its learning rate,
    for the group's own momentum.
    """

    def __init__(self, optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> None:
        self.optimizer = optimizer
        self._shadow = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
        self._schedule = _stepwise_schedule(self._shadow, args, num_training_steps)
        self._apply()

    def step(self) -> None:
        """Advances by one optimizer step."""
        self._shadow.step()  # else torch warns that the scheduler steps before its optimizer
        self._schedule.step()
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The learning rate of every param group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The state of the Trainer's schedule."""
        return {"schedule": self._schedule.state_dict(), "lr": self._shadow.param_groups[0]["lr"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self._schedule.load_state_dict(state["schedule"])
        self._shadow.param_groups[0]["lr"] = state["lr"]
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = matched_lr(self._shadow.param_groups[0]["lr"], group["momentum"])


class DemonSchedule:
    """Demon: momentum that decays to 0 over the run, with the Trainer's own learning-rate schedule.

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
        """The learning rate of every param group."""
        return self._schedule.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """The state of the Trainer's schedule, and the number of steps taken."""
        return {"schedule": self._schedule.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self._schedule.load_state_dict(state["schedule"])
        self.steps = state["steps"]
        self._apply()

    def _apply(self) -> None:
        left = max(1.0 - self.steps / self.num_training_steps, 0.0)
        for group, initial in zip(self.optimizer.param_groups, self.initial, strict=True):
            group["momentum"] = initial * left / ((1.0 - initial) + initial * left)


def one_cycle(optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> LRScheduler:
    """torch's OneCycleLR: ``learning_rate`` is its peak, where momentum is 0.85; momentum is 0.95 at both ends."""
    return OneCycleLR(optimizer, max_lr=args.learning_rate, total_steps=num_training_steps)


def constant(optimizer: Optimizer, args: TrainingArguments, num_training_steps: int) -> LRScheduler:
    """A constant learning rate, for optimizers that need no schedule."""
    return LambdaLR(optimizer, lambda step: 1.0)


SCHEDULES: dict[str, Callable[[Optimizer, TrainingArguments, int], Any]] = {
    "trainer": trainer_schedule,
    "matched": MatchedSchedule,
    "onecycle": one_cycle,
    "demon": DemonSchedule,
    "constant": constant,
}
"""Schedules by the names that arms use; ``trainer`` is the one of ``--lr_scheduler_type``."""
