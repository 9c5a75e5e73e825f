"""Figures of a comparison: each function draws one and returns it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatter, NullFormatter

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.findings.tuning import tuned_quantity
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.experiments.comparison.statistics.drift import CLEAN, CORRUPTED, DriftSummary
from hf_critmom.experiments.comparison.statistics.ratios import PairedRatio
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.tuning import JudgedTrial
from hf_critmom.reporting.page import readable_color
from hf_critmom.reporting.text import figure_text
from hf_critmom.training.callbacks.damping import logged_ratio

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WIDTH = 7.2
"""Width of every figure in inches, that of a card's column."""
_LEGEND_SIZE = 10.0
"""Size of the names in a legend, in points."""


def metric_figure(analysis: Analysis, arms: Mapping[str, Arm]) -> Figure:
    """Validation metric over epochs.

    How to read it: a thin line is one seed, a thick line the median over an arm's seeds; dotted lines are the targets.
    An arm that crosses a target further left reached it in fewer epochs.

    Args:
        analysis: The analysis.
        arms: The arms, in order.
    """
    metric = analysis.metric
    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for index, arm in enumerate(arms.values()):
        if arm.name not in analysis.curves:
            continue
        curves = analysis.curves[arm.name]
        for curve in curves.seeds.values():
            axes.plot(curve.epochs, curve.values, color=_color(arm), alpha=0.3, linewidth=0.7)
        axes.plot(curves.median.epochs, curves.median.values, **_style(arm, index))
    for target in analysis.targets:
        axes.axhline(target, color="0.5", linestyle=":", linewidth=0.9)
        axes.annotate(f"{target:.4g}", (1.005, target), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    title = f"Validation {metric.title}: median and every seed"
    axes.set(xlabel="epoch", ylabel=f"validation {metric.title}", title=title)
    if not metric.greater_is_better and axes.dataLim.y0 > 0.0:  # a likelihood of densities may be negative
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 0.5)))
    axes.grid(alpha=0.25)
    if analysis.curves:
        _add_legend(figure, axes)
    return figure


def damping_figure(runs: Sequence[RunResult], arms: Mapping[str, Arm]) -> Figure:
    """Momentum and damping ratio over the optimizer's steps, for each arm's first seed (other seeds have the same).

    How to read it: above is the momentum of each step. Below is its damping ratio at a curvature of 1: the shaded part
    below 1 is underdamped (overshoots), the part above 1 overdamped (creeps), and the line between them critical. Arms
    whose ratio is another quantity (Adam's first moment, quasi-hyperbolic momentum) are not drawn there.

    Args:
        runs: Results of the runs.
        arms: The arms, in order.
    """
    figure = Figure(figsize=(_WIDTH, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    ratios: list[float] = []
    for index, arm in enumerate(arms.values()):
        log = next((run.training_log for run in runs if run.arm == arm.name), ())
        logged = [record for record in log if "momentum" in record]
        if not logged:
            continue
        style = _style(arm, index)
        upper.plot([record["step"] for record in logged], [record["momentum"] for record in logged], **style)
        comparable = [record for record in logged if arm.is_heavy_ball and "nu" not in record]
        damped = {record["step"]: ratio for record in comparable if (ratio := logged_ratio(record)) is not None}
        ratios += damped.values()
        lower.plot(list(damped), list(damped.values()), **style)
    upper.set(ylabel="momentum", title="What the optimizers used")
    lower.set(xlabel="step", ylabel="damping ratio at k = 1", yscale="log")
    lower.yaxis.set_major_formatter(LogFormatter())
    lower.yaxis.set_minor_formatter(LogFormatter())
    if ratios:
        low, high = min(min(ratios), 0.5) / 1.5, max(max(ratios), 2.0) * 1.5
        lower.set_ylim(low, high)
        lower.axhspan(low, 1.0, color="0.92", zorder=0)
        lower.axhline(1.0, color="0.4", linewidth=0.9, zorder=1)
        for word, place in (("underdamped", math.sqrt(low)), ("overdamped", math.sqrt(high))):  # halfway from 1
            where = {"xycoords": ("axes fraction", "data"), "va": "center", "rotation": 270}
            lower.annotate(word, (1.015, place), fontsize=9, **where)
    if upper.lines:
        _add_legend(figure, upper)
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    return figure


def curvature_figure(runs: Sequence[RunResult], arms: Mapping[str, Arm], batch_size: int) -> Figure:
    """Measured top curvature and gradient noise scale over the optimizer's steps, for each arm's first measured run.

    How to read it: above is the largest curvature of the training loss. Below is the gradient noise scale with its
    interval (an arrow if it has no upper end), and the batch size as a dashed line: if the noise scale is well above
    it, steps are mostly noise, and momentum can do little beyond its mean step.

    Args:
        runs: Results of the runs.
        arms: The arms, in order.
        batch_size: Examples of an optimizer step.
    """
    figure = Figure(figsize=(_WIDTH, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for index, arm in enumerate(arms.values()):
        records = next((run.curvature for run in sorted(runs, key=lambda run: run.seed) if _measured(run, arm)), ())
        steps = [record["step"] for record in records]
        tops = [record["curvature/top"] for record in records]
        upper.plot(steps, tops, **_style(arm, index), marker="o", markersize=3)
        for record in records:
            low, high = record.get("noise_scale_low"), record.get("noise_scale_high")
            if low is not None:
                top = low * 3.0 if high is None else high
                lower.plot([record["step"]] * 2, [low, top], color=_color(arm), linewidth=1.2)
                if high is None:
                    lower.plot([record["step"]], [top], color=_color(arm), marker="^", markersize=4)
            if (value := record.get("noise_scale")) is not None:
                lower.plot([record["step"]], [value], color=_color(arm), marker="o", markersize=4)
    positive = all((record["curvature/top"] or 0.0) > 0.0 for run in runs for record in run.curvature)
    upper.set(ylabel="top curvature", yscale="log" if positive else "linear", title="Measured while training")
    if positive:
        upper.yaxis.set_major_formatter(LogFormatter())
        upper.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 0.5)))
    lower.set(xlabel="step", ylabel="gradient noise scale, examples", yscale="log")
    lower.axhline(batch_size, color="0.4", linewidth=0.9, linestyle="--")
    lower.annotate("batch size", (1.005, batch_size), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    lower.yaxis.set_major_formatter(LogFormatter())
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    _add_legend(figure, upper)
    return figure


def reach_figure(analysis: Analysis, arms: Mapping[str, Arm]) -> Figure:
    """Share of runs that have reached each target, over steps: Kaplan-Meier curves.

    How to read it: there is one panel per target. An arm whose curve rises further left reached the target sooner; if
    its curve ends below 1, some of its seeds did not reach it. The right edge lies beyond the last evaluation, so that
    a jump there is visible.

    Args:
        analysis: The analysis.
        arms: The arms, in order.
    """
    targets, end = analysis.targets, analysis.steps
    columns = min(len(targets), 2)
    rows = math.ceil(len(targets) / columns)
    lines = math.ceil(len(arms) / _legend_columns([figure_text(name) for name in arms]))
    figure = Figure(figsize=(_WIDTH, 0.5 + 0.2 * lines + 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for place, (axes, target) in enumerate(zip(panels, targets, strict=False)):
        for index, arm in enumerate(arms.values()):
            if arm.name not in analysis.reach:
                continue
            curve = analysis.reach[arm.name][place]
            points = np.concatenate([curve.times, [end, 1.05 * end]])
            share = np.concatenate([curve.share, [curve.share[-1]] * 2])
            axes.step(points, share, where="post", **_style(arm, index))
        axes.set(title=f"{analysis.metric.title} {target:.4g}", ylim=(-0.04, 1.04), xlim=(0.0, 1.05 * end))
        axes.grid(alpha=0.25)
    for index, axes in enumerate(panels):
        axes.set_visible(index < len(targets))
        if index + columns >= len(targets):  # nothing visible below it
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step")
    figure.supylabel("share of seeds that reached it", fontsize=10)
    _add_legend(figure, panels[0])
    return figure


def speed_figure(analysis: Analysis, arms: Mapping[str, Arm]) -> Figure:
    """Steps to each target relative to the baseline's, with paired intervals.

    How to read it: an arm left of 1 took fewer steps than the baseline; an interval that crosses 1 leaves the question
    open. A ring is a bound (a run did not reach the target, or had reached it at its first evaluation), or stands for a
    ratio beyond the frame. An arrowhead at the frame means that the interval continues beyond it.

    Args:
        analysis: The analysis.
        arms: The arms, in order.
    """
    targets, relative = analysis.targets, {found.arm: found for found in analysis.relative}
    others = [arm for arm in arms.values() if arm.name in relative]
    rows = len(targets) * (len(others) + 1)
    figure = Figure(figsize=(_WIDTH, max(1.1 + 0.235 * rows, 2.2)), layout="constrained")
    axes = figure.add_subplot()
    found = [ratio for arm in others for ratio in relative[arm.name].steps]
    estimates = [ratio.ratio.estimate for ratio in found if ratio.bound != "unknown"]
    end = min(max([3.0, *(1.1 * max(estimate, 1.0 / estimate) for estimate in estimates)]), 12.0)
    labels: list[str] = []
    for group, target in enumerate(targets):
        exploratory = " (exploratory)" if target in analysis.exploratory else ""
        title = f"{analysis.metric.title} {target:.4g}{exploratory}"
        axes.text(0.008, len(labels), title, transform=axes.get_yaxis_transform(), va="center", fontsize=10,
                  fontweight="bold")  # fmt: skip
        labels.append("")
        for arm in others:
            _draw_ratio(axes, len(labels), relative[arm.name].steps[group], arm, end)
            labels.append(figure_text(arm.name))
    axes.axvline(1.0, color="0.3", linewidth=0.9, zorder=1)
    axes.set(xscale="log", xlim=(1.0 / end, end))
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 1 / 3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel(f"steps relative to {figure_text(analysis.baseline)} (left of 1: faster)", fontsize=10)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.set_ylim(len(labels) - 0.4, -0.7)
    axes.grid(alpha=0.25, axis="x")
    return figure


def drift_figure(drift: DriftSummary, baseline: str, arms: Mapping[str, Arm]) -> Figure | None:
    """Accuracy on corrupted test images minus the baseline's; None if no other arm was measured.

    How to read it: an arm right of 0 is more accurate than the baseline under that corruption; the line is the paired t
    interval over the seeds. An arm that lies as far right on the clean images is better, but not more robust.

    Args:
        drift: Summary of the drift at one budget.
        baseline: Name of the baseline.
        arms: The arms, in order.
    """
    measured = {found.arm: found.differences for found in drift.arms if found.differences}
    others = [arm for arm in arms.values() if arm.name in measured]
    if not others:
        return None
    kinds = {
        CLEAN: "clean",
        CORRUPTED: "all corruptions",
        **{name: name.replace("_", " ") for name in drift.corruptions},
    }
    figure = Figure(figsize=(_WIDTH, 1.2 + len(kinds) * (0.16 * len(others) + 0.14)), layout="constrained")
    axes = figure.add_subplot()
    spacing = 0.8 / len(others)
    for index, arm in enumerate(others):
        style: dict[str, Any] = {
            "color": _color(arm),
            "marker": _MARKERS[index % len(_MARKERS)],
            "label": figure_text(arm.name),
        }
        for row, kind in enumerate(kinds):
            found = measured[arm.name].get(kind)
            if found is None or math.isnan(found.estimate):
                continue
            at = row + spacing * (index - (len(others) - 1) / 2.0)
            axes.plot([found.estimate], [at], linestyle="none", markersize=5, zorder=3, **style)
            style.pop("label", None)
            if math.isfinite(found.low):
                axes.plot([found.low, found.high], [at, at], color=_color(arm), linewidth=1.4, zorder=2)
    for row in range(1, len(kinds)):
        axes.axhline(row - 0.5, color="0.85", linewidth=0.7, zorder=0)
    axes.axvline(0.0, color="0.3", linewidth=0.9, zorder=1)
    axes.set_yticks(range(len(kinds)), list(kinds.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    figure.supxlabel(f"test accuracy less {figure_text(baseline)}'s (right of 0: better)", fontsize=10)
    axes.grid(alpha=0.25, axis="x")
    _add_legend(figure, axes)
    return figure


def tuning_figure(trials: Sequence[JudgedTrial], metric: Metric, arms: Mapping[str, Arm]) -> Figure | None:
    """Last validation value of every trial over its learning rate; None where no arm has two values to compare.

    How to read it: an arm whose curve is flat hardly depends on its learning rate; a ring marks the chosen trial, which
    need not have the best last value, because the fewest steps to the targets decide. A ring at the end of a curve
    means that a better value may lie beyond the grid. Weight decay is drawn instead if only that was varied.

    Args:
        trials: The finished trials at one budget.
        metric: The metric.
        arms: The arms, in order.
    """
    along = tuned_quantity(trials)
    level = "weight_decay" if along == "learning_rate" else "learning_rate"
    drawn = [
        {"arm": one.arm, "at": getattr(one, along), "level": getattr(one, level), "value": one.value,
         "chosen": one.chosen}
        for one in trials
        if one.value is not None and one.arm in arms
    ]  # fmt: skip
    if len({(one["arm"], one["at"], one["level"]) for one in drawn}) == len({one["arm"] for one in drawn}):
        return None
    table = pd.DataFrame(drawn).sort_values("at")
    figure = Figure(figsize=(_WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for index, arm in enumerate(arm for arm in arms.values() if arm.name in set(table["arm"])):
        own = table[table["arm"] == arm.name]
        style = _style(arm, index) | {"marker": "o", "markersize": 4}
        for _, points in own.groupby("level"):
            axes.plot(points["at"], points["value"], **style)
            style.pop("label", None)
        best = own[own["chosen"]]
        axes.plot(best["at"], best["value"], color=_color(arm), marker="o", markersize=11, fillstyle="none",
                  linestyle="none", markeredgewidth=1.8)  # fmt: skip
    smallest = table["at"][table["at"] > 0.0].min()
    if along == "learning_rate":
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=smallest)  # it may be 0
    axes.set(
        xlabel=along.replace("_", " "),
        ylabel=f"validation {metric.title}",
        title=f"Last validation {metric.title} of every trial",
    )
    axes.grid(alpha=0.25)
    _add_legend(figure, axes)
    return figure


def _draw_ratio(axes: Axes, at: float, found: PairedRatio, arm: Arm, end: float) -> None:
    """Draws a ratio as a point, with its interval and an arrowhead on each side where that continues beyond the axis.

    Args:
        axes: The axes.
        at: The row.
        found: The ratio.
        arm: The arm.
        end: Upper limit of the axis; its reciprocal is the lower limit.
    """
    if found.bound == "unknown":
        text = "neither reached it" if found.both_censored == found.ratio.n else "open: not every seed reached it"
        text = text if found.ratio.n else "no seed in common"
        axes.text(1.03, at, text, va="center", fontsize=9, color="0.2", fontstyle="italic")
        return
    low, high, estimate = found.ratio.low, found.ratio.high, found.ratio.estimate
    low = estimate if low <= 0.0 and found.bound != "at most" else low
    high = estimate if math.isinf(high) and found.bound != "at least" else high
    ends = [min(max(side, 1.0 / end), end) for side in (low, high)]
    axes.plot(ends, [at, at], color=_color(arm), linewidth=1.8, linestyle=_dash(arm))
    head: dict[str, Any] = {"color": _color(arm), "markersize": 6, "clip_on": False, "linestyle": "none"}
    if low < ends[0]:
        axes.plot([1.0 / end], [at], marker="<", **head)
    if high > ends[1]:
        axes.plot([end], [at], marker=">", **head)
    place = min(max(estimate, 1.02 / end), 0.98 * end)
    inside = "full" if place == estimate and found.bound == "exact" else "none"
    axes.plot([place], [at], color=_color(arm), marker="o", markersize=5.5, fillstyle=inside, linestyle="none",
              markerfacecoloralt="white")  # fmt: skip


def _measured(run: RunResult, arm: Arm) -> bool:
    return run.arm == arm.name and bool(run.curvature)


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Adds the legend of some axes below a figure, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    columns = _legend_columns(names)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=_LEGEND_SIZE, frameon=False)


def _legend_columns(names: Sequence[str]) -> int:
    """The largest number of columns, four at most, in which a legend of these names fits the figure's width."""
    widths = [TextPath((0.0, 0.0), name, size=_LEGEND_SIZE).get_extents().width for name in names]
    besides = 5.0 * _LEGEND_SIZE  # a line and spaces
    for columns in (4, 3, 2):
        needed = sum(max(part, default=0.0) + besides for part in np.array_split(widths, columns))
        if needed <= 72.0 * _WIDTH:
            return columns
    return 1


def _color(arm: Arm) -> str:
    """Colour of an arm, which stands out from the white of a figure as on the page."""
    return readable_color(arm.color, "light")


def _dash(arm: Arm) -> str:
    return "-" if arm.base is None else "--"


def _style(arm: Arm, index: int) -> dict[str, Any]:
    """Style of an arm's curve: later arms are thinner and dashed, so that earlier ones stay visible beneath them."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": _color(arm),
        "linestyle": dashes[index % len(dashes)],
        "linewidth": max(2.8 - 0.3 * index, 1.4),
        "label": figure_text(arm.name),
    }
