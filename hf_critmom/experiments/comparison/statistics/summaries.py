"""Statistics of a comparison: pure functions of its results table."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from hf_critmom.reporting.intervals import Interval, mean_interval

OTHER_FIGURES = ("damping", "curvature", "drift", "speed", "reach")
"""Names of the figures beside that of the metric, which is called by its own name."""


@dataclass(frozen=True)
class Metric:
    """What targets are values of.

    Attributes:
        name: Column of the results table.
        greater_is_better: Whether a target is reached from below, as an accuracy is, or from above, as a loss is.
    """

    name: str
    greater_is_better: bool = True

    @property
    def title(self) -> str:
        """What it is called in text: a script may call it anything, so what would be markup somewhere is left out."""
        return " ".join(re.sub(r"[^\w ./:@+()-]|_", " ", self.name).split()) or "metric"

    @property
    def slug(self) -> str:
        """What it is called in names of files, different from those of the other figures."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.name).strip("-.") or "metric"
        return f"metric-{slug}" if slug in OTHER_FIGURES else slug

    def reached(self, values: pd.Series, target: float) -> pd.Series:
        """Which values are as good as the target or better."""
        values = values.astype(float)  # what is not finite is recorded as None, maybe everywhere
        return values >= target if self.greater_is_better else values <= target


@dataclass(frozen=True)
class TimeToTarget:
    """How long an arm took to a target, over its seeds.

    A seed that never reached the target took infinitely long, as AlgoPerf counts it (arXiv 2306.07179): the median is
    infinite when half of the seeds or more did not.

    Attributes:
        target: Value of the metric.
        reached: Seeds that reached it.
        seeds: Seeds in all.
        steps: Median number of optimizer steps until the first evaluation at the target or better.
        steps_range: Smallest and largest number of steps.
        epochs: Median number of epochs.
        seconds: Median training seconds.
        seconds_range: Smallest and largest number of seconds.
    """

    target: float
    reached: int
    seeds: int
    steps: float
    steps_range: tuple[float, float]
    epochs: float
    seconds: float
    seconds_range: tuple[float, float]


@dataclass(frozen=True)
class ArmSummary:
    """What one arm achieved.

    Attributes:
        arm: Its name.
        seeds: Number of its finished or diverged runs.
        diverged: How many of them diverged.
        test: Mean of the test metric over the runs that did not diverge, with a t interval.
        test_std: Sample standard deviation over these; NaN for fewer than two.
        seconds: Mean training seconds of a run that did not diverge; NaN if all did.
        targets: Time to each target.
    """

    arm: str
    seeds: int
    diverged: int
    test: Interval
    test_std: float
    seconds: float
    targets: tuple[TimeToTarget, ...]


@dataclass(frozen=True)
class Times:
    """Times to a target of one arm, with those that were never reached censored.

    Attributes:
        seeds: The seeds.
        times: Time at which each reached the target; of a censored one the end of the budget, which it outlasts.
        reached: Which of them reached it.
        resolution: Time between the evaluation that reached it and the one before: the first hit may lie anywhere
            between them. NaN where censored.
    """

    seeds: tuple[int, ...]
    times: np.ndarray
    reached: np.ndarray
    resolution: np.ndarray

    def censored(self) -> stats.CensoredData:
        """The times as scipy takes them."""
        return stats.CensoredData.right_censored(self.times, ~self.reached)


@dataclass(frozen=True)
class ReachCurve:
    """Kaplan-Meier estimate of the share of runs that have reached a target.

    Attributes:
        times: Times at which the share changes, from 0 to the end of the budget.
        share: Share of runs that have reached the target by then.
    """

    times: np.ndarray
    share: np.ndarray


def first_reaching(run: pd.DataFrame, metric: Metric, target: float) -> pd.Series | None:
    """The first evaluation of one run whose metric is the target or better; None if there is none.

    Args:
        run: Rows of one arm and seed on one split.
        metric: The metric.
        target: Value to reach.
    """
    places = np.flatnonzero(metric.reached(run[metric.name], target))
    return run.iloc[places[np.argmin(run["step"].to_numpy()[places])]] if len(places) else None


def time_to_target(rows: pd.DataFrame, metric: Metric, target: float) -> TimeToTarget:
    """Time to a target over the seeds of one arm.

    Args:
        rows: The arm's rows of both splits: a run that diverged before its first evaluation has none but the test's,
            and is a seed all the same.
        metric: The metric.
        target: Value to reach.
    """
    hits = [first_reaching(run[run["split"] == "validation"], metric, target) for _, run in rows.groupby("seed")]

    def values(column: str) -> np.ndarray:
        return np.array([math.inf if hit is None else float(hit[column]) for hit in hits])

    steps, seconds = values("step"), values("seconds")
    return TimeToTarget(
        target=target,
        reached=sum(hit is not None for hit in hits),
        seeds=len(hits),
        steps=_median(steps),
        steps_range=(float(steps.min()), float(steps.max())),
        epochs=_median(values("epoch")),
        seconds=_median(seconds),
        seconds_range=(float(seconds.min()), float(seconds.max())),
    )


def summarise(table: pd.DataFrame, arms: Sequence[str], metric: Metric, targets: Sequence[float]) -> list[ArmSummary]:
    """Summaries of the arms that have results, in the order given.

    Args:
        table: The results table, of one budget.
        arms: Names of the arms.
        metric: The metric.
        targets: Values whose first reaching is timed.
    """
    summaries = []
    for arm in arms:
        rows = table[table["arm"] == arm]
        test = rows[rows["split"] == "test"]
        if test.empty:
            continue
        finished = test[test["status"] != "diverged"]
        values = finished[metric.name].astype(float).dropna().to_numpy()
        summaries.append(
            ArmSummary(
                arm=arm,
                seeds=len(test),
                diverged=len(test) - len(finished),
                test=mean_interval(values),
                test_std=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                seconds=float(finished["seconds"].mean()) if len(finished) else math.nan,
                targets=tuple(time_to_target(rows, metric, target) for target in targets),
            )
        )
    return summaries


def times(table: pd.DataFrame, arm: str, metric: Metric, target: float, column: str = "step") -> Times:
    """Times to a target of one arm.

    A run that ended without reaching the target is censored at its end; one that diverged at the end of the longest
    run, since more of the budget would not have helped it.

    Args:
        table: The results table, of one budget, with every arm.
        arm: The arm's name.
        metric: The metric.
        target: Value to reach.
        column: "step", "epoch" or "seconds".
    """
    ends = table[table["split"] == "test"]
    rows = []
    for seed, run in table[table["arm"] == arm].groupby("seed"):
        validation = run[run["split"] == "validation"]
        hit = first_reaching(validation, metric, target)
        if hit is not None:
            before = validation[column].to_numpy()[validation["step"].to_numpy() < hit["step"]]
            rows.append((seed, hit[column], True, hit[column] - (before.max() if len(before) else 0.0)))
            continue
        end = run[run["split"] == "test"].iloc[0]
        outlasted = ends[column].max() if end["status"] == "diverged" else end[column]
        rows.append((seed, outlasted, False, math.nan))
    seeds, found, reached, resolution = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Times(
        tuple(int(seed) for seed in seeds),
        np.array(found, dtype=float),
        np.array(reached, dtype=bool),
        np.array(resolution, dtype=float),
    )


def reach_curve(observed: Times) -> ReachCurve:
    """Kaplan-Meier estimate of the share of runs that have reached the target, over time.

    Args:
        observed: The arm's times; at least one.
    """
    survival = stats.ecdf(observed.censored()).sf
    points = np.concatenate([[0.0], survival.quantiles])
    share = np.concatenate([[0.0], 1.0 - survival.probabilities])
    return ReachCurve(points, share)


def logrank(first: Times, second: Times) -> float:
    """p-value of the log-rank test that two arms reach the target equally fast; 1 where no time distinguishes them.

    The test does not use the pairing of the seeds, and its distribution is asymptotic: with few seeds it is a guide.
    """
    hits = np.concatenate([first.times[first.reached], second.times[second.reached]])
    at_risk = [(np.sum(first.times >= hit), np.sum(second.times >= hit), np.sum(hits == hit)) for hit in hits]
    # Without a time at which runs of both arms were left, and not all of them arrived, the statistic is 0 / 0.
    if not any(one and other and arrived < one + other for one, other, arrived in at_risk):
        return 1.0
    return float(stats.logrank(first.censored(), second.censored()).pvalue)


def _median(values: np.ndarray) -> float:
    """The median, infinite where the middle values are (numpy would give NaN for inf - inf)."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high) if math.isinf(high) else float((low + high) / 2.0)
