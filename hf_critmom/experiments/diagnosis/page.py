"""The page of attributions, ``report.html``: findings, shares of the layer groups, heat maps, tables."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from hf_critmom.attribution.agreement import Agreement
from hf_critmom.experiments.diagnosis.figures import COLORS
from hf_critmom.experiments.diagnosis.results import Result, Results
from hf_critmom.experiments.diagnosis.tables import (
    agreement_by_chance,
    agreement_findings,
    agreement_table,
    display_name,
    label_table,
    ratios_explained,
    severity_table,
    study_findings,
    study_table,
    study_title,
    summary_table,
)
from hf_critmom.reporting.page import Chart, Control, Headline, Section, write_page
from hf_critmom.reporting.tables import Table

# YlGnBu of ColorBrewer, even in lightness; not as #rrggbb, which the page adapts to each colour scheme.
_HEAT = ("rgb(255, 255, 217)", "rgb(65, 182, 196)", "rgb(8, 29, 88)")


def write_attribution_page(folder: Path, found: Results, agreements: Mapping[str, Agreement]) -> None:
    """Writes ``report.html``.

    Args:
        folder: The attribution's folder.
        found: The stored attribution.
        agreements: Agreement of the checkpoints on the chosen examples and on each control, by name.
    """
    results, task = found.checkpoints, found.settings.task
    first = results[0].studies[0].attribution
    sections = []
    if agreements:
        table = agreement_table(agreements)
        sections.append(Section("Agreement between runs", [agreement_by_chance(agreements)], tables=[table]))
    sections.append(_shares_section(results))
    sections += [section for section in (_classes_section(results),) if section is not None]
    for result in results:
        tables = [study_table(result.label, result.studies[0])]
        tables += [severity_table(result.label, result.studies)] if len(result.studies) > 1 else []
        tables += [label_table(result, task.label_names)] if result.doubtful_labels else []
        title = f"{result.label}: {study_title(result.studies[0])}"
        sections.append(Section(title, study_findings(result) if len(results) > 1 else (), tables=tables))
    split = f"{found.settings.split}, {task.splits[found.settings.split].examples:,} examples"
    rows = [["data", " ".join([f"{task.source}; {split}.", *task.notes])],
            ["versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())]]  # fmt: skip
    how = (
        "The share of a group is its part of the squared norm of the mean gradient of the loss. Any gradient is "
        "largest where a network is wide and deep, so a share is a finding only as far as it exceeds that among "
        f"correctly classified {first.unit}. Intervals are bootstrap intervals over the {first.unit}. "
        f"{ratios_explained(results)}"
    )
    setup = Table(["what", "how it was measured"], rows, left=("how it was measured",))
    write_page(
        folder,
        title=f"Which layers the mistakes on {task.name} lie in",
        subtitle=", ".join(result.label for result in results),
        headlines=_headlines(results, agreements),
        sections=[*sections, Section("How it was measured", [how], tables=[setup], code=found.command)],
    )


def _headlines(results: Sequence[Result], agreements: Mapping[str, Agreement]) -> list[Headline]:
    """Headlines: whether the runs agree more than their controls, and the problem groups of each checkpoint."""
    said = []
    for found in agreement_findings(agreements) if agreements else ():
        tone = "good" if found.word == "agreement" else "open"
        said.append(Headline(found.word, tone, found.statement, found.sentence))
    for result in results:
        diagnosis = result.studies[0].diagnosis
        problem = diagnosis.problem
        label = result.label if len(results) > 1 else ""
        numbers = "" if len(results) > 1 else " ".join(study_findings(result))
        if problem is None:
            why = f": {diagnosis.reason}" if diagnosis.reason else " without controls"
            word, tone, statement = "cannot be told", "open", f"Problem groups cannot be told{why}."
        elif problem:
            groups = f"Problem group{'s' if len(problem) > 1 else ''}: {', '.join(problem)}."
            word, tone, statement = "found", "bad", groups
        else:
            word, tone, statement = "none found", "even", "No layer group stands out."
        said.append(Headline(word, tone, statement, numbers, (), label))
    return said


def _shares_section(results: Sequence[Result]) -> Section:
    """Shares of the groups with intervals, for one checkpoint at a time, and for all checkpoints as a heat map."""
    rows, kinds, groups = [], dict[str, None](), list(results[0].studies[0].attribution.groups)
    for result in results:
        for name, attribution in result.studies[0].attributions.items():
            kinds[display_name(name)] = None
            for group, one in attribution.groups.items():
                low, high = one.share_interval or (one.share, one.share)
                where = {"checkpoint": result.label, "examples": display_name(name), "group": group}
                rows.append({**where, "share": one.share, "low": low, "high": high})
    colors = dict(zip(kinds, [COLORS[place % len(COLORS)] for place in range(len(kinds))], strict=True))
    controls = [Control("kinds", "examples", {name: name for name in kinds}, multiple=True, colors=colors)]
    if len(results) > 1:
        controls.append(Control("checkpoint", "checkpoint", {one.label: one.label for one in results}))
    base = (
        alt.Chart(pd.DataFrame(rows))
        .transform_filter("indexof(kinds, datum.examples) >= 0 && datum.checkpoint == checkpoint")
        .encode(
            alt.Y("group:N").title(None).sort(groups).axis(labelLimit=150),
            alt.YOffset("examples:N").sort(list(kinds)),
            alt.Color("examples:N", scale=alt.Scale(domain=list(colors), range=list(colors.values()))).legend(None),
            tooltip=["examples:N", "group:N", *(alt.Tooltip(f"{name}:Q", format=".1%")
                                                for name in ("share", "low", "high"))],
        )
    )  # fmt: skip

    def at(name: str) -> alt.X:
        return alt.X(f"{name}:Q").title("share of the squared gradient norm").axis(format="%", tickCount=6)

    layers = alt.layer(
        base.mark_rule(strokeWidth=2).encode(at("low"), alt.X2("high:Q")),
        base.mark_point(filled=True, size=55, opacity=1).encode(at("share")),
    )
    height = (10 * max(len(kinds), 2) + 8) * len(groups)
    layers = layers.properties(width="container", height=height).add_params(
        alt.param(name="kinds", value=list(kinds)), alt.param(name="checkpoint", value=results[0].label)
    )
    charts = [Chart("shares", "Shares of the layer groups with their intervals, by kind of examples", layers.to_dict())]
    tables = []
    if len(results) > 1:
        cells = [{"column": one.label, "group": name, "share": group.share}
                 for one in results for name, group in one.studies[0].attribution.groups.items()]  # fmt: skip
        top = {one.label: one.studies[0].diagnosis.top for one in results}
        chart = _heat_map(cells, [one.label for one in results], groups, top, "checkpoint")
        description = "Shares of the layer groups by checkpoint, in percent; the largest of each checkpoint in bold"
        charts.append(Chart("checkpoints", description, chart.to_dict()))
        tables.append(summary_table(results))
    return Section("Shares of the layer groups", controls=controls, charts=charts, tables=tables)


def _classes_section(results: Sequence[Result]) -> Section | None:
    """Shares by class of the misclassified examples; None where there are no classes."""
    num_top = results[0].studies[0].num_top
    of_class = [(one, name, found) for one in results for name, found in one.studies[0].classes.items()]
    if not of_class:
        return None
    groups = list(results[0].studies[0].attribution.groups)
    cells = [{"checkpoint": one.label, "column": name, "group": group, "share": part.share,
              "top": group in found.ranked()[:num_top]}
             for one, name, found in of_class for group, part in found.groups.items()]  # fmt: skip
    names = list(dict.fromkeys(name for _, name, _ in of_class))
    chart = _heat_map(cells, names, groups, None, "class of the misclassified examples").add_params(
        alt.param(name="checkpoint", value=results[0].label)
    )
    description = "Shares of the layer groups by class, in percent; the largest of each class in bold"
    return Section("Classes", charts=[Chart("classes", description, chart.to_dict())])


def _heat_map(
    cells: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    groups: Sequence[str],
    top: Mapping[str, Collection[str]] | None,
    title: str,
) -> Any:
    """Shares as coloured cells with their percentages.

    Args:
        cells: Column, group and share of each cell; if ``top`` is None, also whether it is among the top groups, and
            the checkpoint, by which the page filters.
        columns: The columns, in order.
        groups: The rows, in order.
        top: Groups with the largest share, by column.
        title: Title of the columns' axis.
    """
    rows = [{"checkpoint": "", **cell, "top": cell["top"] if top is None else cell["group"] in top[cell["column"]]}
            for cell in cells]  # fmt: skip
    most = max(row["share"] for row in rows)
    base = alt.Chart(pd.DataFrame(rows)).encode(
        alt.X("column:N").title(title).sort(list(columns)).axis(labelAngle=-35, labelLimit=110, labelOverlap=False),
        alt.Y("group:N").title(None).sort(list(groups)).axis(labelLimit=150),
    )
    if top is None:
        base = base.transform_filter("datum.checkpoint == checkpoint")
    scale = alt.Scale(domain=[0.0, most], range=list(_HEAT))
    tooltip = ["column:N", "group:N", alt.Tooltip("share:Q", format=".1%")]
    number = base.transform_calculate(percent="format(100 * datum.share, '.0f')").encode(text="percent:N")
    ink = alt.condition(f"datum.share > {0.55 * most:g}", alt.value("white"), alt.value("black"))
    return alt.layer(
        base.mark_rect().encode(alt.Color("share:Q", scale=scale).legend(None), tooltip=tooltip),
        number.transform_filter("datum.top").mark_text(fontWeight="bold").encode(color=ink),
        number.transform_filter("!datum.top").mark_text().encode(color=ink),
    ).properties(width="container", height=26 * len(groups))
