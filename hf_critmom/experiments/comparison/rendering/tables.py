"""The tables of a comparison's report: results by arm, arms relative to the baseline, corrupted images, tuning."""

import math
from collections.abc import Sequence
from dataclasses import replace

from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX
from hf_critmom.experiments.comparison.findings.sentences import (
    format_difference,
    format_level,
    format_paired_ratio,
    format_ratio,
    format_ratio_interval,
)
from hf_critmom.experiments.comparison.results import Results
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.experiments.comparison.statistics.claims import claim_title
from hf_critmom.experiments.comparison.statistics.drift import CLEAN, CORRUPTED, DriftSummary
from hf_critmom.experiments.comparison.statistics.ratios import PairedRatio
from hf_critmom.experiments.comparison.statistics.summaries import ArmSummary, Metric, TimeToTarget
from hf_critmom.experiments.comparison.statistics.verdict import NOT_TESTED
from hf_critmom.experiments.comparison.tuning import JudgedTrial
from hf_critmom.reporting.intervals import CONFIDENCE
from hf_critmom.reporting.tables import Table


def table_rows(
    summaries: Sequence[ArmSummary], metric: str, ended_on: str = "test"
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results; a cell holds steps, and seconds below them.

    Args:
        summaries: The results of each arm.
        metric: Name of the metric in text.
        ended_on: Split of the final values, see `Analysis`.
    """
    targets = summaries[0].targets
    header = ["arm", *(f"steps, seconds to {target.target:.4g}" for target in targets), f"{ended_on} {metric}", "seeds"]
    rows = []
    for summary in summaries:
        times = [_time(target) for target in summary.targets]
        rows.append([summary.arm, *times, _mean_and_spread(summary), _seeds(summary)])
    return header, rows


def long_rows(summaries: Sequence[ArmSummary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results with a row for each arm and target, for narrow terminals."""
    rows = []
    for summary in summaries:
        for place, target in enumerate(summary.targets):
            times = _time(target).split("\n")[:2] if math.isfinite(target.steps) else ["-", "-"]
            times[1] = times[1].removesuffix(" s")  # the unit is in the header
            reached = "all" if target.reached == target.seeds else f"{target.reached} of {target.seeds}"
            rows.append([summary.arm if place == 0 else "", f"{target.target:.4g}", *times, reached])
    return ["arm", "target", "steps", "seconds", "reached by"], rows


def summary_rows(
    summaries: Sequence[ArmSummary], metric: str, ended_on: str = "test"
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of each arm's final metric."""
    return ["arm", f"{ended_on} {metric}", "seeds"], [
        [one.arm, _mean_and_spread(one), _seeds(one)] for one in summaries
    ]


def claims_table(analysis: Analysis) -> Table:
    """The table of claims: the verdict on each, and the ratio of steps over all targets and at each target.

    A claim to be first has its own row and one for each rival.
    """
    targets = [f"{target:.4g}" for target in analysis.targets]
    named = [f"at {name}{' (exploratory)' if at in analysis.exploratory else ''}"
             for name, at in zip(targets, analysis.targets, strict=True)]  # fmt: skip
    rows = []
    for verdict in analysis.verdicts:
        claim = verdict.claim
        if verdict.word == NOT_TESTED or claim.first:
            rows.append([claim_title(claim), verdict.word, *[""] * (len(targets) + 2)])
        for one in verdict.headlines if verdict.word != NOT_TESTED else ():
            at = {found.target: format_paired_ratio(found, between="\n") for found in one.at}
            cells = [format_ratio(one.ratio, between="\n"), *(at.get(target, "-") for target in analysis.targets)]
            title = claim_title(replace(claim, baselines=(one.baseline,)))
            word = "" if claim.first else verdict.word
            rows.append([title, word, *cells, format_difference(one.ending, "\n")])
    return Table(
        ["claim", "verdict", "all targets", *named, f"{analysis.ended_on} {analysis.metric.title}, difference"],
        rows,
        caption="Ratio of the steps to the targets, with its interval; below 1: fewer steps. Over all targets, the "
        f"interval is that of the claim alone{_levels(analysis)}; at each target, it has Holm's correction over the "
        "targets.",
        left=("verdict",),
    )


def _levels(analysis: Analysis) -> str:
    """The levels of the claims' intervals, as a clause; empty without intervals."""
    levels = sorted({one.confidence for verdict in analysis.verdicts for one in verdict.headlines})
    if not levels:
        return ""
    ends = dict.fromkeys(format_level(level) for level in (levels[0], levels[-1]))
    together = f" (over all looks together {format_level(CONFIDENCE)})" if levels[-1] > CONFIDENCE else ""
    return f", at a level of {' to '.join(ends)}{together}"


def relative_rows(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of arms relative to the baseline.

    A cell holds the ratio of steps with its interval, the ratio of seconds unless they were disturbed, and the p-value
    of the log-rank test.
    """
    header = [
        "arm",
        *(f"steps to {target:.4g}" for target in analysis.targets),
        f"{analysis.ended_on} {analysis.metric.title}, difference",
    ]
    rows = []
    for found in analysis.relative:
        cells = []
        every_seconds = found.seconds or [None] * len(found.steps)
        for steps, seconds, p in zip(found.steps, every_seconds, found.logrank, strict=True):
            if steps.both_censored == steps.ratio.n:
                cells.append(format_paired_ratio(steps))
                continue
            in_seconds = "" if seconds is None else f"\nseconds {_ratio(seconds, interval=False)}"
            cells.append(f"{_ratio(steps)}{in_seconds}\nlog-rank p {p:.2g}")
        rows.append([found.arm, *cells, format_difference(found.ending)])
    return header, rows


def drift_rows(drift: DriftSummary | None, baseline: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of accuracies on clean and corrupted images, means over seeds and severities."""
    if drift is None:
        return [], []
    names = drift.corruptions
    header = ["arm", CLEAN, *(name.replace("_", " ") for name in names), f"corrupted, less {baseline}'s"]
    rows = []
    for found in drift.arms:
        less = format_difference(found.differences[CORRUPTED]) if CORRUPTED in found.differences else "-"
        rows.append([found.arm, *(_accuracy(found.accuracy[name]) for name in (CLEAN, *names)), less])
    return header, rows


def _accuracy(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def choices_table(results: Results, metric: Metric) -> Table:
    """The best trial of each arm and budget."""
    by_budget = any(choice.epochs is not None for choice in results.choices)
    header = ["arm", *(["epochs"] if by_budget else []), "factors of lr, weight decay", "lr, weight decay",
              f"validation {metric.title}", "trials"]  # fmt: skip
    rows = []
    for choice in results.choices:
        name = f"{choice.arm}{TUNED_SUFFIX}"
        runs = results.runs.items()
        tuned = next((result for run, result in runs if (run.arm, run.epochs) == (name, choice.epochs)), None)
        notes = [f"{choice.diverged} diverged"] if choice.diverged else []
        notes += [f"{edge} on the edge of the grid" for edge in choice.edges]
        rows.append([
            choice.arm,
            *([f"{choice.epochs:g}"] if by_budget else []),
            f"{choice.trial.learning_rate:g}, {choice.trial.weight_decay:g}",
            "-" if tuned is None else f"{tuned.learning_rate:g}, {tuned.weight_decay:g}",
            f"{choice.value:.4f}",
            f"{choice.trials}" + (f" ({', '.join(notes)})" if notes else ""),
        ])  # fmt: skip
    left = ("epochs", "factors of lr, weight decay", "lr, weight decay", "trials")
    return Table(header, rows, title="What the trials chose", left=left)


def trials_table(trials: Sequence[JudgedTrial], metric: Metric) -> Table:
    """Every finished trial at one budget; what was chosen is marked.

    Args:
        trials: The trials.
        metric: The metric.
    """
    repeated = any(one.seeds > 1 for one in trials)
    header = ["arm", "lr", "weight decay", *(["seeds"] if repeated else []), "steps to the targets",
              f"validation {metric.title}", "chosen"]  # fmt: skip
    rows = [
        [
            one.arm,
            f"{one.learning_rate:g}",
            f"{one.weight_decay:g}",
            *([f"{one.seeds}"] if repeated else []),
            "-" if one.steps is None else f"{one.steps:,.0f}",
            _last_value(one),
            "yes" if one.chosen else "",
        ]
        for one in trials
    ]
    over = "seeds and targets" if repeated else "the targets"
    caption = f"Steps: geometric mean over {over}; a target that was missed counts with the end of the trial"
    return Table(header, rows, title="Every trial", caption=caption, left=("chosen",))


def _last_value(trial: JudgedTrial) -> str:
    """Last value of a trial, or that it diverged."""
    if trial.value is not None:
        return f"{trial.value:.4f}"
    return "diverged" if trial.seeds == trial.diverged else f"{trial.diverged} of {trial.seeds} diverged"


def _time(target: TimeToTarget) -> str:
    """Median steps and seconds with their ranges, or the number of seeds that reached the target if not all did."""
    if target.reached == 0:
        return "not reached"
    if target.reached < target.seeds:
        reached = f"reached by {target.reached} of {target.seeds}"
        if math.isinf(target.steps):
            return reached
        return f"{target.steps:.0f}\n{target.seconds:.1f} s\n{reached}"
    if target.seeds == 1:
        return f"{target.steps:.0f}\n{target.seconds:.1f} s"
    (least, most), (short, long) = target.steps_range, target.seconds_range
    return f"{target.steps:.0f} ({least:.0f}-{most:.0f})\n{target.seconds:.1f} ({short:.1f}-{long:.1f}) s"


def _seeds(summary: ArmSummary) -> str:
    return f"{summary.seeds}{f', {summary.diverged} diverged' if summary.diverged else ''}"


def _mean_and_spread(summary: ArmSummary) -> str:
    if summary.diverged == summary.seeds:
        return "diverged"
    mean = f"{summary.test.estimate:.4f}"
    return mean if math.isnan(summary.test_std) else f"{mean} ± {summary.test_std:.4f}"


def _ratio(found: PairedRatio, *, interval: bool = True) -> str:
    if found.bound == "unknown":
        return "open"
    text = f"{'' if found.bound == 'exact' else f'{found.bound} '}{found.ratio.estimate:.2f}"
    return f"{text} ({format_ratio_interval(found)})" if interval else text
