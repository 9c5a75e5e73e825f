"""Several comparisons together: a performance profile over their tasks, and geometric means of speed-ups."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.findings.descriptions import budget_title
from hf_critmom.experiments.comparison.findings.findings import Findings, read_findings
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.experiments.comparison.statistics.summaries import ArmSummary
from hf_critmom.reporting.intervals import Interval, mean_interval
from hf_critmom.storage.files import replace_non_finite
from hf_critmom.storage.redaction import redact

MAX_PROFILE_FACTOR = 4.0
"""Largest factor of AlgoPerf's performance profiles."""


@dataclass(frozen=True)
class Workload:
    """One comparison at one budget.

    Attributes:
        name: Name of the workload.
        folder: The comparison's folder.
        found: The findings of the comparison.
        analysis: The analysis of the budget.
        target: Target of the performance profile: the hardest planned one that an arm of the profile reached with more
            than half of its seeds; None if there is none.
    """

    name: str
    folder: Path
    found: Findings
    analysis: Analysis
    target: float | None

    @property
    def times(self) -> dict[str, float]:
        """Median steps to the target by arm, infinite if the arm did not reach it; empty without a target."""
        if self.target is None:
            return {}
        return {summary.arm: _steps(summary, self.target) for summary in self.analysis.summaries}


@dataclass(frozen=True)
class SpeedUp:
    """The speed-up of an arm over the baseline, over several workloads.

    Attributes:
        arm: The arm's name.
        ratio: Geometric mean over the workloads of the ratio of the baseline's steps to target to the arm's (above 1 is
            faster), with Student's t interval over the workloads, of which there are `ratio.n`.
        workloads: Names of these workloads.
    """

    arm: str
    ratio: Interval
    workloads: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """Several comparisons together.

    Attributes:
        workloads: The workloads, in the order of the folders.
        arms: The arms of all of them.
        baseline: The arm with which others are compared: the most frequent baseline of the workloads.
        speed_ups: One for each other arm that is compared with the baseline in at least one workload.
        compared: Arms of the performance profile: those that every workload has.
    """

    workloads: tuple[Workload, ...]
    arms: Mapping[str, Arm]
    baseline: str
    speed_ups: tuple[SpeedUp, ...]
    compared: tuple[str, ...]

    def profile(self) -> dict[str, list[tuple[float, float]]]:
        """Performance profiles (Dolan and More, Math. Program. 91 (2002) 201; AlgoPerf, arXiv 2306.07179, section 4).

        Returns:
            For each arm, factors in rising order with the share of workloads whose target the arm reached within that
            factor of the fastest arm's steps.
        """
        factors: dict[str, list[float]] = {arm: [] for arm in self.compared}
        timed = [workload for workload in self.workloads if workload.target is not None]
        for workload in timed:
            times = {arm: workload.times[arm] for arm in self.compared}
            least = min(times.values(), default=math.inf)
            for arm, taken in times.items():
                factors[arm].append(_factor(taken, least))
        ends = sorted(
            {1.0, MAX_PROFILE_FACTOR, *(one for found in factors.values() for one in found if math.isfinite(one))}
        )
        return {
            arm: [(end, float(np.mean([one <= end for one in found]))) for end in ends if end <= MAX_PROFILE_FACTOR]
            for arm, found in factors.items()
            if found
        }


def read_overview(folders: Sequence[Path]) -> Overview:
    """Reads several comparisons, finished or not; nothing in their folders changes.

    Args:
        folders: The comparisons' folders.

    Raises:
        ComparisonError: If a folder is given twice, holds no comparison, or has no finished run.
    """
    resolved = [folder.resolve() for folder in folders]
    for place, folder in enumerate(folders):
        if resolved.index(resolved[place]) != place:
            raise ComparisonError(f"{folder} is given twice: name every comparison once.")
    found = [read_findings(folder) for folder in folders]
    for folder, one in zip(folders, found, strict=True):
        if not one.budgets:
            raise ComparisonError(
                f"No run of the comparison in {folder} has finished: repeat its command, {one.continuing_command}, or "
                "leave it out."
            )
    tasks = [one.plan.task.name for one in found]
    workloads = []
    for folder, one in zip(folders, found, strict=True):
        task = one.plan.task.name
        name = task if tasks.count(task) == 1 else f"{task} ({redact(folder.resolve().name)})"
        for budget in one.budgets:
            analysis = budget.analysis
            titled = f"{name}, {budget_title(analysis.budget)}" if analysis.budget is not None else name
            workloads.append(Workload(titled, folder, one, analysis, None))
    present = [set(workload.analysis.arms) for workload in workloads]
    common = set.intersection(*present)
    return _overview(
        tuple(replace(one, target=_hardest_reached(one.found, one.analysis, common)) for one in workloads), common
    )


def _overview(workloads: tuple[Workload, ...], common: Collection[str]) -> Overview:
    arms = {name: arm for workload in workloads for name, arm in workload.found.arms.items()}
    baselines = [workload.analysis.baseline for workload in workloads]
    baseline = max(dict.fromkeys(baselines), key=baselines.count)
    speed_ups = [_speed_up(workloads, arm, baseline) for arm in arms if arm != baseline]
    compared = tuple(arm for arm in arms if arm in common)
    return Overview(workloads, arms, baseline, tuple(one for one in speed_ups if one.ratio.n), compared)


def _speed_up(workloads: Sequence[Workload], arm: str, baseline: str) -> SpeedUp:
    logs = {
        workload.name: -math.log(relative.headline.ratio.estimate)
        for workload in workloads
        for relative in workload.analysis.relative
        if relative.arm == arm and workload.analysis.baseline == baseline
        if not math.isnan(relative.headline.ratio.estimate)
    }
    return SpeedUp(arm, mean_interval(np.array(list(logs.values()), dtype=float)).exp(), tuple(logs))


def _hardest_reached(found: Findings, analysis: Analysis, arms: Collection[str]) -> float | None:
    ordered = sorted(found.plan.targets, reverse=analysis.metric.greater_is_better)
    summaries = [summary for summary in analysis.summaries if summary.arm in arms]
    return next((target for target in ordered if any(math.isfinite(_steps(one, target)) for one in summaries)), None)


def _steps(summary: ArmSummary, target: float) -> float:
    return next((one.steps for one in summary.targets if one.target == target), math.inf)


def overview_as_json(overview: Overview) -> dict[str, Any]:
    """The results of several comparisons together, as JSON values."""
    return dict(
        replace_non_finite(
            {
                "baseline": overview.baseline,
                "workloads": [
                    {"name": one.name, "folder": str(one.folder), "target": one.target, "median_steps": one.times}
                    for one in overview.workloads
                ],
                "speed_ups": [
                    {"arm": one.arm, "speed_up": one.ratio.estimate, "low": one.ratio.low, "high": one.ratio.high,
                     "workloads": list(one.workloads)}
                    for one in overview.speed_ups
                ],
                "performance_profile": {arm: [list(point) for point in points]
                                        for arm, points in overview.profile().items()},
            }
        )
    )  # fmt: skip


def _factor(taken: float, least: float) -> float:
    """Steps as a multiple of the least; before the first step, nothing but itself is a finite multiple."""
    if taken == least and math.isfinite(taken):
        return 1.0
    return taken / least if math.isfinite(taken) and least > 0.0 else math.inf
