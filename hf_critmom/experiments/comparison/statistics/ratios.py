"""Ratios of times to target between two arms: over all planned targets, and at each target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hf_critmom.experiments.comparison.statistics.arrivals import Arrivals
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.reporting.intervals import CONFIDENCE, Estimate, Interval, paired_estimate, welch_estimate


@dataclass(frozen=True)
class Pair:
    """The runs of two arms that are compared.

    Attributes:
        arm: Arrivals of the arm.
        baseline: Arrivals of the baseline, at the same targets.
        paired: Whether the rows of the two have the same seeds; if not, means are compared (Welch).
    """

    arm: Arrivals
    baseline: Arrivals
    paired: bool = True

    @property
    def n(self) -> int:
        """Number of pairs; without pairs, number of seeds of the smaller arm."""
        return min(len(self.arm.seeds), len(self.baseline.seeds))

    @property
    def informative(self) -> tuple[float, ...]:
        """The targets that can distinguish the arms.

        Targets that no run of either arm reached are left out, and targets that every run of both had reached at its
        first evaluation: there, runs count the same whatever the arms do.
        """
        informative = [
            target
            for column, target in enumerate(self.arm.targets)
            if any(side.arrived[:, column].any() for side in (self.arm, self.baseline))
            and not all(side.immediate[:, column].all() for side in (self.arm, self.baseline))
        ]
        return tuple(informative) if self.n else ()

    def at(self, targets: Sequence[float]) -> "Pair":
        """The same runs at some targets."""
        return replace(self, arm=self.arm.at(targets), baseline=self.baseline.at(targets))

    def estimate(self) -> Estimate:
        """Mean over the targets of the log ratio of times, with its spread over seeds."""
        if not self.n or not self.arm.targets:
            return Estimate(math.nan, math.nan, 0.0, self.n, self.paired)
        if self.paired:
            return paired_estimate(_log_ratio(self.arm.times, self.baseline.times).mean(axis=1))
        return welch_estimate(*(_log(side.times).mean(axis=1) for side in (self.arm, self.baseline)))

    @property
    def may_be_larger(self) -> bool:
        """Whether the arm missed a target in some pair, or only the baseline had reached it at its first evaluation."""
        return self._counts_too_soon(self.arm, self.baseline)

    @property
    def may_be_smaller(self) -> bool:
        """Whether the baseline missed a target in some pair, or only the arm had reached it at its first evaluation."""
        return self._counts_too_soon(self.baseline, self.arm)

    def _counts_too_soon(self, one: Arrivals, other: Arrivals) -> bool:
        """Whether a ratio of the times of `one` to those of the other may be larger than its estimate."""
        if self.paired:
            return bool((~one.arrived | (other.immediate & ~one.immediate)).any())
        return bool((~one.arrived).any() or (other.immediate.any() and not one.immediate.all()))

    def missed(self) -> tuple[int, int, int]:
        """Number of missed arrivals over seeds and targets: by the arm only, by the baseline only, and by both.

        Without pairs, the smaller number of the two arms counts as missed by both.
        """
        if self.paired:
            arm, baseline = ~self.arm.arrived, ~self.baseline.arrived
            both = int((arm & baseline).sum())
            return int(arm.sum()) - both, int(baseline.sum()) - both, both
        arm_missed, baseline_missed = (int((~side.arrived).sum()) for side in (self.arm, self.baseline))
        both = min(arm_missed, baseline_missed)
        return arm_missed - both, baseline_missed - both, both


def pair(arm: Arrivals, baseline: Arrivals, *, paired: bool = True) -> Pair:
    """Pairs the runs of two arms by seed.

    Runs are compared unpaired if the same seed does not give them the same start (`paired` False), or if the arms have
    at least two seeds each but fewer than two in common.

    Args:
        arm: Arrivals of the arm.
        baseline: Arrivals of the baseline, at the same targets.
        paired: Whether the same seed means the same initial weights and the same order of data.
    """
    common = sorted(set(arm.seeds) & set(baseline.seeds))
    if paired and (len(common) > 1 or min(len(arm.seeds), len(baseline.seeds)) < 2):
        return Pair(arm.of(common), baseline.of(common))
    return Pair(arm, baseline, paired=False)


@dataclass(frozen=True)
class PairedRatio:
    """The ratio of an arm's time to one target to that of a baseline.

    Attributes:
        target: Value of the metric.
        ratio: Geometric mean of the ratios with its interval; below 1 the arm is faster. A run that did not reach the
            target counts with the end of its budget, and one that had reached it at its first evaluation with that one,
            so that the estimate is a bound, see `bound`, and the interval is open on the side of that run.
        arm_censored: Number of pairs in which only the baseline reached the target.
        baseline_censored: Number of pairs in which only the arm reached it.
        both_censored: Number of pairs in which neither reached it.
        bound: What the estimate is: "exact", "at least", "at most" or "unknown".
        confidence: Level of the interval.
        outer: Bounds of the ratio that hold wherever between two evaluations the target was reached: the geometric mean
            with the earliest times of the arm and the latest ones of the baseline, and vice versa.
        p: Two-sided p-value of equal times; 1 if censoring leaves the side of the ratio open.
        paired: Whether the seeds are paired.
        exploratory: Whether the target was added after the first results, and is left out of every correction.
        decided: Whether the difference stands after Holm's correction over the targets.
    """

    target: float
    ratio: Interval
    arm_censored: int
    baseline_censored: int
    both_censored: int
    bound: str = "exact"
    confidence: float = CONFIDENCE
    outer: tuple[float, float] = (0.0, math.inf)
    p: float = 1.0
    paired: bool = True
    exploratory: bool = False
    decided: bool = False


def paired_ratio(runs: Pair, target: float, *, confidence: float = CONFIDENCE) -> PairedRatio:
    """The ratio of the times to one target.

    Args:
        runs: The runs of the two arms.
        target: Value to reach.
        confidence: Level of the interval.
    """
    at = runs.at([target])
    arm_missed, baseline_missed, both_missed = at.missed()
    estimate = at.estimate()
    if at.n and both_missed == at.n:
        estimate = replace(estimate, value=math.nan, standard_error=math.nan)
    low, high = ((found := estimate.interval(confidence)).low, found.high)
    p, bound = estimate.p_value(), "exact" if at.n else "unknown"
    larger, smaller = at.may_be_larger, at.may_be_smaller
    if larger:
        high, p, bound = math.inf, p if estimate.value > 0.0 and not smaller else 1.0, "at least"
    if smaller:
        low, p, bound = -math.inf, p if estimate.value < 0.0 and not larger else 1.0, "at most"
    ratio = Interval(estimate.value, low, high, at.n).exp()
    return PairedRatio(
        target,
        ratio,
        arm_missed,
        baseline_missed,
        both_missed,
        "unknown" if larger and smaller else bound,
        confidence,
        _outer(at),
        p,
        at.paired,
    )


def target_ratios(
    runs: Pair, targets: Sequence[float], *, level: float = 1.0 - CONFIDENCE, exploratory: Sequence[float] = ()
) -> tuple[PairedRatio, ...]:
    """The ratio at each target, with Holm's correction over the planned ones.

    Holm, Scand. J. Statist. 6 (1979) 65: the j-th smallest of m p-values is tested at `level` / (m - j + 1), until the
    first one fails. Each interval has the level at which its target was tested, or at which the procedure stopped: a
    target is decided if and only if its interval excludes 1.

    Args:
        runs: The runs of the two arms, at all of these targets.
        targets: The planned targets.
        level: Probability of deciding any of them wrongly.
        exploratory: Targets that were added after the first results.
    """
    ordered = sorted(targets, key=lambda target: paired_ratio(runs, target).p)
    found: dict[float, PairedRatio] = {}
    stopped: float | None = None
    for place, target in enumerate(ordered):
        tested = level / (len(ordered) - place) if stopped is None else stopped
        ratio = paired_ratio(runs, target, confidence=1.0 - tested)
        if stopped is None and ratio.p > tested:
            stopped = tested
        found[target] = replace(ratio, decided=stopped is None)
    for target in exploratory:
        found[target] = replace(paired_ratio(runs, target, confidence=1.0 - level), exploratory=True)
    return tuple(found[target] for target in (*targets, *exploratory))


def decided_everywhere(runs: Pair, *, level: float = 1.0 - CONFIDENCE) -> int:
    """Whether an arm is faster (-1) or slower (1) at every target that can distinguish the arms; 0 if neither.

    No correction is needed, because all intervals at the full level must lie on the same side of 1 (the
    intersection-union test, Berger, Technometrics 24 (1982) 295).

    Args:
        runs: The runs of the two arms.
        level: Probability of a wrong answer.
    """
    ratios = [paired_ratio(runs, target, confidence=1.0 - level) for target in runs.informative]
    if ratios and all(one.ratio.high < 1.0 for one in ratios):
        return -1
    return 1 if ratios and all(one.ratio.low > 1.0 for one in ratios) else 0


def area_difference(table: pd.DataFrame, runs: Pair, metric: Metric) -> Estimate:
    """Area between the validation curves of two arms, divided by the length of the training.

    This is the mean difference of the metric over the training, arm minus baseline, by the trapezoidal rule over the
    steps that both curves cover. A run that diverged, or has fewer than two finite evaluations, has no area, and its
    pair is left out.

    Args:
        table: The table of results at one budget.
        runs: The runs of the two arms.
        metric: The metric.
    """
    arm, baseline = (_curves(table, side, metric) for side in (runs.arm, runs.baseline))
    if runs.paired:
        both = [seed for seed in runs.arm.seeds if seed in arm and seed in baseline]
        spans = {seed: _span([arm[seed], baseline[seed]]) for seed in both}
        return paired_estimate(
            _known([_mean(arm[seed], spans[seed]) - _mean(baseline[seed], spans[seed]) for seed in both])
        )
    span = _span([*arm.values(), *baseline.values()])
    return welch_estimate(*(_known([_mean(curve, span) for curve in side.values()]) for side in (arm, baseline)))


def ending_difference(table: pd.DataFrame, runs: Pair, metric: Metric) -> Estimate:
    """Mean difference of the test metric between two arms, arm minus baseline, over runs that did not diverge.

    Args:
        table: The table of results at one budget.
        runs: The runs of the two arms.
        metric: The metric.
    """
    tested = table[(table["split"] == "test") & (table["status"] != "diverged")]
    sides = []
    for side in (runs.arm, runs.baseline):
        rows = tested[(tested["arm"] == side.arm) & tested["seed"].isin(side.seeds)]
        values = rows.set_index("seed")[metric.name].astype(float)
        sides.append(values[np.isfinite(values)])
    if runs.paired:
        return paired_estimate((sides[0] - sides[1]).dropna().to_numpy(dtype=float))
    return welch_estimate(*(side.to_numpy(dtype=float) for side in sides))


Curve = tuple[np.ndarray, np.ndarray]


def _curves(table: pd.DataFrame, side: Arrivals, metric: Metric) -> dict[int, Curve]:
    """Steps and values of the runs that have at least two finite evaluations, by seed."""
    rows = table[(table["arm"] == side.arm) & (table["split"] == "validation") & (table["status"] != "diverged")]
    found = {}
    for seed, run in rows[rows["seed"].isin(side.seeds)].sort_values("step").groupby("seed"):
        steps, values = (run[name].astype(float).to_numpy() for name in ("step", metric.name))
        finite = np.isfinite(values)
        if finite.sum() > 1:
            found[int(seed)] = (steps[finite], values[finite])
    return found


def _span(curves: Sequence[Curve]) -> tuple[float, float]:
    return max((steps[0] for steps, _ in curves), default=0.0), min((steps[-1] for steps, _ in curves), default=0.0)


def _mean(curve: Curve, span: tuple[float, float]) -> float:
    """Mean of a curve over a span of steps; NaN where the span is empty."""
    steps, values = curve
    start, end = span
    if start >= end:
        return math.nan
    inside = steps[(steps > start) & (steps < end)]
    at = np.concatenate([[start], inside, [end]])
    return float(np.trapezoid(np.interp(at, steps, values), at)) / (end - start)


def _known(values: Sequence[float]) -> np.ndarray:
    array = np.array(values, dtype=float)
    return array[~np.isnan(array)]


def _log_ratio(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Logarithm of the ratio of times, exactly 0 for equal times."""
    return np.where(times == others, 0.0, _log(times) - _log(others))


def _log(times: np.ndarray) -> np.ndarray:
    """Logarithm of times; a time of 0, which exists only if all runs diverged at the start, is taken as tiny."""
    return np.log(np.maximum(times, np.finfo(float).tiny))


def _outer(runs: Pair) -> tuple[float, float]:
    """Bounds of the geometric mean ratio at the only target of the runs."""
    if not runs.n:
        return 0.0, math.inf
    with np.errstate(divide="ignore"):
        early_arm, late_arm, early, late = (
            float(np.log(times).mean()) for side in (runs.arm, runs.baseline) for times in (side.earliest, side.latest)
        )
    low = 0.0 if math.isinf(early_arm) or math.isinf(late) else math.exp(early_arm - late)
    high = math.inf if math.isinf(late_arm) or math.isinf(early) else math.exp(late_arm - early)
    return low, high
