"""Figures of a comparison. Every function draws one and returns it; `write_figures` stores them all."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hf_critmom.comparison.arms import ARMS

FIGURES_FOLDER = "figures"


def accuracy_figure(table: pd.DataFrame, arms: list[str], metric: str, targets: list[float]) -> Figure:
    """Validation metric over epochs.

    How to read it: a thin line is one seed, a thick one the median over the seeds of its arm; the dotted lines are the
    targets. An arm that crosses a target further left reached it in fewer epochs.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    validation = table[table["split"] == "validation"]
    for index, arm in enumerate(arms):
        rows = validation[validation["arm"] == arm]
        if rows.empty:
            continue
        for _, run in rows.groupby("seed"):
            axes.plot(run["epoch"], run[metric], color=ARMS[arm].color, alpha=0.35, linewidth=0.8)
        median = rows.groupby("epoch")[metric].median()
        axes.plot(median.index, median.values, **_style(arm, index))
    for target in targets:
        axes.axhline(target, color="0.5", linestyle=":", linewidth=0.9)
        axes.annotate(f"{target:.4g}", (1.005, target), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set(xlabel="epoch", ylabel=f"validation {metric}", title=f"Validation {metric}: median and every seed")
    axes.grid(alpha=0.25)
    if not validation.empty:
        axes.legend(loc="lower right", frameon=False)
    return figure


def damping_figure(runs: list[dict[str, Any]], arms: list[str]) -> Figure:
    """Momentum and damping ratio over the optimizer's steps, of each arm's first seed (the schedule has no others).

    How to read it: above, the momentum that each step used. Below, its damping ratio on a curvature of 1: the shaded
    part under 1 is underdamped (overshoots), the part over 1 overdamped (creeps), the line between them critical.
    """
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    ratios: list[float] = []
    for index, arm in enumerate(arms):
        log: list[dict[str, float]] = next((run["training_log"] for run in runs if run["arm"] == arm), [])
        logged = [record for record in log if "momentum" in record]
        style = _style(arm, index)
        upper.plot([record["step"] for record in logged], [record["momentum"] for record in logged], **style)
        damped = [record for record in logged if "damping_ratio" in record]
        ratios += [record["damping_ratio"] for record in damped]
        lower.plot([record["step"] for record in damped], [record["damping_ratio"] for record in damped], **style)
    upper.set(ylabel="momentum", title="What the optimizers used")
    lower.set(xlabel="step", ylabel="damping ratio (curvature 1)", yscale="log")
    if ratios:
        low, high = min(min(ratios), 0.5) / 1.5, max(max(ratios), 2.0) * 1.5
        lower.set_ylim(low, high)
        lower.axhspan(low, 1.0, color="0.92", zorder=0)
        lower.axhline(1.0, color="0.4", linewidth=0.9, zorder=1)
        lower.text(0.01, 0.03, "underdamped", transform=lower.transAxes, fontsize=8, color="0.3")
        lower.text(0.01, 0.92, "overdamped", transform=lower.transAxes, fontsize=8, color="0.3")
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    upper.legend(frameon=False)
    return figure


def _style(arm: str, index: int) -> dict[str, Any]:
    """How an arm's curve is drawn: later arms are thinner and dashed, so that one beneath shows where they coincide."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": ARMS[arm].color,
        "linestyle": dashes[index % len(dashes)],
        "linewidth": max(2.8 - 0.4 * index, 1.6),
        "label": arm,
    }


def write_figures(
    folder: Path, table: pd.DataFrame, runs: list[dict[str, Any]], arms: list[str], metric: str, targets: list[float]
) -> None:
    """Writes every figure of a comparison into its folder, as PNG."""
    figures = {
        "accuracy.png": accuracy_figure(table, arms, metric, targets),
        "damping.png": damping_figure(runs, arms),
    }
    (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / FIGURES_FOLDER / name, dpi=120)
