"""Sections of the page of a comparison, from its `Analysis`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.findings.findings import BudgetFindings, Findings
from hf_critmom.experiments.comparison.findings.momentum import HEADER, CurvatureSummary
from hf_critmom.experiments.comparison.findings.sentences import (
    explanations,
    format_paired_ratio,
    format_ratio,
    headline_parts,
)
from hf_critmom.experiments.comparison.findings.tuning import describe_tuning, tuned_quantity
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.rendering.page_charts import (
    colors_of,
    drift_chart,
    page_chart,
    ratios_chart,
    steps_chart,
    suffix,
    tuning_chart,
)
from hf_critmom.experiments.comparison.rendering.page_curves import MAX_EVALUATIONS, curves_section
from hf_critmom.experiments.comparison.rendering.tables import (
    choices_table,
    claims_table,
    drift_rows,
    table_rows,
    trials_table,
)
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.experiments.comparison.statistics.claims import claim_title
from hf_critmom.experiments.comparison.statistics.drift import CLEAN, CORRUPTED
from hf_critmom.experiments.comparison.statistics.verdict import FASTER, NO_DIFFERENCE, NOT_TESTED, SLOWER, Verdict
from hf_critmom.reporting.page import Headline, Section
from hf_critmom.reporting.tables import Table
from hf_critmom.training.callbacks.damping import logged_ratio

TONES = {FASTER: "good", SLOWER: "bad", NO_DIFFERENCE: "even"}


def sections_of(found: BudgetFindings, table: pd.DataFrame, *, share: float = 1.0) -> list[Section]:
    """The sections of one budget.

    Args:
        found: The findings at the budget.
        table: The table of results of all budgets.
        share: Share of the page's `MAX_EVALUATIONS` that the budget may take.
    """
    analysis, runs, arms = found.analysis, found.runs, found.arms
    rows = table if analysis.budget is None else table[table["budget"] == analysis.budget]
    results = Table(*table_rows(analysis.summaries, analysis.metric.title, analysis.ended_on))
    drift = Table(*drift_rows(analysis.drift, analysis.baseline))
    shown = [
        curves_section(analysis, rows, arms, most=int(share * MAX_EVALUATIONS)),
        claims_section(analysis, arms),
        reach_section(analysis, arms, results),
        damping_section(analysis, runs, arms),
        steps_section(found),
        curvature_section(analysis, runs, arms, found.curvature),
        drift_section(analysis, arms, drift),
    ]
    title = "" if analysis.budget is None else f", {analysis.budget:g} epochs"
    return [replace(section, title=f"{section.title}{title}") for section in shown if section is not None]


def headlines(analysis: Analysis, label: str = "") -> list[Headline]:
    """The headline of every claim; claims that were not tested come last.

    Args:
        analysis: The analysis.
        label: Label of the headlines on a page about several comparisons.
    """
    found = []
    for verdict in sorted(analysis.verdicts, key=lambda one: one.word == NOT_TESTED):
        statement, numbers = headline_parts(verdict, analysis.outcome)
        reasons = explanations(verdict, analysis.metric)
        tone = TONES.get(verdict.word, "open")
        numbers = numbers and f"{numbers[:1].upper()}{numbers[1:]}."
        found.append(Headline(verdict.word, tone, f"{statement}.", numbers, reasons, label))
    return found


def claims_section(analysis: Analysis, arms: Mapping[str, Arm]) -> Section | None:
    """Chart and table of the ratios of each claim, by target; None if no claim was tested."""
    tested = [verdict for verdict in analysis.verdicts if verdict.word != NOT_TESTED]
    if not tested:
        return None
    rows = [row for verdict in tested for row in _claim_rows(verdict)]
    description = (
        "Ratio of the steps to each target with its interval, by claim; a ring is a bound, and an arrow goes on beyond "
        "the frame"
    )
    title = "times the steps (logarithmic; left of 1: faster)"
    chart = page_chart(f"ratios{suffix(analysis)}", description, ratios_chart(rows, title, colors_of(arms)))
    return Section("Claims by target", charts=[chart], tables=[claims_table(analysis)])


def _claim_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """Rows of `ratios_chart` for one claim: over all targets and at each target, or against every rival."""
    rows: list[dict[str, Any]] = [{"heading": f"{claim_title(verdict.claim)}: {verdict.word}"}]
    for one in verdict.headlines:
        label = one.baseline if verdict.claim.first else "all targets"
        ends = {"ratio": one.ratio.estimate, "low": one.ratio.low, "high": one.ratio.high}
        rows.append({"label": label, "color": one.arm, "text": format_ratio(one.ratio), **ends})
        if verdict.claim.first:
            continue
        for at in one.at:
            ratio = math.nan if at.bound == "unknown" else at.ratio.estimate
            ends = {"ratio": ratio, "low": at.ratio.low, "high": at.ratio.high}
            shown = {"color": one.arm, "text": format_paired_ratio(at), "bound": at.bound != "exact"}
            rows.append({"label": f"{at.target:.4g}", **shown, **ends})
    return rows


def reach_section(analysis: Analysis, arms: Mapping[str, Arm], results: Table) -> Section:
    """Time to target: charts of the share of seeds that have reached each target, and the table of results."""
    charts = []
    for place, target in enumerate(analysis.targets):
        rows = [
            {"arm": arm, "step": float(step), "value": float(share)}
            for arm, curves in analysis.reach.items()
            for step, share in zip(
                [*curves[place].times, analysis.steps], [*curves[place].share, curves[place].share[-1]], strict=True
            )
        ]
        name = f"{analysis.metric.title} {target:.4g}"
        description = f"Share of seeds that have reached {name}, over optimizer steps, by arm"
        chart = steps_chart(rows, arms, share=True)
        charts.append(page_chart(f"reach-{place}{suffix(analysis)}", description, chart, name))
    caption = "Share of seeds that have reached each target, over optimizer steps, by arm"
    return Section("Time to target", charts=charts, caption=caption, tables=[results])


def damping_section(analysis: Analysis, runs: Sequence[RunResult], arms: Mapping[str, Arm]) -> Section | None:
    """Charts of learning rate, momentum and damping ratio in the run of each arm's first seed; None without logs."""
    shown = {"learning_rate": "learning rate", "momentum": "momentum", "damping_ratio": "damping ratio (at k = 1)"}
    charts = []
    for key, label in shown.items():
        rows = []
        for name, arm in arms.items():
            log: Sequence[Mapping[str, Any]] = next((run.training_log for run in runs if run.arm == name), ())
            for record in log:
                value = record.get(key)
                if key == "damping_ratio":  # those of other than heavy balls are not comparable
                    value = logged_ratio(record) if arm.is_heavy_ball and "nu" not in record else None
                if isinstance(value, (int, float)):
                    rows.append({"arm": name, "step": record["step"], "value": value})
        if rows:
            ratio = key == "damping_ratio"
            chart = steps_chart(rows, arms, logarithmic=ratio, level=1.0 if ratio else None)
            name = f"{key.replace('_', '-')}{suffix(analysis)}"
            charts.append(page_chart(name, f"{label} over optimizer steps, of each arm's first seed", chart, label))
    caption = (
        "Over optimizer steps, of each arm's first seed. A damping ratio below 1 is underdamped (it oscillates), above "
        "1 overdamped (it creeps); that of Adam's first moment is another quantity, and is not drawn."
    )
    return Section("Schedules", charts=charts, caption=caption) if charts else None


def steps_section(found: BudgetFindings) -> Section | None:
    """Table of the arms' steps relative to one another; None if they are not known, or there is only one arm."""
    table = found.steps.table()
    if not table or len(found.arms) < 2:
        return None
    caveat = found.steps.caveat()
    paragraphs = [f"{caveat} At the same learning rate and weight decay a difference can come from either alone."]
    return Section("Size of the steps", paragraphs=paragraphs if caveat else [], tables=[replace(table, title="")])


def curvature_section(
    analysis: Analysis, runs: Sequence[RunResult], arms: Mapping[str, Arm], curvature: CurvatureSummary | None
) -> Section | None:
    """Charts and table of measured curvature, damping and gradient noise; None if they were not measured.

    Args:
        analysis: The analysis.
        runs: Results of the runs at one budget.
        arms: The arms, in order.
        curvature: Summary of the measurements.
    """
    if curvature is None:
        return None
    shown = {
        "curvature/top": "top curvature",
        "curvature/top_damping_ratio": "measured damping ratio at it",
        "noise_scale_low": "gradient noise scale, at least",
    }
    charts = []
    for key, label in shown.items():
        rows = [
            {"arm": one.arm, "step": record["step"], "value": record[key]}
            for one in curvature.arms
            for run in runs
            if (run.arm, run.seed) == (one.arm, one.seed)
            for record in run.curvature
            if isinstance(record.get(key), (int, float))
        ]
        if rows:
            name = f"{key.split('/')[-1].replace('_', '-')}{suffix(analysis)}"
            charts.append(page_chart(name, f"{label} over optimizer steps, by arm", steps_chart(rows, arms), label))
    table = Table(
        HEADER,
        [one.cells() for one in curvature.arms],
        caption=f"Ranges over the points that were measured; the batch size is {curvature.batch_size} examples",
    )
    paragraphs = [curvature.sentence] if curvature.sentence else []
    caption = "Measured at a few points of each listed arm's run with its first seed"
    return Section("Can momentum matter here?", paragraphs=paragraphs, charts=charts, caption=caption, tables=[table])


def tuning_section(found: Findings) -> Section | None:
    """What the tuning was and chose, with a chart and a table of every trial; None where nothing was chosen."""
    results = found.results
    if not results.choices:
        return None
    charts, tables = [], []
    for budget in found.budgets:
        analysis, trials = budget.analysis, budget.trials
        rows = [
            {
                **{name: getattr(one, name) for name in ("arm", "learning_rate", "weight_decay", "value")},
                "chosen": "yes" if one.chosen else "",
            }
            for one in trials
            if one.value is not None
        ]
        at = "" if analysis.budget is None else f", {analysis.budget:g} epochs"
        tables.append(trials_table(trials, analysis.metric))
        if rows:
            along = tuned_quantity(trials)
            title = f"validation {analysis.metric.title}{at}"
            description = (
                f"Last validation {analysis.metric.title} of every trial over its {along.replace('_', ' ')}, by arm{at}"
            )
            chart = tuning_chart(rows, along, analysis.metric.title, budget.arms)
            charts.append(page_chart(f"tuning{suffix(analysis)}", description, chart, title))
    return Section(
        "Tuning",
        paragraphs=[" ".join(describe_tuning(found.plan, results.choices))],
        charts=charts,
        caption="Last validation value of every trial, by arm; a ring marks what was chosen. Trials that diverged are "
        "only in the table.",
        tables=[choices_table(results, found.budgets[0].analysis.metric), *tables],
    )


def drift_section(analysis: Analysis, arms: Mapping[str, Arm], table: Table) -> Section | None:
    """Chart and table of accuracy on corrupted images minus the baseline's; None if it was not measured."""
    if analysis.drift is None:
        return None
    order = [CLEAN, CORRUPTED, *analysis.drift.corruptions]
    rows = []
    for one in analysis.drift.arms:
        for name in order:
            if (found := one.differences.get(name)) is None or not found.n:
                continue
            low, high = (found.low, found.high) if math.isfinite(found.low) else (found.estimate, found.estimate)
            ends = {"difference": found.estimate, "low": low, "high": high}
            rows.append({"arm": one.arm, "corruption": _corruption(name), **ends})
    charts = []
    if rows:
        description = f"Test accuracy on corrupted images, less that of {analysis.baseline}, with paired t intervals"
        chart = drift_chart(rows, [_corruption(name) for name in order], analysis.baseline, arms)
        charts.append(page_chart(f"drift{suffix(analysis)}", description, chart))
    return Section("Corrupted images", charts=charts, tables=[table])


def _corruption(name: str) -> str:
    return "all corruptions" if name == CORRUPTED else name.replace("_", " ")
