"""The figure of a repair."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from hf_critmom.experiments.repair.results import Repair
from hf_critmom.reporting.text import figure_text

FIXED, BROKEN, NEUTRAL = "#0072B2", "#D55E00", "0.45"
"""Colours of Okabe and Ito (2008)."""


def repair_figure(repair: Repair, label_names: Sequence[str] = ()) -> Figure:
    """Fixed and broken items of every treatment, and accuracy by class before and after the repair.

    How to read it: above, a bar to the right is what a treatment fixed, to the left what it broke, mean over the seeds;
    the diamond is the net, a dot each seed's. Below, an arrow goes from a class's accuracy before to that after.

    Args:
        repair: The repair.
        label_names: Names of the classes, by index.
    """
    classes = repair.verification.classes[:20] if repair.verification else ()
    heights = [0.6 + 0.42 * len(repair.roles)] + ([0.6 + 0.24 * len(classes)] if classes else [])
    figure = Figure(figsize=(7.2, sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    upper = panels[0]
    labelled = False
    for place, treatments in enumerate(repair.roles.values()):
        found = [one.verification for one in treatments if one.verification]
        if not found:
            upper.annotate("diverged", (0.0, place), (6, 0), textcoords="offset points", va="center", color="0.3")
            continue
        fixed, broken, net = (None, None, None) if labelled else ("fixed", "broken", "net")
        labelled = True
        upper.barh(place, _mean([one.fixed for one in found]), color=FIXED, label=fixed)
        upper.barh(place, -_mean([one.broken for one in found]), color=BROKEN, label=broken)
        mean = [_mean([one.net for one in found])]
        upper.plot(mean, [place], "D", color="black", markersize=6, zorder=2, label=net)
        dots = {"color": "white", "markeredgecolor": "black", "markersize": 3.5, "markeredgewidth": 0.6, "zorder": 3}
        upper.plot([one.net for one in found], [place] * len(found), "o", **dots)
    upper.axvline(0.0, color=NEUTRAL, linewidth=0.9)
    upper.set_yticks(range(len(repair.roles)), [figure_text(role) for role in repair.roles])
    upper.set_ylim(len(repair.roles) - 0.5, -0.5)
    upper.set(xlabel="test items", title="Fixed and broken, by what was retrained")
    if labelled:
        figure.legend(frameon=False, ncols=3, fontsize=9, loc="outside lower center")
    if classes:
        lower = panels[1]
        for place, change in enumerate(classes):
            before = change.right_before / change.items
            after = (change.right_before + change.fixed - change.broken) / change.items
            color = FIXED if after > before else BROKEN if after < before else NEUTRAL
            arrow = {"arrowstyle": "->", "color": color, "linewidth": 1.6}
            lower.annotate("", (after, place), (before, place), arrowprops=arrow)
            lower.plot([before], [place], "|", color=NEUTRAL, markersize=9)
            lower.plot([after], [place], " ")  # annotations do not widen the axes
        names = [figure_text(class_name(change.label, label_names)) for change in classes]
        lower.set_yticks(range(len(classes)), names)
        lower.invert_yaxis()
        lower.set(xlabel="test accuracy, before to after", title="Classes in the repaired model")
        lower.grid(alpha=0.25, axis="x")
        lower.margins(x=0.08)
    return figure


def class_name(label: int, names: Sequence[str]) -> str:
    """Name of a class, or its index where it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
