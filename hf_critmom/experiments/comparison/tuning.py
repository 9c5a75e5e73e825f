"""Tuning: the best of each arm's trials, which are the same for every arm."""

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
class BestTrial:
    """The best trial of one arm at one budget.

    Attributes:
        arm: The arm's name.
        epochs: The budget; None if the comparison has only one.
        trial: The point of the grid.
        value: Validation metric of the trial's last evaluation.
        trials: Number of trials of the arm.
        diverged: Number of trials that diverged.
        edges: Coordinates of the point that lie on an edge of the grid, so that a better value may lie outside it. A
            weight decay of 0 is not counted, since nothing lies below it.
    """

    arm: str
    epochs: float | None
    trial: Trial
    value: float
    trials: int
    diverged: int
    edges: tuple[str, ...]


@dataclass(frozen=True)
class JudgedTrial:
    """A finished trial with the numbers by which it is judged.

    Attributes:
        arm: The arm's name.
        epochs: The budget; None if the comparison has only one.
        trial: The point of the grid.
        learning_rate: Its peak learning rate.
        weight_decay: Its weight decay.
        value: Validation metric of its last evaluation; None if it diverged.
        steps: Geometric mean over the planned targets of its steps to target, where a target that it missed counts with
            its end; None if it diverged.
        chosen: Whether it is the best of its arm and budget.
    """

    arm: str
    epochs: float | None
    trial: Trial
    learning_rate: float
    weight_decay: float
    value: float | None
    steps: float | None
    chosen: bool = False


def choose_best_trials(plan: Plan, trials: Mapping[Run, RunResult]) -> list[BestTrial]:
    """Chooses the best trial of every arm and budget whose trials are all finished.

    The best trial is the one that a claim would call the fastest: the one with the smallest mean, over the planned
    targets, of the logarithm of its steps to target, where a trial that misses a target counts with its end. Ties (all
    trials, if none reaches a target) go to the trial with the best last evaluation on the validation split, which is
    the only criterion in early plans; remaining ties go to the point nearest to the arm's own values. A trial that
    diverged is never chosen, and an arm whose trials all diverged has no best trial.

    Args:
        plan: The plan.
        trials: Results of the finished trials.
    """
    if plan.tuning is None:
        return []
    better = 1.0 if plan.task.greater_is_better else -1.0
    by_time = plan.tuning.chosen_by == "time"
    judged = judge_trials(plan, trials)
    choices = []
    for arm in plan.arms:
        for epochs in plan.budgets:
            planned = [run.trial for run in plan.trials() if (run.arm, run.epochs) == (arm, epochs) and run.trial]
            found = [one for one in judged if (one.arm, one.epochs) == (arm, epochs)]
            finished = [(one, one.value, one.steps) for one in found if one.value is not None and one.steps is not None]
            if len(found) < len(planned) or not finished:
                continue
            best, value, _ = min(
                finished,
                key=lambda rated: (
                    round(math.log(rated[2]), 9) if by_time else 0.0,
                    -better * rated[1],
                    _distance(rated[0].trial),
                ),
            )
            edges = _edges(planned, best.trial)
            choices.append(BestTrial(arm, epochs, best.trial, value, len(found), len(found) - len(finished), edges))
    return choices


def judge_trials(plan: Plan, trials: Mapping[Run, RunResult]) -> list[JudgedTrial]:
    """Every finished trial with the numbers by which it is judged, in the order of the plan.

    Args:
        plan: The plan.
        trials: Results of the finished trials.
    """
    by_run = {run: (result, _value(result, plan.task.metric)) for run, result in trials.items()}
    steps: dict[Run, float] = {}
    for arm in plan.arms:
        for epochs in plan.budgets:
            own = {run: result for run, (result, value) in by_run.items()
                   if (run.arm, run.epochs) == (arm, epochs) and value is not None}  # fmt: skip
            steps |= _steps_to_targets(plan, own)
    judged = []
    for run in plan.trials():
        if run in by_run and run.trial is not None:
            settings = plan.settings(plan.arms[run.arm], run.trial)
            judged.append(JudgedTrial(run.arm, run.epochs, run.trial, *settings, by_run[run][1], steps.get(run)))
    return judged


def _steps_to_targets(plan: Plan, finished: Mapping[Run, RunResult]) -> dict[Run, float]:
    """Geometric mean over the planned targets of each trial's steps to target."""
    if not finished:
        return {}
    table = results_table(replace(result, arm="trial", seed=place) for place, result in enumerate(finished.values()))
    metric = Metric(plan.task.metric, plan.task.greater_is_better)
    steps = arrivals(table, "trial", metric, plan.targets, smooth=smooths(table)).times
    return dict(zip(finished, np.exp(np.log(steps).mean(axis=1)).tolist(), strict=True))


def _value(result: RunResult, metric: str) -> float | None:
    """Metric of a trial's last evaluation; None if the trial diverged, or if the metric is infinite."""
    return result.evaluations[-1].values[metric] if result.finished else None


def _distance(trial: Trial) -> tuple[bool, float]:
    """How far a point lies from the arm's own values: sum of absolute log factors; no weight decay is farthest."""
    factors = [factor for factor in (trial.learning_rate, trial.weight_decay) if factor > 0.0]
    return trial.weight_decay == 0.0, sum(abs(math.log(factor)) for factor in factors)


def _edges(trials: Sequence[Trial], best: Trial) -> tuple[str, ...]:
    edges = []
    for name in ("learning_rate", "weight_decay"):
        grid, factor = [getattr(trial, name) for trial in trials], getattr(best, name)
        if len(set(grid)) > 1 and factor > 0.0 and factor in (min(grid), max(grid)):
            edges.append(name.replace("_", " "))
    return tuple(edges)
