"""Tuning: the best of each arm's trials, which are the same for every arm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from hf_critmom.experiments.comparison.plan import Plan, Run, Trial
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.statistics.arrivals import Arrivals, arrivals, smooths
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.table import results_table


@dataclass(frozen=True)
class BestTrial:
    """The best trial of one arm at one budget.

    Attributes:
        arm: The arm's name.
        epochs: The budget; None if the comparison has only one.
        trial: The point of the grid.
        value: Validation metric of the trial's last evaluation, as a mean over the seeds.
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
    """A point of the grid that was tried, with the numbers by which it is judged: means over the finished seeds.

    Attributes:
        arm: The arm's name.
        epochs: The budget; None if the comparison has only one.
        trial: The point of the grid.
        learning_rate: Its peak learning rate.
        weight_decay: Its weight decay.
        value: Validation metric of the last evaluation; None if it diverged with a seed.
        steps: Geometric mean over seeds and planned targets of the steps to target, where a target that was missed
            counts with the end of the trial; None if it diverged with a seed.
        chosen: Whether it is the best of its arm and budget.
        seeds: Number of seeds with which it was tried.
        diverged: Number of seeds with which it diverged.
    """

    arm: str
    epochs: float | None
    trial: Trial
    learning_rate: float
    weight_decay: float
    value: float | None
    steps: float | None
    chosen: bool = False
    seeds: int = 1
    diverged: int = 0


def choose_best_trials(plan: Plan, trials: Mapping[Run, RunResult]) -> list[BestTrial]:
    """Chooses the best trial of every arm and budget whose trials are all finished.

    The best trial is the one that a claim would call the fastest: the point with the smallest mean, over its seeds and
    the planned targets, of the logarithm of its steps to target, where a trial that misses a target counts with its
    end. Ties (all trials, if none reaches a target) go to the point with the best last evaluation on the validation
    split, which is the only criterion in early plans; remaining ties go to the point nearest to the arm's own values. A
    point that diverged with any seed is never chosen, and an arm all of whose points diverged has no best trial.

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
            if sum(one.seeds for one in found) < len(planned) or not finished:
                continue
            best, value, _ = min(
                finished,
                key=lambda rated: (
                    round(math.log(rated[2]), 9) if by_time else 0.0,
                    -better * rated[1],
                    _distance(rated[0].trial),
                ),
            )
            diverged = sum(one.diverged for one in found)
            edges = _edges(planned, best.trial)
            choices.append(BestTrial(arm, epochs, best.trial, value, len(planned), diverged, edges))
    return choices


def judge_trials(plan: Plan, trials: Mapping[Run, RunResult]) -> list[JudgedTrial]:
    """Every point of the grid with finished trials, with the numbers by which it is judged, in the order of the plan.

    Args:
        plan: The plan.
        trials: Results of the finished trials.
    """
    values = {run: _value(result, plan.task.metric) for run, result in trials.items()}
    steps = _steps_of_trials(plan, {run: trials[run] for run, value in values.items() if value is not None})
    points: dict[tuple[str, float | None, Trial], list[Run]] = {}
    for run in plan.trials():
        if run in trials and run.trial is not None:
            points.setdefault((run.arm, run.epochs, run.trial), []).append(run)
    judged = []
    for (arm, epochs, trial), runs in points.items():
        settings = plan.settings(plan.arms[arm], trial)
        finished = [value for run in runs if (value := values[run]) is not None]
        diverged = len(runs) - len(finished)
        value = None if diverged else fmean(finished)
        mean_steps = None if diverged else math.exp(fmean(math.log(steps[run]) for run in runs))
        judged.append(JudgedTrial(arm, epochs, trial, *settings, value, mean_steps, seeds=len(runs), diverged=diverged))
    return judged


def spread_over_seeds(plan: Plan, runs: Mapping[Run, RunResult]) -> float | None:
    """How much the steps to the targets change with the seed alone; None if no two runs differ in nothing else.

    Args:
        plan: The plan.
        runs: Results of runs and trials at one budget.

    Returns:
        The standard deviation of the mean logarithm of the steps to the planned targets, pooled over groups of runs
        that differ only in the seed. A run that misses a target counts with its end, and one that diverged not at all.
        A target that a whole group misses adds nothing to its spread, so that only the groups count that reach the most
        targets; None if there is none that reaches any.
    """
    groups: dict[tuple[str, Trial | None], list[RunResult]] = {}
    for run, result in runs.items():
        if _value(result, plan.task.metric) is not None:
            groups.setdefault((run.arm, run.trial), []).append(result)
    found = [_arrivals(plan, group) for group in groups.values() if len(group) > 1]
    reached = [int(one.arrived.any(axis=0).sum()) for one in found]
    if not any(reached):
        return None
    logs = [
        np.log(one.times).mean(axis=1) for one, number in zip(found, reached, strict=True) if number == max(reached)
    ]
    freedom = sum(len(one) - 1 for one in logs)
    return math.sqrt(sum(float(((one - one.mean()) ** 2).sum()) for one in logs) / freedom)


def _steps_of_trials(plan: Plan, finished: Mapping[Run, RunResult]) -> dict[Run, float]:
    """Geometric mean over the planned targets of each trial's steps to target."""
    steps: dict[Run, float] = {}
    for arm in plan.arms:
        for epochs in plan.budgets:
            own = {run: result for run, result in finished.items() if (run.arm, run.epochs) == (arm, epochs)}
            steps |= _steps_to_targets(plan, own)
    return steps


def _steps_to_targets(plan: Plan, finished: Mapping[Run, RunResult]) -> dict[Run, float]:
    """Geometric mean over the planned targets of the steps to target of each of an arm's runs at one budget."""
    if not finished:
        return {}
    steps = _arrivals(plan, list(finished.values())).times
    return dict(zip(finished, np.exp(np.log(steps).mean(axis=1)).tolist(), strict=True))


def _arrivals(plan: Plan, results: Sequence[RunResult]) -> Arrivals:
    """When runs of an arm at one budget reach the planned targets, in their order."""
    table = results_table(replace(result, arm="trial", seed=place) for place, result in enumerate(results))
    metric = Metric(plan.task.metric, plan.task.greater_is_better)
    return arrivals(table, "trial", metric, plan.targets, smooth=smooths(table))


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
