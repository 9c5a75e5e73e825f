"""Charts of the page of a comparison, drawn with Altair (Vega-Lite), one by each function.

Every chart is as wide as its container, and follows the page's controls through parameters with their names: ``arms``,
``seeds``, ``axis``, ``metric``, ``shown`` and ``range``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.reporting.page import Chart, Control

WIDEST_RATIO = 8.0
"""Largest ratio that is drawn; its reciprocal is the smallest. Arrows stand for ratios beyond."""
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3))
"""Dash patterns of the arms' lines, in turn, so that arms differ not only in colour."""
MAX_POINTS = 200
"""Largest number of points of a line; more would fall on the same pixels of a chart 700 pixels wide."""
CHOSEN_ARMS = "indexof(arms, datum.arm) >= 0"

alt.data_transformers.disable_max_rows()


def colors_of(arms: Mapping[str, Arm]) -> dict[str, str]:
    """Colour of each arm."""
    return {name: arm.color for name, arm in arms.items()}


def dashes_of(arms: Mapping[str, Arm]) -> dict[str, tuple[int, ...]]:
    """Dash pattern of each arm."""
    return {name: DASHES[place % len(DASHES)] for place, name in enumerate(arms)}


def arm_color(arms: Mapping[str, Arm]) -> alt.Color:
    """The arms' colours, without a legend, because the check boxes of the curves are one."""
    colors = colors_of(arms)
    return alt.Color("arm:N", scale=alt.Scale(domain=list(colors), range=list(colors.values()))).legend(None)


def arm_dash(arms: Mapping[str, Arm]) -> alt.StrokeDash:
    """The arms' dash patterns."""
    dashes = dashes_of(arms)
    scale = alt.Scale(domain=list(dashes), range=[list(dash) for dash in dashes.values()])
    return alt.StrokeDash("arm:N", scale=scale).legend(None)


def parameter(control: Control) -> alt.Parameter:
    """The parameter that a control sets."""
    return alt.param(name=control.name, value=control.initial)


def page_chart(name: str, description: str, chart: Any, title: str = "") -> Chart:
    """An Altair chart in the form that the page takes."""
    return Chart(name, description, chart.to_dict(), title)


def evenly_spaced(items: Sequence[Any], max_items: int) -> list[Any]:
    """A limited number of evenly spaced items, with the first and the last among them.

    Example:
        >>> evenly_spaced([10, 20, 30, 40, 50], 3)
        [10, 30, 50]
    """
    if len(items) <= max_items:
        return list(items)
    return [items[round(place * (len(items) - 1) / (max_items - 1))] for place in range(max_items)]


def suffix(analysis: Analysis) -> str:
    """Suffix that distinguishes the names of one budget's charts from those of another's."""
    return "" if analysis.budget is None else f"-{analysis.budget:g}".replace(".", "-")


def metric_chart(
    curves: pd.DataFrame,
    targets: Sequence[float],
    metric: str,
    near: tuple[float, float],
    arms: Mapping[str, Arm],
    controls: Sequence[Control],
    rising: Sequence[str] = (),
) -> Any:
    """Validation curves: a thin line for each seed, a thick one for the median over seeds, dotted lines for targets.

    The median counts values that are not finite as the worst, and ends where it is one of these.

    Args:
        curves: Columns arm, seed (text), step, epoch and seconds, and one for each metric, None if it is not finite.
        targets: The targets.
        metric: Metric of the targets.
        near: Range of values that counts as near the targets.
        arms: The arms, in order.
        controls: The controls; the chart gets their parameters.
        rising: The metrics of which larger values are better.
    """
    low, high = near
    within = f"range == 'all' || metric != {metric!r} || (datum.value >= {low:g} && datum.value <= {high:g})"
    chosen = (
        alt.Chart(curves)
        .transform_calculate(x="datum[axis]", value="datum[metric]")
        .transform_filter(f"{CHOSEN_ARMS} && indexof(seeds, datum.seed) >= 0")
    )
    single = chosen.transform_filter("isValid(datum.value)").transform_filter(within)
    x = alt.X("x:Q").title(None)
    y = alt.Y("value:Q").title(None).scale(zero=False)
    tooltip = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("seed:N"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("epoch:Q", format=".3g"),
        alt.Tooltip("seconds:Q", format=".1f"),
        alt.Tooltip("value:Q", format=".4f"),
    ]
    color, dash = arm_color(arms), arm_dash(arms)
    seeds = single.transform_filter("shown != 'median'")
    each = seeds.mark_line(opacity=0.4, strokeWidth=1).encode(x, y, color, detail="seed:N")
    points = seeds.mark_point(opacity=0, size=90).encode(x, y, color, tooltip=tooltip)
    worst = f"(indexof({json.dumps(list(rising))}, metric) >= 0 ? -1e308 : 1e308)"
    medians = (
        chosen.transform_calculate(value=f"isValid(datum.value) ? datum.value : {worst}")
        .transform_aggregate(value="median(value)", x="median(x)", groupby=["arm", "step"])
        .transform_filter(f"abs(datum.value) < 1e300 && ({within})")
        .transform_filter("shown != 'seeds'")
    )
    median = medians.mark_line(strokeWidth=2.5).encode(x, y, color, dash, order="step:Q")
    median_tooltip = [tooltip[0], tooltip[2], alt.Tooltip("value:Q", title="median", format=".4f")]
    median_points = medians.mark_point(opacity=0, size=90).encode(x, y, color, tooltip=median_tooltip)
    rules = (
        alt.Chart(pd.DataFrame({"target": targets, "metric": metric}))
        .transform_filter("datum.metric == metric")
        .mark_rule(strokeDash=[3, 3], opacity=0.7)
        .encode(alt.Y("target:Q"), tooltip=[alt.Tooltip("target:Q", title="target", format=".4g")])
    )
    return (
        alt.layer(each, median, rules, median_points, points)
        .properties(width="container", height=360)
        .add_params(*map(parameter, controls))
    )


def steps_chart(
    rows: Sequence[Mapping[str, Any]],
    arms: Mapping[str, Arm],
    *,
    logarithmic: bool = False,
    level: float | None = None,
    share: bool = False,
    x_title: str = "optimizer steps",
    x_format: str = ",d",
    domain: tuple[float, float] | None = None,
    height: int = 170,
) -> Any:
    """A quantity over optimizer steps, with a line for each arm.

    Args:
        rows: Points with arm, step and value.
        arms: The arms, in order.
        logarithmic: Whether the y axis is logarithmic.
        level: Value at which a horizontal line is drawn; None for no line.
        share: Whether the quantity is a share, drawn as a step function from 0 % to 100 %.
        x_title: Title of the x axis.
        x_format: Number format of the x axis.
        domain: First and last step; None for those of the rows.
        height: Height in pixels.
    """
    kept = [row for row in rows if row["value"] is not None and (row["value"] > 0.0 or not logarithmic)]
    if not share:
        kept = [row for arm in arms for row in evenly_spaced([row for row in kept if row["arm"] == arm], MAX_POINTS)]
    y = alt.Y("value:Q").title(None)
    if share:
        y = y.axis(format="%", values=[0.0, 0.5, 1.0]).scale(domain=[-0.03, 1.03], nice=False)
    elif logarithmic:
        y = y.scale(type="log").axis(format=".3~g", values=[10.0**power for power in range(-9, 10)])
    tooltip: list[Any] = [
        "arm:N",
        alt.Tooltip("step:Q", format=x_format),
        alt.Tooltip("value:Q", format=".0%" if share else ".4g"),
    ]
    x = alt.X("step:Q").title(x_title)
    if domain is not None:
        x = x.scale(domain=list(domain), nice=False)
    base = (
        alt.Chart(pd.DataFrame(kept, columns=["arm", "step", "value"]))
        .transform_filter(CHOSEN_ARMS)
        .encode(x, y, arm_color(arms), tooltip=tooltip)
    )
    lines = base.mark_line(strokeWidth=2, interpolate="step-after" if share else "linear").encode(arm_dash(arms))
    layers = [lines, base.mark_point(opacity=0, size=60)]
    if level is not None:
        layers.append(alt.Chart(pd.DataFrame({"value": [level]})).mark_rule(strokeDash=[4, 3]).encode(y))
    chart = alt.layer(*layers).properties(width="container", height=height)
    return chart.add_params(alt.param(name="arms", value=list(arms)))


def ratios_chart(rows: Sequence[Mapping[str, Any]], title: str, colors: Mapping[str, str]) -> Any:
    """Ratios with their intervals, grouped under headings.

    Args:
        rows: In order: a heading has the key "heading"; a ratio has label, color (its key in `colors`), ratio, low,
            high, text, which is shown as a tooltip, or in place of a ratio that is NaN, and possibly "bound", True for
            a ring in place of a point.
        title: Title of the axis.
        colors: Colours by key.
    """
    drawn = [row for row in rows if "ratio" in row and math.isfinite(row["ratio"])]
    ends = [abs(math.log(value)) for row in drawn for value in (row["ratio"], row["low"], row["high"])
            if 0.0 < value < math.inf]  # fmt: skip
    widest = min(max(1.1 * math.exp(max(ends, default=0.0)), 1.5), WIDEST_RATIO)
    table = []
    for place, row in enumerate(rows):
        key = f"{place:03d} {row.get('label', '')}"
        if "heading" in row:
            table.append({"row": key, "heading": row["heading"]})
        elif not math.isfinite(row["ratio"]):
            table.append({"row": key, "note": row["text"]})
        else:
            low, ratio, high = (min(max(row[name], 1.0 / widest), widest) for name in ("low", "ratio", "high"))
            tooltip = {"color": row["color"], "label": row["label"], "text": row["text"], "bound": row.get("bound")}
            table.append({"row": key, "ratio": ratio, "low": low, "high": high, **tooltip,
                          "left": low if row["low"] < low else None,
                          "right": high if row["high"] > high else None})  # fmt: skip
    frame = pd.DataFrame(table).reindex(
        columns=["row", "heading", "note", "color", "label", "text", "bound", "ratio", "low", "high", "left", "right"]
    )
    keys = list(frame["row"])
    values = [value for value in (0.125, 0.25, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 4.0, 8.0)
              if 1.0 / widest <= value <= widest]  # fmt: skip
    scale = alt.Scale(type="log", domain=[1.0 / widest, widest], nice=False)
    axis = alt.Axis(values=values, format=".3~g", titleAnchor="start")
    labels = alt.Axis(labelExpr="slice(datum.label, 4)", ticks=False, domain=False, grid=False, labelLimit=130)
    scheme = alt.Scale(domain=list(colors), range=list(colors.values()))

    def at(column: str) -> alt.X:
        return alt.X(f"{column}:Q", scale=scale, axis=axis).title(title)

    base = alt.Chart(frame).encode(alt.Y("row:O", axis=labels, scale=alt.Scale(domain=keys)).title(None))
    ratios = base.transform_filter("isValid(datum.ratio)").encode(
        alt.Color("color:N", scale=scheme).legend(None),
        tooltip=[alt.Tooltip("label:N", title="at"), alt.Tooltip("text:N", title="ratio")],
    )
    arrows = [
        ratios.transform_filter(f"isValid(datum.{side})").mark_point(
            filled=True, shape=f"triangle-{side}", size=70, opacity=1
        ).encode(at(side))
        for side in ("left", "right")
    ]  # fmt: skip
    return alt.layer(
        alt.Chart(pd.DataFrame({"even": [1.0]})).mark_rule(strokeDash=[4, 3]).encode(at("even")),
        ratios.mark_rule(strokeWidth=3).encode(at("low"), x2="high:Q"),
        ratios.transform_filter("!datum.bound").mark_point(filled=True, size=75, opacity=1).encode(at("ratio")),
        ratios.transform_filter("datum.bound").mark_point(size=75, strokeWidth=2, opacity=1).encode(at("ratio")),
        *arrows,
        base.transform_filter("isValid(datum.note)")
        .mark_text(align="left", fontStyle="italic")
        .encode(x=alt.value(4), text="note:N"),
        base.transform_filter("isValid(datum.heading)")
        .mark_text(align="left", fontWeight="bold", limit=alt.ExprRef("width + 60"))
        .encode(x=alt.value(-56), text="heading:N"),
    ).properties(width="container", height=22 * len(keys))


def tuning_chart(rows: Sequence[Mapping[str, Any]], along: str, metric: str, arms: Mapping[str, Arm]) -> Any:
    """The metric of every trial over learning rate or weight decay, with a line for each arm.

    Args:
        rows: Trials with arm, learning_rate, weight_decay, value, and chosen, "yes" or empty.
        along: Quantity of the x axis: learning_rate or weight_decay.
        metric: Title of the values.
        arms: The arms, in order.
    """
    other = "weight_decay" if along == "learning_rate" else "learning_rate"
    smallest = min((row[along] for row in rows if row[along] > 0.0), default=1.0)
    scale = alt.Scale(type="log") if along == "learning_rate" else alt.Scale(type="symlog", constant=smallest)
    x = alt.X(f"{along}:Q", scale=scale).title(f"{along.replace('_', ' ')} (logarithmic)").axis(format=".3~g")
    y = alt.Y("value:Q").title(None).scale(zero=False)
    tooltip = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("learning_rate:Q", title="learning rate", format=".3~g"),
        alt.Tooltip("weight_decay:Q", title="weight decay", format=".3~g"),
        alt.Tooltip("value:Q", title=metric, format=".4f"),
        alt.Tooltip("chosen:N"),
    ]
    base = alt.Chart(pd.DataFrame(rows)).transform_filter(CHOSEN_ARMS).encode(x, y, arm_color(arms), tooltip=tooltip)
    chart = alt.layer(
        base.mark_line(strokeWidth=1.5).encode(arm_dash(arms), detail=f"{other}:N"),
        base.mark_point(filled=True, size=35, opacity=1),
        base.transform_filter("datum.chosen").mark_point(size=190, strokeWidth=2, opacity=1),
    )
    return chart.properties(width="container", height=220).add_params(alt.param(name="arms", value=list(arms)))


def drift_chart(rows: Sequence[Mapping[str, Any]], order: Sequence[str], baseline: str, arms: Mapping[str, Arm]) -> Any:
    """Accuracy on corrupted images minus the baseline's, with intervals, by corruption and arm.

    Args:
        rows: Differences with arm, corruption, difference, low and high.
        order: The corruptions, in order.
        baseline: Name of the baseline.
        arms: The arms, in order.
    """
    title = f"accuracy less {baseline}'s"
    base = (
        alt.Chart(pd.DataFrame(rows))
        .transform_filter(CHOSEN_ARMS)
        .encode(
            alt.Y("corruption:N").title(None).sort(list(order)).axis(labelLimit=120),
            alt.YOffset("arm:N").sort(list(arms)),
            arm_color(arms),
            tooltip=["arm:N", "corruption:N", *(alt.Tooltip(f"{name}:Q", format="+.4f")
                                                for name in ("difference", "low", "high"))],
        )
    )  # fmt: skip
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(strokeDash=[4, 3]).encode(alt.X("zero:Q").title(title))
    chart = alt.layer(
        zero,
        base.mark_rule(strokeWidth=2).encode(alt.X("low:Q").title(title), alt.X2("high:Q")),
        base.mark_point(filled=True, size=50, opacity=1).encode(alt.X("difference:Q").title(title)),
    )
    arms_drawn = max(len({row["arm"] for row in rows}), 2)
    height = (9 * arms_drawn + 8) * len({row["corruption"] for row in rows})
    return chart.properties(width="container", height=height).add_params(alt.param(name="arms", value=list(arms)))
