"""The figure of a repair."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_critmom.experiments.repair.results import Repair
from hf_critmom.experiments.repair.verification import ClassChange
from hf_critmom.reporting.text import figure_text

FIXED, BROKEN, NET, NEUTRAL = "#0072B2", "#D55E00", "#1b1f24", "0.35"
"""Colours of Okabe and Ito (2008)."""


def repair_figure(repair: Repair, label_names: Sequence[str] = ()) -> Figure:
    """Fixed and broken items of every treatment, their net, and accuracy by class before and after the repair.

    How to read it: above, a bar to the right shows the items that a treatment fixed, one to the left (hatched) those
    that it broke, as means over the seeds; beside it, on its own axis, a ring shows the net for each seed and a diamond
    their mean. Below, a stroke marks a class's accuracy before the repair, an arrowhead that after it.

    Args:
        repair: The repair.
        label_names: Names of the classes, by index.
    """
    classes = repair.verification.classes[:20] if repair.verification else ()
    heights = [0.6 + 0.42 * len(repair.roles)] + ([0.6 + 0.24 * len(classes)] if classes else [])
    figure = Figure(figsize=(7.2, sum(heights) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=[3, 2])
    items, net = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    _draw_treatments(items, net, repair)
    if classes:
        _draw_classes(figure.add_subplot(grid[1, :]), classes, label_names)
    return figure


def _draw_treatments(items: Axes, net: Axes, repair: Repair) -> None:
    for place, treatments in enumerate(repair.roles.values()):
        found = [one.verification for one in treatments if one.verification]
        if not found:
            items.annotate("diverged", (0.0, place), (6, 0), textcoords="offset points", va="center", color="0.2")
            continue
        items.barh(place, _mean([one.fixed for one in found]), color=FIXED, height=0.6)
        items.barh(place, -_mean([one.broken for one in found]), color=BROKEN, height=0.6, hatch="///", edgecolor="w")
        net.plot([one.net for one in found], [place] * len(found), "o", color=NET, fillstyle="none", markersize=5)
        net.plot([_mean([one.net for one in found])], [place], "D", color=NET, markersize=6)
    roles = [figure_text(role) for role in repair.roles]
    for axes, labels in ((items, roles), (net, [""] * len(roles))):
        axes.axvline(0.0, color=NEUTRAL, linewidth=0.9)
        axes.set_yticks(range(len(roles)), labels)
        axes.set_ylim(len(roles) - 0.5, -0.5)
        axes.grid(alpha=0.25, axis="x")
        axes.set_axisbelow(True)
    items.set(xlabel="broken \N{LEFTWARDS ARROW} test items \N{RIGHTWARDS ARROW} fixed", title="Fixed and broken")
    net.set(xlabel="fixed minus broken", title="Net: every seed, and mean")
    net.margins(x=0.12)


def _draw_classes(axes: Axes, classes: Sequence[ClassChange], label_names: Sequence[str]) -> None:
    for place, change in enumerate(classes):
        before = change.right_before / change.items
        after = (change.right_before + change.fixed - change.broken) / change.items
        color = FIXED if after > before else BROKEN if after < before else NEUTRAL
        axes.plot([before, after], [place, place], color=color, linewidth=1.6)
        axes.plot([before], [place], "|", color=NEUTRAL, markersize=10)
        axes.plot(
            [after], [place], ">" if after > before else "<" if after < before else "o", color=color, markersize=6
        )
    axes.set_yticks(range(len(classes)), [figure_text(class_name(one.label, label_names)) for one in classes])
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy: stroke before, arrowhead after", title="Classes in the repaired model")
    axes.grid(alpha=0.25, axis="x")
    axes.margins(x=0.06)


def class_name(label: int, names: Sequence[str]) -> str:
    """Name of a class; its index if it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
