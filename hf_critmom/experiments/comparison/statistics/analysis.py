"""The analysis of a comparison: every statistic of its report, computed once.

Terminal, card, figures and page format an `Analysis`; none of them computes a statistic.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pandas as pd

from hf_critmom.experiments.comparison.statistics.arrivals import arrivals
from hf_critmom.experiments.comparison.statistics.claims import Claim, claims_of
from hf_critmom.experiments.comparison.statistics.drift import DriftSummary, summarise_drift
from hf_critmom.experiments.comparison.statistics.ratios import PairedRatio, pair, target_ratios
from hf_critmom.experiments.comparison.statistics.sequential import ALPHA, Looks
from hf_critmom.experiments.comparison.statistics.summaries import (
    ArmSummary,
    Metric,
    ReachCurve,
    Times,
    logrank,
    reach_curve,
    summarise,
    times,
)
from hf_critmom.experiments.comparison.statistics.verdict import (
    MARGIN,
    Headline,
    Judged,
    Rule,
    Verdict,
    headline,
    judge,
    verdicts,
)
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
        median: Their median at each evaluation, where that is finite: a run that diverged counts as worse than all
            others from then on, so that the median is not one of the runs that were lucky.
    """

    arm: str
    seeds: Mapping[int, Curve]
    median: Curve


@dataclass(frozen=True)
class Relative:
    """One arm relative to the baseline.

    Attributes:
        arm: The arm's name.
        headline: The arm against the baseline in one number, and at each target.
        seconds: Ratio of the training seconds to each target; None if they were disturbed by other work.
        logrank: p-value of the log-rank test at each target.
    """

    arm: str
    headline: Headline
    seconds: tuple[PairedRatio, ...] | None
    logrank: tuple[float, ...]

    @property
    def steps(self) -> tuple[PairedRatio, ...]:
        """Ratio of the steps to each target."""
        return self.headline.at

    @property
    def ending(self) -> Interval:
        """Difference of the test metric."""
        return self.headline.ending


@dataclass(frozen=True)
class Analysis:
    """The analysis of a comparison at one budget.

    Attributes:
        budget: Budget in epochs; None if the comparison has only one.
        metric: Metric of the targets.
        targets: The planned targets, then the exploratory ones.
        exploratory: Targets that were added after the first results, which enter no headline.
        arms: Names of the arms that have results, in the plan's order.
        baseline: Name of the arm that the others are compared with.
        steps: Optimizer steps of the longest run.
        summaries: The results of each arm.
        curves: Validation curves by arm, for arms that have a finite value.
        reach: Share of seeds that have reached each target, by arm.
        relative: Each other arm relative to the baseline.
        verdicts: The verdict on each claim.
        margin: Relative difference of times that still counts as none.
        smoothed: Whether the curves were smoothed before times were interpolated.
        drift: Accuracy on corrupted images; None if it was not measured.
        paired: Whether the same seed means the same initial weights and the same order of data in every arm.
        ended_on: Split of the final values: "test", or "final validation" without a test split.
    """

    budget: float | None
    metric: Metric
    targets: tuple[float, ...]
    exploratory: tuple[float, ...]
    arms: tuple[str, ...]
    baseline: str
    steps: float
    summaries: tuple[ArmSummary, ...]
    curves: Mapping[str, ArmCurves]
    reach: Mapping[str, tuple[ReachCurve, ...]]
    relative: tuple[Relative, ...]
    verdicts: tuple[Verdict, ...]
    margin: float
    smoothed: bool
    drift: DriftSummary | None
    paired: bool = True
    ended_on: str = "test"

    @property
    def outcome(self) -> str:
        """What runs are compared by at their end, such as "test accuracy"."""
        return f"{self.ended_on} {self.metric.title}"


def analyse(
    table: pd.DataFrame,
    arms: Sequence[str],
    baseline: str,
    metric: Metric,
    targets: Sequence[float],
    *,
    exploratory: Sequence[float] = (),
    user_claims: Sequence[Claim] = (),
    looks: Looks | None = None,
    seeds: Sequence[int] | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    paired: bool = True,
    budget: float | None = None,
    drift: pd.DataFrame | None = None,
    disturbed: Collection[str] = (),
    ended_on: str = "test",
) -> Analysis:
    """Computes every statistic of the report at one budget.

    Args:
        table: The table of results at one budget.
        arms: Names of the planned arms and their tuned variants, in order; only those with results are reported.
        baseline: Name of the arm that the others are compared with.
        metric: The metric.
        targets: The planned targets.
        exploratory: Targets that were added after the first results.
        user_claims: The user's claims, see `claims.parse_claim`.
        looks: The looks at the comparison; None for a single look with all seeds.
        seeds: The seeds in the order in which they were planned; None for rising order.
        margin: A ratio of times between 1 / (1 + margin) and 1 + margin counts as no difference.
        alpha: Probability of a wrong verdict over all claims and looks; with several budgets, the budget's part of it.
        paired: Whether the same seed means the same initial weights and the same order of data in every arm.
        budget: Budget in epochs; None if the comparison has only one.
        drift: Accuracies on corrupted images at the same budget, as
            `hf_critmom.experiments.comparison.results.read_drift` returns them.
        disturbed: Arms with a run whose seconds were disturbed by other work; they get no ratio of seconds.
        ended_on: Split of the final values.
    """
    present = [arm for arm in arms if (table["arm"] == arm).any()]
    every_target = (*targets, *exploratory)
    rule = Rule(
        metric,
        tuple(targets),
        tuple(exploratory),
        looks,
        None if seeds is None else tuple(seeds),
        margin,
        alpha,
        paired,
        arms=tuple(arms),
    )
    rows = table[table["arm"].isin(present)]
    judged = judge(rows, rule)
    observed = {arm: [times(table, arm, metric, target) for target in every_target] for arm in present}
    return Analysis(
        budget=budget,
        metric=metric,
        targets=every_target,
        exploratory=tuple(exploratory),
        arms=tuple(present),
        baseline=baseline,
        steps=float(table.loc[table["split"] == "test", "step"].max()),
        summaries=tuple(summarise(table, present, metric, every_target)),
        curves=validation_curves(table, present, metric),
        reach={arm: tuple(map(reach_curve, arm_times)) for arm, arm_times in observed.items()},
        relative=tuple(relate(judged, observed, arm, baseline, disturbed) for arm in present if arm != baseline),
        verdicts=tuple(verdicts(judged, claims_of(present, baseline, user_claims, rows))),
        margin=margin,
        smoothed=judged.smoothed,
        drift=None if drift is None else summarise_drift(drift, present, baseline),
        paired=paired,
        ended_on=ended_on,
    )


def relate(
    judged: Judged,
    observed: Mapping[str, Sequence[Times]],
    arm: str,
    baseline: str,
    disturbed: Collection[str] = (),
) -> Relative:
    """One arm relative to the baseline.

    Args:
        judged: The prepared results.
        observed: Each arm's times to every target, in steps.
        arm: The arm's name.
        baseline: The baseline's name.
        disturbed: Arms whose seconds were disturbed by other work.
    """
    rule, table = judged.rule, judged.table
    every_target = (*rule.targets, *rule.exploratory)
    in_seconds = [
        arrivals(table, name, rule.metric, every_target, "seconds", smooth=judged.smoothed) for name in (arm, baseline)
    ]
    found = headline(judged, arm, baseline)
    return Relative(
        arm,
        found,
        None
        if {arm, baseline} & {*disturbed}
        else target_ratios(
            pair(*in_seconds, paired=rule.paired),
            rule.targets,
            level=1.0 - found.confidence,
            exploratory=rule.exploratory,
        ),
        tuple(map(logrank, observed[arm], observed[baseline])),
    )


def validation_curves(table: pd.DataFrame, arms: Sequence[str], metric: Metric) -> dict[str, ArmCurves]:
    """The validation curves of the arms that have a finite value.

    Args:
        table: The table of results at one budget.
        arms: Names of the arms, in order.
        metric: The metric.
    """
    validation = table[(table["split"] == "validation") & np.isfinite(table[metric.name].astype(float))]
    found = {}
    for arm in arms:
        rows = validation[validation["arm"] == arm]
        if not rows.empty:
            seeds = {int(seed): _curve(run["epoch"], run[metric.name]) for seed, run in rows.groupby("seed")}
            diverged = {*table[(table["arm"] == arm) & (table["status"] == "diverged")]["seed"]}
            worst = -math.inf if metric.greater_is_better else math.inf
            medians = {
                epoch: median([*at[metric.name], *[worst] * len(diverged - {*at["seed"]})])
                for epoch, at in rows.groupby("epoch")
            }
            kept = pd.Series({epoch: value for epoch, value in medians.items() if math.isfinite(value)}, dtype=float)
            found[arm] = ArmCurves(arm, seeds, _curve(kept.index, kept))
    return found


def _curve(epochs: "pd.Series | pd.Index", values: pd.Series) -> Curve:
    return Curve(np.asarray(epochs, dtype=float), np.asarray(values, dtype=float))
