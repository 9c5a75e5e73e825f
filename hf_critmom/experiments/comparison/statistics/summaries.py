"""Summaries of each arm: metric at the end, time to each target, reach curves and log-rank tests."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from hf_critmom.reporting.intervals import Interval, mean_interval

OTHER_FIGURES = ("damping", "curvature", "drift", "speed", "reach")
"""Names of the figures other than that of the metric, which has the metric's name."""


@dataclass(frozen=True)
class Metric:
    """The metric of the targets.

    Attributes:
        name: Column of the table of results.
        greater_is_better: Whether larger values are better, as of an accuracy, or smaller ones, as of a loss.
    """

    name: str
    greater_is_better: bool = True

    @property
    def title(self) -> str:
        """Name in text, without characters that may be markup, since a script may use any name."""
        return " ".join(re.sub(r"[^\w ./:@+()-]|_", " ", self.name).split()) or "metric"

    @property
    def slug(self) -> str:
        """Name in file names, different from those of the other figures."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.name).strip("-.") or "metric"
        return f"metric-{slug}" if slug in OTHER_FIGURES else slug

    def reached(self, values: pd.Series, target: float) -> pd.Series:
        """Which values reach the target."""
        values = values.astype(float)  # values that are not finite are None, possibly in the whole column
        return values >= target if self.greater_is_better else values <= target


@dataclass(frozen=True)
class TimeToTarget:
    """An arm's time to a target, over its seeds.

    A seed that never reached the target took infinitely long, as in AlgoPerf (arXiv 2306.07179): the median is infinite
    if half of the seeds or more did not reach it.

    Attributes:
        target: Value of the metric.
        reached: Number of seeds that reached it.
        seeds: Number of seeds.
        steps: Median number of optimizer steps until the first evaluation that reaches the target.
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
    """The results of one arm.

    Attributes:
        arm: The arm's name.
        seeds: Number of its runs, including those that diverged.
        diverged: Number of runs that diverged.
        test: Mean of the test metric over the runs that did not diverge, with a t interval.
        test_std: Sample standard deviation over these runs; NaN for fewer than two.
        targets: Time to each target.
    """

    arm: str
    seeds: int
    diverged: int
    test: Interval
    test_std: float
    targets: tuple[TimeToTarget, ...]


@dataclass(frozen=True)
class Times:
    """An arm's times to a target, right-censored for seeds that never reached it.

    Attributes:
        seeds: The seeds.
        times: Time at which each seed reached the target; the end of the budget if it did not.
        reached: Which seeds reached it.
    """

    seeds: tuple[int, ...]
    times: np.ndarray
    reached: np.ndarray

    def censored(self) -> stats.CensoredData:
        """The times as SciPy takes them."""
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
    """The first evaluation of one run that reaches the target; None if there is none.

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
        rows: The arm's rows of both splits; a run that diverged before its first evaluation has only a test row, and
            counts as a seed, too.
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
        table: The table of results at one budget.
        arms: Names of the arms.
        metric: The metric.
        targets: The targets.
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
                targets=tuple(time_to_target(rows, metric, target) for target in targets),
            )
        )
    return summaries


def times(table: pd.DataFrame, arm: str, metric: Metric, target: float, column: str = "step") -> Times:
    """An arm's times to a target.

    A run that ended without reaching the target is censored at its end, and one that diverged at the end of the longest
    run, because more of its budget would not have helped it.

    Args:
        table: The table of results at one budget, with every arm.
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
            rows.append((seed, hit[column], True))
            continue
        end = run[run["split"] == "test"].iloc[0]
        rows.append((seed, ends[column].max() if end["status"] == "diverged" else end[column], False))
    seeds, found, reached = zip(*rows, strict=True) if rows else ((), (), ())
    return Times(tuple(int(seed) for seed in seeds), np.array(found, dtype=float), np.array(reached, dtype=bool))


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
    """p-value of the log-rank test that two arms reach the target equally fast; 1 if no time distinguishes them.

    The test ignores the pairing of the seeds, and its distribution is asymptotic: with few seeds, it is only a guide.
    """
    hits = np.concatenate([first.times[first.reached], second.times[second.reached]])
    at_risk = [(np.sum(first.times >= hit), np.sum(second.times >= hit), np.sum(hits == hit)) for hit in hits]
    # Without a time at which runs of both arms were at risk and not all of them arrived, the statistic is 0 / 0.
    if not any(one and other and arrived < one + other for one, other, arrived in at_risk):
        return 1.0
    return float(stats.logrank(first.censored(), second.censored()).pvalue)


def _median(values: np.ndarray) -> float:
    """The median; infinite if the upper middle value is (`numpy.median` of two infinities would be NaN)."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high) if math.isinf(high) else float((low + high) / 2.0)
