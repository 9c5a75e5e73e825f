"""Statistics of a comparison: pure functions of its results table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from hf_critmom.reporting.intervals import CONFIDENCE, Interval, mean_interval


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
        """What it is called in text."""
        return self.name.replace("_", " ")

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


@dataclass(frozen=True)
class PairedRatio:
    """How many times as long as a baseline an arm takes to a target, over paired seeds.

    Attributes:
        target: Value of the metric.
        ratio: Geometric mean of the ratios with its interval; below 1 the arm is faster. Where a run was censored, the
            end of the budget stands in its place, so that the estimate is a bound, see `bound`.
        arm_censored: Pairs in which only the baseline reached the target.
        baseline_censored: Pairs in which only the arm did.
        both_censored: Pairs in which neither did.
        confidence: Level of the interval.
    """

    target: float
    ratio: Interval
    arm_censored: int
    baseline_censored: int
    both_censored: int
    confidence: float = CONFIDENCE

    @property
    def bound(self) -> str:
        """What the estimate is: "exact", "at least", "at most" or "unknown"."""
        if not self.ratio.n or self.both_censored or (self.arm_censored and self.baseline_censored):
            return "unknown"
        return "at least" if self.arm_censored else "at most" if self.baseline_censored else "exact"


def first_reaching(run: pd.DataFrame, metric: Metric, target: float) -> pd.Series | None:
    """The first evaluation of one run whose metric is the target or better; None if there is none.

    Args:
        run: Rows of one arm and seed on one split.
        metric: The metric.
        target: Value to reach.
    """
    reached = run[metric.reached(run[metric.name], target)].sort_values("step")
    return None if reached.empty else reached.iloc[0]


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
        validation = run[run["split"] == "validation"].sort_values("step")
        hit = first_reaching(validation, metric, target)
        if hit is not None:
            before = validation[validation["step"] < hit["step"]][column]
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
    """p-value of the log-rank test that two arms reach the target alike; 1 where no time tells them apart.

    The test does not use the pairing of the seeds, and its distribution is asymptotic: with few seeds it is a guide.
    """
    hits = np.concatenate([first.times[first.reached], second.times[second.reached]])
    at_risk = [(np.sum(first.times >= hit), np.sum(second.times >= hit), np.sum(hits == hit)) for hit in hits]
    # Without a time at which runs of both arms were left, and not all of them arrived, the statistic is 0 / 0.
    if not any(mine and theirs and arrived < mine + theirs for mine, theirs, arrived in at_risk):
        return 1.0
    return float(stats.logrank(first.censored(), second.censored()).pvalue)


def paired_ratio(
    table: pd.DataFrame,
    arm: str,
    baseline: str,
    metric: Metric,
    target: float,
    column: str = "step",
    *,
    confidence: float = CONFIDENCE,
) -> PairedRatio:
    """How many times as long as the baseline an arm takes to a target: paired t interval on the logarithm.

    With few seeds, none of them censored, this interval covers well, which a bootstrap's does not. Three cases need
    care, and err on the side of a wider interval:

    * Times are known up to the evaluation cadence only. The standard deviation is not taken smaller than what that
      rounding alone gives, ``sqrt((d_a / t_a)^2 / 12 + (d_b / t_b)^2 / 12)`` for uniform errors of width ``d``: three
      seeds that agree to the epoch are no proof. (Our own choice.)
    * A run that never reached the target is given the end of the budget, the least it can have taken, and the side of
      the interval that this could flatter is left unbounded.
    * Where in some pair neither run reached it, or some pairs lack the one and some the other, nothing bounds the
      ratio.

    Args:
        table: The results table, of one budget.
        arm: The arm's name.
        baseline: The baseline's name.
        metric: The metric.
        target: Value to reach.
        column: "step", "epoch" or "seconds".
        confidence: Level of the interval.
    """
    mine, theirs = (_by_seed(times(table, name, metric, target, column)) for name in (arm, baseline))
    pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
    arm_censored = sum(not ours.reached and other.reached for ours, other in pairs)
    baseline_censored = sum(ours.reached and not other.reached for ours, other in pairs)
    both_censored = sum(not ours.reached and not other.reached for ours, other in pairs)
    logs = np.array([0.0 if ours.time == other.time else math.log(ours.time / other.time) for ours, other in pairs])
    rounding = np.array([(ours.rounding**2 + other.rounding**2) / 12.0 for ours, other in pairs])
    least_std = float(np.sqrt(rounding.mean())) if len(rounding) else 0.0
    of_log = mean_interval(logs, least_std=least_std, confidence=confidence)
    low, high = _exp(of_log.low), _exp(of_log.high)
    if arm_censored or both_censored:
        high = math.inf
    if baseline_censored or both_censored:
        low = 0.0
    if both_censored == len(pairs):
        of_log = Interval(math.nan, -math.inf, math.inf, len(pairs))
    ratio = Interval(_exp(of_log.estimate), low, high, len(pairs))
    return PairedRatio(target, ratio, arm_censored, baseline_censored, both_censored, confidence)


def paired_difference(table: pd.DataFrame, arm: str, baseline: str, metric: Metric) -> Interval:
    """Mean difference of the test metric between an arm and a baseline over the seeds that both finished.

    Args:
        table: The results table, of one budget.
        arm: The arm's name.
        baseline: The baseline's name.
        metric: The metric.
    """
    tested = table[(table["split"] == "test") & (table["status"] != "diverged")]
    mine, theirs = (tested[tested["arm"] == name].set_index("seed")[metric.name] for name in (arm, baseline))
    return mean_interval((mine - theirs).dropna().to_numpy(dtype=float))


@dataclass(frozen=True)
class _Time:
    time: float
    reached: bool
    rounding: float


def _by_seed(observed: Times) -> dict[int, _Time]:
    """Times by seed, with the relative error that the evaluation cadence leaves; a bound has none."""
    columns = zip(observed.seeds, observed.times, observed.reached, observed.resolution, strict=True)
    return {
        seed: _Time(float(time), bool(reached), float(resolution / time) if reached else 0.0)
        for seed, time, reached, resolution in columns
    }


def _exp(value: float) -> float:
    """The exponential, infinite where it exceeds what a float holds."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _median(values: np.ndarray) -> float:
    """The median, infinite where the middle values are (numpy would give NaN for inf - inf)."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high) if math.isinf(high) else float((low + high) / 2.0)
