"""Figures of attributions."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hf_critmom.attribution.results import Attribution
from hf_critmom.experiments.diagnosis.results import Result
from hf_critmom.experiments.diagnosis.tables import display_name, study_title
from hf_critmom.reporting.text import figure_text

COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # colour-blind safe: Okabe and Ito (2008)
_MARKERS = ("o", "s", "^", "D")
_COLOR_MAP = "cividis"  # even in lightness, and the same to the colour-blind (Nunez et al., 2018)


def result_figures(result: Result) -> dict[str, tuple[str, Figure]]:
    """The figures of one checkpoint, by kind, each with its caption."""
    first = result.studies[0]
    named = {display_name(name): found for name, found in first.attributions.items()}
    drawn = {
        "shares": (
            "Shares of the layer groups with their intervals",
            shares_figure(named, title=f"{result.label}: {study_title(first)}"),
        )
    }
    if first.classes:
        figure = heat_map(
            [f"{name} ({found.selected})" for name, found in first.classes.items()],
            [found.shares for found in first.classes.values()],
            title=f"{result.label}: misclassified examples of each class",
            label="class (misclassified examples)",
            top=[found.ranked()[: first.num_top] for found in first.classes.values()],
        )
        drawn["classes"] = ("Shares of the layer groups by class", figure)
    if len(result.studies) > 1:
        corruption, diagnoses = result.studies[-1].corruption, [study.diagnosis for study in result.studies]
        figure = heat_map(
            [f"{study.severity}" if study.severity else "clean" for study in result.studies],
            [study.attribution.shares for study in result.studies],
            title=f"{result.label}: {corruption}",
            label="severity",
            top=[diagnosis.top for diagnosis in diagnoses],
            problem=[diagnosis.problem or () for diagnosis in diagnoses],
        )
        drawn["severity"] = (f"Shares and problem groups by severity of {corruption}", figure)
    if len(result.history) > 1:
        figure = heat_map(
            [f"{epoch:.3g}" for epoch, _ in result.epochs],
            [found.shares for _, found in result.epochs],
            title=f"{result.label}: evaluations while training",
            label="epoch",
            top=[found.ranked()[: first.num_top] for _, found in result.epochs],
        )
        drawn["epochs"] = ("Shares of the layer groups over training", figure)
    return drawn


def checkpoints_figure(results: Sequence[Result]) -> Figure:
    """Heat map of the shares of the layer groups, with a column for each checkpoint."""
    studies = [result.studies[0] for result in results]
    return heat_map(
        [result.label for result in results],
        [study.attribution.shares for study in studies],
        title=f"Gradient of {display_name(studies[0].attribution.select)} examples, by checkpoint",
        label="checkpoint",
        top=[study.diagnosis.top for study in studies],
        problem=[study.diagnosis.problem or () for study in studies],
    )


def shares_figure(attributions: Mapping[str, Attribution], *, title: str) -> Figure:
    """Share of each layer group in several attributions.

    How to read it: a point is the group's share of the squared gradient norm, a line its bootstrap interval (which is
    not centred, because it is corrected for the noise of finitely many examples). A group has to do with mistakes only
    if misclassified examples lie apart from correctly classified ones.
    """
    first = next(iter(attributions.values()))
    names = list(first.groups)
    figure = Figure(figsize=(7.2, max(2.6, 0.42 * len(names) + 1.3)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(names))
    step = 0.5 / max(len(attributions), 2)
    for index, (label, attribution) in enumerate(attributions.items()):
        place = rows + step * (index - (len(attributions) - 1) / 2.0)
        style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "marker": _MARKERS[index % len(_MARKERS)]}
        axes.plot(
            [attribution.groups[name].share for name in names],
            place,
            linestyle="",
            label=figure_text(label),
            clip_on=False,
            **style,
        )
        for row, name in zip(place, names, strict=True):
            if (interval := attribution.groups[name].share_interval) is not None:
                axes.plot(interval, (row, row), color=style["color"], linewidth=1.4)
    axes.axvline(1.0 / len(names), color="0.5", linestyle=":", linewidth=0.9)
    where = (1.0 / len(names), 0.01)
    axes.annotate(" average share", where, xycoords=("data", "axes fraction"), fontsize=8, color="0.3")
    axes.set_yticks(rows, [figure_text(name) for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="share of the squared gradient norm", xlim=(0.0, None), title=figure_text(title))
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def heat_map(
    columns: Sequence[str],
    shares: Sequence[Mapping[str, float]],
    *,
    title: str,
    label: str,
    top: Sequence[Collection[str]],
    problem: Sequence[Collection[str]] = (),
) -> Figure:
    """Heat map of the shares of the layer groups, with a column for each class, epoch, severity or run.

    How to read it: each column adds up to 100 %. Framed cells are the column's groups with the largest share; a star
    marks a problem group, whose share is larger among misclassified examples than among correctly classified ones.

    Args:
        columns: Names of the columns.
        shares: Share of each group, for each column.
        title: Title of the figure.
        label: Label of the columns' axis.
        top: Groups to frame, for each column.
        problem: Groups to mark with a star, for each column; empty for none.
    """
    names = list(shares[0])
    values = np.array([[column[name] for column in shares] for name in names])
    width = max(7.2, 0.5 * len(columns) + 1.8)
    figure = Figure(figsize=(width, max(2.8, 0.38 * len(names) + 1.7)), layout="constrained")
    axes = figure.add_subplot()
    scale = Normalize(0.0, max(float(values.max()), 1e-9))
    colors = mpl.colormaps[_COLOR_MAP]
    drawn = axes.imshow(values, cmap=colors, norm=scale, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        name, shade = names[row], colors(scale(values[row, column]))
        dark = 0.2126 * shade[0] + 0.7152 * shade[1] + 0.0722 * shade[2] < 0.5
        star = "*" if problem and name in problem[column] else ""
        axes.text(
            column,
            row,
            f"{values[row, column] * 100.0:.0f}{star}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )
        if name in top[column]:
            axes.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor="#D55E00", lw=1.6))
    tilted = max(map(len, columns)) * len(columns) > 70
    axes.set_xticks(
        range(len(columns)),
        [figure_text(column) for column in columns],
        rotation=35 if tilted else 0,
        ha="right" if tilted else "center",
    )
    axes.set_yticks(range(len(names)), [figure_text(name) for name in names])
    axes.tick_params(labelsize=8)
    axes.set(title=figure_text(title), xlabel=label)
    figure.colorbar(drawn, ax=axes, label="share of the squared gradient norm", format="{x:.0%}", pad=0.02)
    return figure
