"""Tuning: the same trials for every arm, and what they choose."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_critmom.experiments.comparison.plan import Plan, Run, Trial


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


def choose(plan: Plan, trials: Mapping[Run, Mapping[str, Any]]) -> list[Choice]:
    """Chooses, for every arm and budget whose trials have all ended, the best of its grid.

    The best trial is the one whose last evaluation on the validation split is best; one that diverged is never
    chosen, and of equals the one nearest to the arm's own values is. An arm whose trials all diverged has no choice.

    Args:
        plan: The plan.
        trials: Results of the trials that have ended.
    """
    if not plan.tuning:
        return []
    metric, better = plan.task["metric"], 1.0 if plan.task.get("greater_is_better", True) else -1.0
    choices = []
    for arm in plan.arms:
        for epochs in plan.budgets:
            asked = [run for run in plan.trials() if (run.arm, run.epochs) == (arm, epochs)]
            if any(run not in trials for run in asked):
                continue
            values = {
                run.trial: float(trials[run]["evaluations"][-1][metric])
                for run in asked
                if run.trial is not None and _has_value(trials[run], metric)
            }
            if not values:
                continue
            best = min(values, key=lambda trial: (-better * values[trial], _distance(trial)))
            diverged = len(asked) - len(values)
            choices.append(Choice(arm, epochs, best, values[best], len(asked), diverged, _edges(plan, best)))
    return choices


def _has_value(result: Mapping[str, Any], metric: str) -> bool:
    """Whether a trial ended with a value: a perplexity can be infinite, recorded as None, where the loss is not."""
    return result["status"] == "finished" and result["evaluations"][-1][metric] is not None


def _distance(trial: Trial) -> tuple[bool, float]:
    """How far a point lies from the arm's own values, in powers; no weight decay at all lies farthest."""
    factors = [factor for factor in (trial.learning_rate, trial.weight_decay) if factor > 0.0]
    return trial.weight_decay == 0.0, sum(abs(math.log(factor)) for factor in factors)


def _edges(plan: Plan, trial: Trial) -> tuple[str, ...]:
    coordinates: Iterable[tuple[str, float]] = (
        ("learning_rate", trial.learning_rate),
        ("weight_decay", trial.weight_decay),
    )
    grid: dict[str, list[float]] = {name: plan.tuning[name] for name, _ in coordinates}
    return tuple(
        name.replace("_", " ")
        for name, factor in coordinates
        if len(grid[name]) > 1 and factor > 0.0 and factor in (min(grid[name]), max(grid[name]))
    )
