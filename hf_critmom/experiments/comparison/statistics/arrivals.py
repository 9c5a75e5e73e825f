"""Arrivals: interpolated times at which the runs of an arm reach each target, restricted to the budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from hf_critmom.experiments.comparison.statistics.summaries import Metric

SMOOTHED_FROM = 4
"""Evaluations per epoch from which the curves are smoothed."""


@dataclass(frozen=True)
class Arrivals:
    """When the runs of one arm reach each target; arrays of shape (seeds, targets).

    A curve is known only at its evaluations. Between the last evaluation that misses a target and the first one that
    reaches it, the curve is taken as a straight line: that removes the offset of half an evaluation that first hits
    have, and most of the spread that their rounding adds. Two cases have no such pair of evaluations:

    * **Not arrived.** The time is restricted to the budget: the run counts with its end, and one that diverged, or
      ended early, with the end of the longest run of any arm, because more of its own budget would not have helped it,
      or was not given to it. Ratios of restricted times understate a difference and never reverse it.
    * **Immediate.** The first evaluation reaches the target already, so that nothing bounds the time from below. The
      run counts with that evaluation, the latest possible time, which also draws ratios towards 1.

    Attributes:
        arm: The arm's name.
        seeds: The seeds, in rising order.
        targets: Values of the metric.
        times: Interpolated and restricted times, positive.
        earliest: Time of the last evaluation before the target is reached, a lower bound; 0 for immediate arrivals.
        latest: Time of the first evaluation that reaches the target, an upper bound; infinite if there is none.
        arrived: Which runs reach the target; where curves are smoothed, the smoothed one has to reach it.
        immediate: For which runs it is the first one.
    """

    arm: str
    seeds: tuple[int, ...]
    targets: tuple[float, ...]
    times: np.ndarray
    earliest: np.ndarray
    latest: np.ndarray
    arrived: np.ndarray
    immediate: np.ndarray

    def of(self, seeds: Sequence[int]) -> "Arrivals":
        """The arrivals of some seeds, in the arm's order; seeds that the arm does not have are ignored."""
        rows = [row for row, seed in enumerate(self.seeds) if seed in set(seeds)]
        return self._select(rows, list(range(len(self.targets))))

    def at(self, targets: Sequence[float]) -> "Arrivals":
        """The arrivals at some targets."""
        return self._select(list(range(len(self.seeds))), [self.targets.index(target) for target in targets])

    def _select(self, rows: list[int], columns: list[int]) -> "Arrivals":
        arrays = (self.times, self.earliest, self.latest, self.arrived, self.immediate)
        return Arrivals(
            self.arm,
            tuple(self.seeds[row] for row in rows),
            tuple(self.targets[column] for column in columns),
            *(array[np.ix_(rows, columns)] for array in arrays),
        )


def smooths(table: pd.DataFrame) -> bool:
    """Whether the curves of a comparison are smoothed before they are interpolated.

    They are if there are `SMOOTHED_FROM` or more evaluations per epoch and more than one epoch: neighbouring
    evaluations then measure nearly the same model, so that noise decides which one is the first to reach a target. In a
    single epoch, the number of evaluations says nothing about how densely they lie on the curve.

    Args:
        table: The table of results at one budget.
    """
    validation = table[table["split"] == "validation"]
    if validation.empty or validation["epoch"].isna().all():
        return False
    runs = validation.groupby(["arm", "seed"])["epoch"].agg(["size", "max"])
    density = (runs["size"] / runs["max"]).median()
    return bool(runs["max"].max() > 1.0 and density >= SMOOTHED_FROM - 1e-6)


def arrivals(
    table: pd.DataFrame,
    arm: str,
    metric: Metric,
    targets: Sequence[float],
    column: str = "step",
    *,
    smooth: bool = False,
) -> Arrivals:
    """When the runs of one arm reach each target.

    Args:
        table: The table of results at one budget, with every arm. Evaluations whose metric is not finite are left out.
        arm: The arm's name.
        metric: The metric.
        targets: Values of the metric.
        column: "step", "epoch" or "seconds".
        smooth: Whether to replace the rise of each curve by its isotonic regression, the closest curve that never gets
            worse. The rise ends where three evaluations together are the best: what follows, as when a network
            overfits, does not take back what was reached.
    """
    ended = table[table["split"] == "test"]
    ends, longest = ended[column].astype(float), float(ended["step"].astype(float).max())
    runs = table[table["arm"] == arm]
    found = []
    for _, run in runs.groupby("seed"):
        end = run[run["split"] == "test"]
        diverged = end.empty or (end["status"] == "diverged").all() or end[column].isna().all()
        in_full = not diverged and float(end["step"].iloc[0]) >= longest
        outlasted = float(end[column].iloc[0]) if in_full else float(ends.max())
        validation = run[run["split"] == "validation"].sort_values("step")
        values = validation[metric.name].astype(float).to_numpy()
        at = validation[column].astype(float).to_numpy()
        finite = np.isfinite(values) & np.isfinite(at)
        values = values[finite] if metric.greater_is_better else -values[finite]
        goals = targets if metric.greater_is_better else [-target for target in targets]
        found.append([_arrival(at[finite], values, goal, outlasted, smooth=smooth) for goal in goals])
    shape = (len(found), len(targets))
    kinds = (float, float, float, bool, bool)
    arrays = [
        np.array([[one[part] for one in of] for of in found], dtype=kind).reshape(shape)
        for part, kind in enumerate(kinds)
    ]
    return Arrivals(arm, tuple(int(seed) for seed in sorted(runs["seed"].unique())), tuple(targets), *arrays)


def repeated_seeds(table: pd.DataFrame, metric: Metric) -> dict[str, tuple[int, ...]]:
    """The seeds of each arm whose validation curve equals that of another seed to the last digit.

    Such runs are the same run: the seed has no effect on the training, and their agreement is no evidence.

    Args:
        table: The table of results at one budget.
        metric: The metric.
    """
    found: dict[str, tuple[int, ...]] = {}
    validation = table[(table["split"] == "validation") & (table["status"] != "diverged")].sort_values("step")
    for arm, rows in validation.groupby("arm"):
        by_curve: dict[tuple[float, ...], list[int]] = {}
        for seed, run in rows.groupby("seed"):
            names = [name for name in dict.fromkeys((metric.name, "loss")) if name in run]
            curve = tuple(run[names].astype(float).fillna(math.inf).to_numpy().ravel().tolist())
            if len(run) > 1:
                by_curve.setdefault(curve, []).append(int(seed))
        if repeated := sorted(seed for seeds in by_curve.values() if len(seeds) > 1 for seed in seeds):
            found[str(arm)] = tuple(repeated)
    return found


def _arrival(
    at: np.ndarray, values: np.ndarray, target: float, end: float, *, smooth: bool
) -> tuple[float, float, float, bool, bool]:
    """Time, earliest, latest, arrived and immediate of one run whose metric should rise."""
    raw = np.flatnonzero(values >= target)
    if smooth and len(values):
        values = isotonic_regression(values[: _rise(values)]).x
    hits = np.flatnonzero(values >= target)
    if not len(hits):  # or only a noisy evaluation reached the target
        before = len(at) - 1 if not len(raw) else raw[0] - 1
        return end, float(at[before]) if before >= 0 else 0.0, math.inf, False, False
    first = hits[0]
    if first == 0:
        later = at[at > 0.0]  # an evaluation before the first step is at time 0, which has no logarithm
        time = float(at[0]) if at[0] > 0.0 else float(later[0]) if len(later) else end
        return time, 0.0, time, True, True
    low, high = values[first - 1], values[first]
    share = (target - low) / (high - low)
    time = float(at[first - 1] + share * (at[first] - at[first - 1]))
    return time, float(at[first - 1]), float(at[first]), True, False


def _rise(values: np.ndarray) -> int:
    """Number of evaluations up to the last three that are together the best."""
    if len(values) < 3:
        return len(values)
    together = np.convolve(values, np.ones(3), mode="valid")
    return len(values) - int(together[::-1].argmax())
