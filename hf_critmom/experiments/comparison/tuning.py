"""Tuning: the same trials for every arm, and what they choose."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_critmom.experiments.comparison.plan import Plan, Run, Trial
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.statistics.arrivals import arrivals, smooths
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.table import results_table


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

    The best trial is the one that a claim would call the fastest: the one with the least mean over the planned targets
    of the logarithm of its steps to target, in which a trial that does not arrive counts with its end. Of trials that
    are equal in this (all of them where none arrives), and in the plans of early versions, the one whose last
    evaluation on the validation split is best. One that diverged is never chosen, and of equals the one nearest to the
    arm's own values is. An arm whose trials all diverged has no choice.

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
            finished = {run.trial: trials[run] for run in planned if run.trial in values and run.trial is not None}
            times = _log_times(plan, finished) if plan.tuning.chosen_by == "time" else dict.fromkeys(finished, 0.0)
            best = min(values, key=lambda trial: (times[trial], -better * values[trial], _distance(trial)))
            diverged = len(planned) - len(values)
            edges = _edges([run.trial for run in planned if run.trial is not None], best)
            choices.append(Choice(arm, epochs, best, values[best], len(planned), diverged, edges))
    return choices


def _log_times(plan: Plan, finished: Mapping[Trial, RunResult]) -> dict[Trial, float]:
    """Mean over the planned targets of the logarithm of each trial's steps to target."""
    table = results_table(replace(result, arm="trial", seed=place) for place, result in enumerate(finished.values()))
    metric = Metric(plan.task.metric, plan.task.greater_is_better)
    steps = arrivals(table, "trial", metric, plan.targets, smooth=smooths(table)).times
    return dict(zip(finished, np.log(steps).mean(axis=1).round(9).tolist(), strict=True))


def _value(result: RunResult, metric: str) -> float | None:
    """What a trial ended with; None if it diverged or its perplexity is infinite where its loss is not."""
    return result.evaluations[-1].values[metric] if result.finished else None


def _distance(trial: Trial) -> tuple[bool, float]:
    """How far a point lies from the arm's own values, in powers; no weight decay at all lies farthest."""
    factors = [factor for factor in (trial.learning_rate, trial.weight_decay) if factor > 0.0]
    return trial.weight_decay == 0.0, sum(abs(math.log(factor)) for factor in factors)


def _edges(trials: Sequence[Trial], best: Trial) -> tuple[str, ...]:
    edges = []
    for name in ("learning_rate", "weight_decay"):
        grid, factor = [getattr(trial, name) for trial in trials], getattr(best, name)
        if len(set(grid)) > 1 and factor > 0.0 and factor in (min(grid), max(grid)):
            edges.append(name.replace("_", " "))
    return tuple(edges)
