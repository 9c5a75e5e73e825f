"""The curves of the page of a comparison: every seed and the median of each arm, thinned to what a page can hold."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.rendering.page_charts import (
    MOST_POINTS,
    colors_of,
    dashes_of,
    evenly,
    made,
    metric_chart,
    suffix,
)
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.reporting.page import Control, Section

X_AXES = {"step": "optimizer steps", "epoch": "epochs", "seconds": "seconds of training"}
METRICS = ("accuracy", "loss", "perplexity", "bits_per_byte")
MOST_EVALUATIONS = 20_000
"""Evaluations that a page draws, of all its runs: what a browser draws in a few seconds, in well below a megabyte."""
MOST_CURVES = 30
"""With more curves of single seeds, the page opens with the medians alone."""
LEAST_POINTS = 20
"""A curve keeps so many evaluations, if it has them, before seeds are left out instead."""


def curves_section(
    analysis: Analysis, table: pd.DataFrame, arms: Mapping[str, Arm], *, most: int = MOST_EVALUATIONS
) -> Section:
    """Validation curves: arms and seeds toggled, axis, metric and range chosen.

    Args:
        analysis: The analysis.
        table: The results table, of one budget.
        arms: The arms, in order.
        most: How many evaluations are drawn.
    """
    main = analysis.metric.name
    metrics = [name for name in dict.fromkeys([main, *METRICS]) if name in table and table[name].notna().any()]
    rows = table[(table["split"] == "validation") & table["arm"].isin(list(arms))]
    drawn, omitted = drawn_evaluations(rows, most)
    curves = drawn[["arm", "seed", *X_AXES, *metrics]].assign(seed=drawn["seed"].astype(str))
    seeds = sorted(curves["seed"].unique(), key=int)
    controls = [
        Control(
            "arms",
            "arms",
            {name: name for name in arms},
            multiple=True,
            colors=colors_of(arms),
            dashes={name: " ".join(map(str, dash)) for name, dash in dashes_of(arms).items() if dash[1]},
        ),
        Control("seeds", "seeds", {seed: seed for seed in seeds}, multiple=True),
        Control("axis", "x axis", X_AXES),
        Control("metric", "metric", {name: name.replace("_", " ") for name in metrics or [main]}),
        Control(
            "shown",
            "lines",
            {"both": "median and every seed", "median": "median", "seeds": "every seed"},
            selected=["both" if len(curves[["arm", "seed"]].drop_duplicates()) <= MOST_CURVES else "median"],
        ),
        Control("range", "y axis", {"all": "everything", "targets": "near the targets"}),
    ]
    near = _near_targets(analysis, rows[main] if main in metrics else rows["step"][:0])
    chart = metric_chart(curves, analysis.targets, main, near, arms, controls)
    description = (
        f"Validation {analysis.metric.title}: median over the seeds (thick) and every seed (thin), by arm; "
        "targets are dotted"
    )
    charts = [made(f"curves{suffix(analysis)}", description, chart)]
    return Section("Curves", [omitted] if omitted else [], controls=controls, charts=charts)


def drawn_evaluations(rows: pd.DataFrame, most: int = MOST_EVALUATIONS) -> tuple[pd.DataFrame, str]:
    """The evaluations that the page draws, and a sentence on those that it leaves out; empty: none.

    Every arm keeps the same share of its evaluation steps with every seed, so that medians over the seeds are of all of
    them; where that would leave too few of a curve, the last seeds are left out.

    Args:
        rows: The evaluations; columns arm, seed and step among them.
        most: How many are drawn.
    """
    seeds, arms = sorted(rows["seed"].unique()), rows["arm"].nunique()
    kept = seeds[: max(most // (max(arms, 1) * LEAST_POINTS), 1)]
    points = min(max(most // max(arms * len(kept), 1), 2), MOST_POINTS)
    drawn = rows[rows["seed"].isin(kept)]
    steps = {arm: set(evenly(sorted(of_arm["step"].unique()), points)) for arm, of_arm in drawn.groupby("arm")}
    chosen = [step in steps[arm] for arm, step in zip(drawn["arm"], drawn["step"], strict=True)]
    said = []
    if len(kept) < len(seeds):
        said.append(f"the first {len(kept)} of {len(seeds)} seeds (and the median over these)")
    if not all(chosen):
        said.append(f"at most {points} evaluations of every run, evenly spaced")
    sentence = f"Drawn here: {', '.join(said)}; tables, verdicts and the other charts rest on all." if said else ""
    return drawn[np.array(chosen, dtype=bool)], sentence  # an empty list would choose columns


def _near_targets(analysis: Analysis, values: pd.Series) -> tuple[float, float]:
    """The values of the metric from the best one to as far before the easiest target as the best one is beyond it."""
    targets, values = analysis.targets, values[np.isfinite(values.astype(float))]
    if analysis.metric.greater_is_better:
        best = max([*values, *targets])
        return min(targets) - max(best - min(targets), 1e-9), best
    best = min([*values, *targets])
    return best, max(targets) + max(max(targets) - best, 1e-9)
