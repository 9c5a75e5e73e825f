"""Sections of the page of a comparison: its `Analysis` and its curves, to look at in a browser."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import pandas as pd

from hf_critmom.experiments.comparison.analysis import Analysis
from hf_critmom.experiments.comparison.arms import Arm
from hf_critmom.experiments.comparison.findings import BudgetFindings
from hf_critmom.experiments.comparison.momentum import HEADER, CurvatureSummary
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.report_tables import drift_rows, table_rows
from hf_critmom.experiments.comparison.sentences import headline_sentence
from hf_critmom.experiments.comparison.verdict import FASTER, NO_DIFFERENCE, NOT_TESTED, SLOWER
from hf_critmom.reporting.intervals import Interval
from hf_critmom.reporting.page import Chart, Control, Headline, Section
from hf_critmom.reporting.tables import Table

TONES = {FASTER: "good", SLOWER: "bad", NO_DIFFERENCE: "even"}
X_AXES = {"step": "optimizer steps", "epoch": "epochs", "seconds": "seconds of training"}
WIDEST_RATIO = 8.0
"""Ratios are drawn between the reciprocal of this and this; what lies beyond is drawn at the edge."""

alt.data_transformers.disable_max_rows()


def sections_of(found: BudgetFindings, table: pd.DataFrame) -> list[Section]:
    """Everything that the page shows of one budget.

    Args:
        found: What was found at the budget.
        table: The results table, of all budgets.
    """
    analysis, runs, arms = found.analysis, found.runs, found.arms
    rows = table if analysis.budget is None else table[table["budget"] == analysis.budget]
    results = Table(*table_rows(analysis.summaries, analysis.metric.title, analysis.ended_on))
    drift = Table(*drift_rows(analysis.drift, analysis.baseline))
    shown = [
        curves_section(analysis, rows, arms),
        claims_section(analysis, arms),
        reach_section(analysis, arms, results),
        damping_section(analysis, runs, arms),
        steps_section(found),
        curvature_section(analysis, runs, arms, found.curvature),
        drift_section(analysis, arms, drift),
    ]
    title = "" if analysis.budget is None else f", {analysis.budget:g} epochs"
    return [replace(section, title=f"{section.title}{title}") for section in shown if section is not None]


def headlines(analysis: Analysis) -> list[Headline]:
    """The headline of every claim; what was not tested comes last."""
    verdicts = sorted(analysis.verdicts, key=lambda one: one.word == NOT_TESTED)
    return [Headline(one.word, TONES.get(one.word, "open"), f"{headline_sentence(one)}.") for one in verdicts]


def curves_section(analysis: Analysis, table: pd.DataFrame, arms: Mapping[str, Arm]) -> Section:
    """Validation curves: arms and seeds toggled, axis and metric chosen.

    Args:
        analysis: The analysis.
        table: The results table, of one budget.
        arms: The arms, in order.
    """
    main = analysis.metric.name
    metrics = [main, *(name for name in ("accuracy", "loss", "perplexity", "bits_per_byte") if name in table)]
    metrics = list(dict.fromkeys(name for name in metrics if name in table and table[name].notna().any()))
    rows = table[(table["split"] == "validation") & table["arm"].isin(list(arms))]
    long = rows.melt(["arm", "seed", *X_AXES], metrics, var_name="metric", value_name="value").dropna()
    long = long[long["value"].map(math.isfinite).astype(bool)].assign(seed=lambda frame: frame["seed"].astype(str))
    targets = pd.DataFrame({"target": analysis.targets, "metric": main})
    seeds = sorted(long["seed"].unique(), key=int)
    color = _arm_color(arms)
    chosen = (
        alt.Chart(long)
        .transform_calculate(x="datum[axis]")
        .transform_filter("indexof(arms, datum.arm) >= 0 && indexof(seeds, datum.seed) >= 0")
        .transform_filter("datum.metric == metric")
    )
    x = alt.X("x:Q").title(None)
    y = alt.Y("value:Q").title(None).scale(zero=False)
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("seed:N"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("epoch:Q", format=".3g"),
        alt.Tooltip("value:Q", format=".4f"),
    ]
    each = chosen.mark_line(opacity=0.35, strokeWidth=1).encode(x, y, color, detail="seed:N")
    points = chosen.mark_point(opacity=0, size=90).encode(x, y, color, tooltip=told)
    median = (
        chosen.transform_aggregate(value="median(value)", x="median(x)", groupby=["arm", "step"])
        .mark_line(strokeWidth=2.5)
        .encode(alt.X("x:Q").title(None), y, color, order="step:Q")
    )
    lines = (
        alt.Chart(targets)
        .transform_filter("datum.metric == metric")
        .mark_rule(strokeDash=[3, 3], opacity=0.7)
        .encode(alt.Y("target:Q"), tooltip=[alt.Tooltip("target:Q", title="target", format=".4g")])
    )
    chart = (each + median + lines + points).properties(width="container", height=360)
    controls = [
        Control("arms", "arms", {name: name for name in arms}, several=True, colors=_colors(arms)),
        Control("seeds", "seeds", {seed: seed for seed in seeds}, several=True),
        Control("axis", "x axis", X_AXES),
        Control("metric", "metric", {name: name.replace("_", " ") for name in metrics}),
    ]
    chart = chart.add_params(*(_param(control) for control in controls))
    description = (
        f"Validation {analysis.metric.title} of every seed (thin) and the median over the seeds (thick), by arm; "
        "targets are dotted"
    )
    return Section("Curves", controls=controls, charts=[_chart(f"curves{_suffix(analysis)}", description, chart)])


def claims_section(analysis: Analysis, arms: Mapping[str, Arm]) -> Section | None:
    """Claims by targets: the intervals drawn, and a table of them. None where there is one arm only."""
    if not analysis.relative:
        return None
    names = ["all targets", *(f"{target:.4g}" for target in analysis.targets)]
    cells, rows = [], []
    for relative in analysis.relative:
        at = {f"{one.target:.4g}": one.ratio for one in relative.headline.at}
        ratios = {"all targets": relative.headline.ratio, **at}
        cells.append([relative.arm, *(_interval(ratios[name]) if name in ratios else "-" for name in names)])
        rows += [
            {
                **{"arm": relative.arm, "target": name, "ratio": _drawn(ratio.estimate), "even": 1.0},
                **{"low": _drawn(ratio.low), "high": _drawn(ratio.high), "interval": _interval(ratio)},
            }
            for name, ratio in ratios.items()
            if ratio.n and not math.isnan(ratio.estimate)
        ]
    table = Table(
        ["arm", *names],
        cells,
        title=f"Times to target relative to {analysis.baseline}",
        caption="Ratio of steps with its interval, paired over seeds; below 1 is faster",
    )
    charts = [_ratios_chart(rows, analysis, arms, names)] if rows else []
    return Section("Claims by target", charts=charts, tables=[table])


def _ratios_chart(
    rows: Sequence[Mapping[str, Any]], analysis: Analysis, arms: Mapping[str, Arm], names: Sequence[str]
) -> Chart:
    scale = alt.Scale(type="log", domain=[1.0 / WIDEST_RATIO, WIDEST_RATIO])
    axis = alt.Axis(values=[0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0], format=".3~g")
    title = f"steps relative to {analysis.baseline} (log scale; left of 1: faster)"

    def at(column: str) -> alt.X:
        return alt.X(f"{column}:Q", scale=scale, axis=axis).title(title)

    base = alt.Chart().encode(
        alt.Y("target:N").title(None).sort(list(names)),
        color=_arm_color(arms),
        tooltip=["arm:N", "target:N", alt.Tooltip("interval:N", title="ratio of steps")],
    )
    even = alt.Chart().mark_rule(strokeDash=[4, 3]).encode(at("even"))
    bars = base.mark_rule(strokeWidth=3).encode(at("low"), x2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(at("ratio"))
    arm = alt.Row("arm:N").title(None).sort(list(arms)).header(labelAngle=0, labelAlign="left")
    chart = alt.layer(even, bars, dots, data=pd.DataFrame(rows)).properties(width=430).facet(row=arm)
    description = f"Ratio of the steps to each target relative to {analysis.baseline}, with intervals, by arm"
    return _chart(f"ratios{_suffix(analysis)}", description, chart)


def reach_section(analysis: Analysis, arms: Mapping[str, Arm], results: Table) -> Section:
    """Time to target: the share of seeds that have arrived, and the table of results."""
    rows = [
        {"arm": arm, "target": f"{target:.4g}", "step": float(step), "share": float(share)}
        for arm, curves in analysis.reach.items()
        for target, curve in zip(analysis.targets, curves, strict=True)
        for step, share in zip([*curve.times, analysis.steps], [*curve.share, curve.share[-1]], strict=True)
    ]
    targets = [f"{target:.4g}" for target in analysis.targets]
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .transform_filter("indexof(arms, datum.arm) >= 0")
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            alt.X("step:Q").title("optimizer steps"),
            alt.Y("share:Q").title("share of seeds").axis(format="%").scale(domain=[0, 1]),
            _arm_color(arms),
            tooltip=["arm:N", "target:N", alt.Tooltip("step:Q", format=",d"), alt.Tooltip("share:Q", format=".0%")],
        )
        .properties(width=260, height=150)
        .facet(
            facet=alt.Facet("target:N").title("target").sort(targets),
            columns=3,
        )
        .add_params(alt.param(name="arms", value=list(arms)))
    )
    description = "Share of seeds that have reached each target, over optimizer steps, by arm"
    return Section("Time to target", charts=[_chart(f"reach{_suffix(analysis)}", description, chart)], tables=[results])


def damping_section(analysis: Analysis, runs: Sequence[RunResult], arms: Mapping[str, Arm]) -> Section | None:
    """Momentum, damping ratio and learning rate over the steps of each arm's first seed; None if none was logged."""
    shown = {"learning_rate": "learning rate", "momentum": "momentum", "damping_ratio": "damping ratio (at k = 1)"}
    rows = []
    for name, arm in arms.items():
        log: Sequence[Mapping[str, Any]] = next((run.training_log for run in runs if run.arm == name), ())
        for record in log:
            for key, label in shown.items():
                other = "adam" in arm.optimizer.lower() or "nu" in record  # another ratio, not comparable
                if isinstance(record.get(key), (int, float)) and not (key == "damping_ratio" and other):
                    rows.append({"arm": name, "step": record["step"], "quantity": label, "value": record[key]})
    if not rows:
        return None
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .transform_filter("indexof(arms, datum.arm) >= 0")
        .mark_line(strokeWidth=2)
        .encode(
            alt.X("step:Q").title("optimizer steps"),
            alt.Y("value:Q").title(None),
            _arm_color(arms),
            tooltip=["arm:N", alt.Tooltip("step:Q", format=",d"), "quantity:N", alt.Tooltip("value:Q", format=".4g")],
        )
        .properties(width=260, height=170)
        .facet(facet=alt.Facet("quantity:N").title(None).sort(list(shown.values())), columns=3)
        .resolve_scale(y="independent")
        .add_params(alt.param(name="arms", value=list(arms)))
    )
    description = "Learning rate, momentum and damping ratio over optimizer steps, of each arm's first seed"
    return Section("Schedules", charts=[_chart(f"schedules{_suffix(analysis)}", description, chart)])


def steps_section(found: BudgetFindings) -> Section | None:
    """What the steps of the arms are like beside one another; None where nothing is known of them, or there is one."""
    table = found.steps.table()
    if not table or len(found.arms) < 2:
        return None
    caveat = found.steps.caveat()
    told = [f"{caveat} At the same learning rate and weight decay a difference can come from either alone."]
    return Section("Size of the steps", paragraphs=told if caveat else [], tables=[replace(table, title="")])


def curvature_section(
    analysis: Analysis, runs: Sequence[RunResult], arms: Mapping[str, Arm], curvature: CurvatureSummary | None
) -> Section | None:
    """Measured curvature, damping and gradient noise over the steps; None where nothing was measured.

    Args:
        analysis: The analysis.
        runs: The results of the runs, of one budget.
        arms: The arms, in order.
        curvature: What was measured.
    """
    if curvature is None:
        return None
    shown = {
        "curvature/top": "top curvature",
        "curvature/top_damping_ratio": "measured damping ratio at it",
        "noise_scale_low": "gradient noise scale, at least",
    }
    rows = [
        {"arm": one.arm, "step": record["step"], "quantity": label, "value": record[key]}
        for one in curvature.arms
        for run in runs
        if (run.arm, run.seed) == (one.arm, one.seed)
        for record in run.curvature
        for key, label in shown.items()
        if isinstance(record.get(key), (int, float))
    ]
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .transform_filter("indexof(arms, datum.arm) >= 0")
        .mark_line(strokeWidth=2, point=True)
        .encode(
            alt.X("step:Q").title("optimizer steps"),
            alt.Y("value:Q").title(None),
            _arm_color(arms),
            tooltip=["arm:N", alt.Tooltip("step:Q", format=",d"), "quantity:N", alt.Tooltip("value:Q", format=".4g")],
        )
        .properties(width=260, height=170)
        .facet(facet=alt.Facet("quantity:N").title(None).sort(list(shown.values())), columns=3)
        .resolve_scale(y="independent")
        .add_params(alt.param(name="arms", value=list(arms)))
    )
    description = "Measured top curvature, damping ratio at it and lower bound of the gradient noise scale, by arm"
    table = Table(
        HEADER,
        [one.cells() for one in curvature.arms],
        caption=f"Ranges over the points that were measured; the batch size is {curvature.batch_size} examples",
    )
    return Section(
        "Can momentum matter here?",
        paragraphs=[curvature.sentence] if curvature.sentence else [],
        charts=[_chart(f"curvature{_suffix(analysis)}", description, chart)],
        tables=[table],
    )


def drift_section(analysis: Analysis, arms: Mapping[str, Arm], table: Table) -> Section | None:
    """Accuracy on corrupted images as difference from the baseline; None where it was not measured."""
    if analysis.drift is None:
        return None
    base = next((one for one in analysis.drift.arms if one.arm == analysis.baseline), None)
    rows = [
        {"arm": one.arm, "corruption": name.replace("_", " "), "difference": one.accuracy[name] - base.accuracy[name]}
        for one in analysis.drift.arms
        for name in one.accuracy
        if base is not None and one.arm != analysis.baseline and name in base.accuracy
    ]
    charts = []
    if rows:
        chart = (
            alt.Chart(pd.DataFrame(rows))
            .mark_point(filled=True, size=80, opacity=0.9)
            .encode(
                alt.X("difference:Q").title(f"accuracy less {analysis.baseline}'s"),
                alt.Y("corruption:N").title(None),
                _arm_color(arms),
                tooltip=["arm:N", "corruption:N", alt.Tooltip("difference:Q", format="+.4f")],
            )
            .properties(width="container", height=24 * len({row["corruption"] for row in rows}) + 20)
        )
        charts.append(
            _chart(
                f"drift{_suffix(analysis)}",
                f"Test accuracy on corrupted images, less that of {analysis.baseline}",
                chart,
            )
        )
    return Section("Corrupted images", charts=charts, tables=[table])


def _drawn(ratio: float) -> float:
    """A ratio at the place where it is drawn."""
    return min(max(ratio, 1.0 / WIDEST_RATIO), WIDEST_RATIO)


def _interval(ratio: Interval) -> str:
    """A ratio with its interval, whose open ends are said in words."""
    if math.isnan(ratio.estimate):
        return "-"
    bounded_below, bounded_above = ratio.low > 0.0, not math.isinf(ratio.high)
    if bounded_below and bounded_above:
        return f"{ratio.estimate:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
    if bounded_below:
        return f"{ratio.estimate:.2f} (at least {ratio.low:.2f})"
    return f"{ratio.estimate:.2f} " + (f"(up to {ratio.high:.2f})" if bounded_above else "(no interval)")


def _suffix(analysis: Analysis) -> str:
    """What tells the charts of one budget from those of another."""
    return "" if analysis.budget is None else f"-{analysis.budget:g}".replace(".", "-")


def _colors(arms: Mapping[str, Arm]) -> dict[str, str]:
    return {name: arm.color for name, arm in arms.items()}


def _arm_color(arms: Mapping[str, Arm]) -> alt.Color:
    """The arms' colours; the check boxes of the curves are their legend."""
    colors = _colors(arms)
    return alt.Color("arm:N", scale=alt.Scale(domain=list(colors), range=list(colors.values()))).legend(None)


def _param(control: Control) -> alt.Parameter:
    return alt.param(name=control.name, value=control.initial)


def _chart(name: str, description: str, chart: Any) -> Chart:
    return Chart(name, description, chart.to_dict())
