"""Statistics of a comparison: pure functions of its results table."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class TimeToTarget:
    """How long an arm took to a target, over its seeds.

    A seed that never reached the target took infinitely long, as AlgoPerf counts it (arXiv 2306.07179): the median is
    infinite when half of the seeds or more did not.

    Attributes:
        target: Value of the metric.
        reached: Seeds that reached it.
        seeds: Seeds in all.
        steps: Median number of optimizer steps until the first evaluation at or above the target.
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
        test_mean: Mean of the test metric over the seeds.
        test_std: Sample standard deviation over the seeds; NaN for one seed.
        seconds: Mean training seconds of a run.
        targets: Time to each target.
    """

    arm: str
    seeds: int
    diverged: int
    test_mean: float
    test_std: float
    seconds: float
    targets: tuple[TimeToTarget, ...]


def first_reaching(run: pd.DataFrame, metric: str, target: float) -> pd.Series | None:
    """The first evaluation of one run whose metric is at least the target; None if there is none.

    Args:
        run: Rows of one arm and seed on one split.
        metric: Column of the metric.
        target: Value to reach.
    """
    reached = run[run[metric] >= target].sort_values("step")
    return None if reached.empty else reached.iloc[0]


def time_to_target(rows: pd.DataFrame, metric: str, target: float) -> TimeToTarget:
    """Time to a target over the seeds of one arm.

    Args:
        rows: The arm's rows of both splits: a run that diverged before its first evaluation has none but the test's,
            and is a seed all the same.
        metric: Column of the metric.
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


def summarise(table: pd.DataFrame, arms: list[str], metric: str, targets: list[float]) -> list[ArmSummary]:
    """Summaries of the arms that have results, in the order given."""
    summaries = []
    for arm in arms:
        rows = table[table["arm"] == arm]
        test = rows[rows["split"] == "test"]
        if test.empty:
            continue
        summaries.append(
            ArmSummary(
                arm=arm,
                seeds=len(test),
                diverged=int((test["status"] == "diverged").sum()),
                test_mean=float(test[metric].mean()),
                test_std=float(test[metric].std(ddof=1)) if len(test) > 1 else math.nan,
                seconds=float(test["seconds"].mean()),
                targets=tuple(time_to_target(rows, metric, target) for target in targets),
            )
        )
    return summaries


def _median(values: np.ndarray) -> float:
    """The median, infinite where the middle values are (numpy would give NaN for inf - inf)."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high) if math.isinf(high) else float((low + high) / 2.0)
