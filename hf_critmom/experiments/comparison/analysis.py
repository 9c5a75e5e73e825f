"""The analysis of a comparison: everything that its report says, computed once and rendered several times.

Terminal, card, figures and page take an `Analysis` and format it: none of them computes a statistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hf_critmom.experiments.comparison.drift_statistics import DriftSummary, summarise_drift
from hf_critmom.experiments.comparison.statistics import (
    ArmSummary,
    Metric,
    PairedRatio,
    ReachCurve,
    logrank,
    paired_difference,
    paired_ratio,
    reach_curve,
    summarise,
    times,
)
from hf_critmom.experiments.comparison.verdict import Verdict, verdicts
from hf_critmom.reporting.intervals import Interval


@dataclass(frozen=True)
class Curve:
    """A validation curve: finite values of the metric, in the order of training.

    Attributes:
        epochs: Epochs trained until each evaluation.
        values: Values of the metric.
    """

    epochs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class ArmCurves:
    """The validation curves of one arm.

    Attributes:
        arm: The arm's name.
        seeds: One curve per seed.
        median: Their median at each evaluation.
    """

    arm: str
    seeds: Mapping[int, Curve]
    median: Curve


@dataclass(frozen=True)
class Relative:
    """One arm relative to the baseline, seed by seed.

    Attributes:
        arm: The arm's name.
        steps: Ratio of the steps to each target.
        seconds: Ratio of the training seconds to each target.
        logrank: p-value of the log-rank test at each target.
        ending: Difference of the test metric.
    """

    arm: str
    steps: tuple[PairedRatio, ...]
    seconds: tuple[PairedRatio, ...]
    logrank: tuple[float, ...]
    ending: Interval


@dataclass(frozen=True)
class Analysis:
    """What a comparison found at one budget.

    Attributes:
        budget: Epochs, where the comparison has several budgets; None: the only one.
        metric: What targets are values of.
        targets: Values of the metric whose first reaching is timed.
        arms: Names of the arms that have results, in the plan's order.
        baseline: The arm that the others are related to.
        steps: Optimizer steps of the longest run.
        summaries: What each arm achieved.
        curves: Validation curves by arm, of those that have a finite value.
        reach: Share of seeds that have reached each target, by arm.
        relative: Each other arm relative to the baseline.
        verdicts: What the comparison says about each claim.
        drift: How the networks do on corrupted images; None if that was not measured.
    """

    budget: float | None
    metric: Metric
    targets: tuple[float, ...]
    arms: tuple[str, ...]
    baseline: str
    steps: float
    summaries: tuple[ArmSummary, ...]
    curves: Mapping[str, ArmCurves]
    reach: Mapping[str, tuple[ReachCurve, ...]]
    relative: tuple[Relative, ...]
    verdicts: tuple[Verdict, ...]
    drift: DriftSummary | None


def analyse(
    table: pd.DataFrame,
    arms: Sequence[str],
    baseline: str,
    metric: Metric,
    targets: Sequence[float],
    *,
    budget: float | None = None,
    drift: pd.DataFrame | None = None,
) -> Analysis:
    """Computes everything that the report of one budget says.

    Args:
        table: The results table, of one budget.
        arms: Names of the arms, in order; those without results are left out.
        baseline: The arm that the others are related to.
        metric: The metric.
        targets: Values whose first reaching is timed.
        budget: Epochs, where the comparison has several budgets.
        drift: Accuracies on corrupted images, of the same budget, see `drift_statistics.read_drift`.
    """
    present = [arm for arm in arms if (table["arm"] == arm).any()]
    return Analysis(
        budget=budget,
        metric=metric,
        targets=tuple(targets),
        arms=tuple(present),
        baseline=baseline,
        steps=float(table.loc[table["split"] == "test", "step"].max()),
        summaries=tuple(summarise(table, present, metric, targets)),
        curves=validation_curves(table, present, metric),
        reach={arm: tuple(reach_curve(times(table, arm, metric, target)) for target in targets) for arm in present},
        relative=tuple(relate(table, arm, baseline, metric, targets) for arm in present if arm != baseline),
        verdicts=tuple(verdicts(table, metric, targets)),
        drift=None if drift is None else summarise_drift(drift, present, baseline),
    )


def relate(table: pd.DataFrame, arm: str, baseline: str, metric: Metric, targets: Sequence[float]) -> Relative:
    """One arm relative to the baseline, seed by seed.

    Args:
        table: The results table, of one budget.
        arm: The arm's name.
        baseline: The baseline's name.
        metric: The metric.
        targets: Values whose first reaching is timed.
    """
    steps, seconds = (
        tuple(paired_ratio(table, arm, baseline, metric, target, column) for target in targets)
        for column in ("step", "seconds")
    )
    observed = [[times(table, name, metric, target) for name in (arm, baseline)] for target in targets]
    p_values = tuple(logrank(*both) for both in observed)
    return Relative(arm, steps, seconds, p_values, paired_difference(table, arm, baseline, metric))


def validation_curves(table: pd.DataFrame, arms: Sequence[str], metric: Metric) -> dict[str, ArmCurves]:
    """The validation curves of the arms that have a finite value.

    Args:
        table: The results table, of one budget.
        arms: Names of the arms, in order.
        metric: The metric.
    """
    validation = table[(table["split"] == "validation") & np.isfinite(table[metric.name].astype(float))]
    found = {}
    for arm in arms:
        rows = validation[validation["arm"] == arm]
        if not rows.empty:
            seeds = {int(seed): _curve(run["epoch"], run[metric.name]) for seed, run in rows.groupby("seed")}
            median = rows.groupby("epoch")[metric.name].median()
            found[arm] = ArmCurves(arm, seeds, _curve(median.index, median))
    return found


def _curve(epochs: "pd.Series | pd.Index", values: pd.Series) -> Curve:
    return Curve(np.asarray(epochs, dtype=float), np.asarray(values, dtype=float))
