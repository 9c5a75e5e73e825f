"""Tuning: the same trials for every arm, and what they choose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hf_critmom.experiments.comparison.plan import Plan, Run, Trial, Tuning
from hf_critmom.experiments.comparison.records import RunResult


@dataclass(frozen=True)
class Choice:
    """What the trials of one arm chose.

    Attributes:
        arm: The arm's name.
        epochs: The budget, where the comparison has several.
        trial: The chosen point of the grid.
        value: Validation metric of the last evaluation of its trial.
        trials: Number of trials that the arm had.
        diverged: How many of them diverged.
        edges: Which of its coordinates lie on an edge of the grid, so that a better value may lie outside; below a
            weight decay of 0 there is none.
    """

    arm: str
    epochs: float | None
    trial: Trial
    value: float
    trials: int
    diverged: int
    edges: tuple[str, ...]


def choose(plan: Plan, trials: Mapping[Run, RunResult]) -> list[Choice]:
    """Chooses, for every arm and budget whose trials have all ended, the best of its grid.

    The best trial is the one whose last evaluation on the validation split is best; one that diverged is never
    chosen, and of equals the one nearest to the arm's own values is. An arm whose trials all diverged has no choice.

    Args:
        plan: The plan.
        trials: Results of the trials that have ended.
    """
    if plan.tuning is None:
        return []
    metric, better = plan.task.metric, 1.0 if plan.task.greater_is_better else -1.0
    choices = []
    for arm in plan.arms:
        for epochs in plan.budgets:
            planned = [run for run in plan.trials() if (run.arm, run.epochs) == (arm, epochs)]
            if any(run not in trials for run in planned):
                continue
            values = {
                run.trial: value
                for run in planned
                if run.trial is not None and (value := _value(trials[run], metric)) is not None
            }
            if not values:
                continue
            best = min(values, key=lambda trial: (-better * values[trial], _distance(trial)))
            diverged = len(planned) - len(values)
            choices.append(Choice(arm, epochs, best, values[best], len(planned), diverged, _edges(plan.tuning, best)))
    return choices


def _value(result: RunResult, metric: str) -> float | None:
    """What a trial ended with; None if it diverged or its perplexity is infinite where its loss is not."""
    return result.evaluations[-1].values[metric] if result.finished else None


def _distance(trial: Trial) -> tuple[bool, float]:
    """How far a point lies from the arm's own values, in powers; no weight decay at all lies farthest."""
    factors = [factor for factor in (trial.learning_rate, trial.weight_decay) if factor > 0.0]
    return trial.weight_decay == 0.0, sum(abs(math.log(factor)) for factor in factors)


def _edges(tuning: Tuning, trial: Trial) -> tuple[str, ...]:
    coordinates = (
        ("learning rate", trial.learning_rate, tuning.learning_rate),
        ("weight decay", trial.weight_decay, tuning.weight_decay),
    )
    return tuple(
        name
        for name, factor, grid in coordinates
        if len(grid) > 1 and factor > 0.0 and factor in (min(grid), max(grid))
    )
