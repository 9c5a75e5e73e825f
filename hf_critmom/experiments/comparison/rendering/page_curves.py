"""The curves of the page of a comparison: every seed and the median of each arm, thinned to keep the page small."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.rendering.page_charts import (
    MAX_POINTS,
    colors_of,
    dashes_of,
    evenly_spaced,
    metric_chart,
    page_chart,
    suffix,
)
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.reporting.page import Control, Section
from hf_critmom.tasks.metrics import is_greater_better

X_AXES = {"step": "optimizer steps", "epoch": "epochs", "seconds": "seconds of training"}
METRICS = ("accuracy", "loss", "perplexity", "bits_per_byte")
MAX_EVALUATIONS = 20_000
"""Largest number of evaluations on a page: a browser draws them in a few seconds, and they take well below 1 MB."""
MAX_CURVES = 30
"""Largest number of curves of single seeds with which the page opens; otherwise it opens with the medians only."""
MIN_POINTS = 20
"""Number of evaluations that each curve keeps, if it has them; seeds are left out before curves get fewer."""


def curves_section(
    analysis: Analysis, table: pd.DataFrame, arms: Mapping[str, Arm], *, most: int = MAX_EVALUATIONS
) -> Section:
    """Validation curves with controls for arms, seeds, axis, metric and range.

    Args:
        analysis: The analysis.
        table: The table of results at one budget.
        arms: The arms, in order.
        most: Largest number of evaluations that are drawn.
    """
    main = analysis.metric.name
    metrics = [name for name in dict.fromkeys([main, *METRICS]) if name in table and table[name].notna().any()]
    rows = table[(table["split"] == "validation") & table["arm"].isin(list(arms))]
    drawn, omitted = drawn_evaluations(rows, most)
    drawn = pd.concat([drawn, *_after_divergence(table, rows, drawn)])
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
            selected=["both" if len(curves[["arm", "seed"]].drop_duplicates()) <= MAX_CURVES else "median"],
        ),
        Control("range", "y axis", {"all": "everything", "targets": "near the targets"}),
    ]
    near = _near_targets(analysis, rows[main] if main in metrics else rows["step"][:0])
    rising = [name for name in metrics if _rises(name, analysis)]
    chart = metric_chart(curves, analysis.targets, main, near, arms, controls, rising)
    description = (
        f"Validation {analysis.metric.title}: median over the seeds (thick) and every seed (thin), by arm; "
        "targets are dotted"
    )
    charts = [page_chart(f"curves{suffix(analysis)}", description, chart)]
    return Section("Curves", [omitted] if omitted else [], controls=controls, charts=charts)


def _after_divergence(table: pd.DataFrame, rows: pd.DataFrame, drawn: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows without values for the evaluations that diverged runs did not live to see, which medians have to count.

    Args:
        table: The table of results at one budget.
        rows: Its evaluations.
        drawn: Those that are drawn.
    """
    left_out = {*rows["seed"]} - {*drawn["seed"]}
    diverged = table[(table["status"] == "diverged") & ~table["seed"].isin(left_out)]
    missing = []
    for (arm, seed), _ in diverged.groupby(["arm", "seed"]):
        of_arm = drawn[drawn["arm"] == arm]
        lived = of_arm[of_arm["seed"] == seed]["step"].max()  # NaN without an evaluation
        later = of_arm if math.isnan(lived) else of_arm[of_arm["step"] > lived]
        missing.append(later.drop_duplicates("step")[["arm", "step", "epoch"]].assign(seed=seed))
    return missing


def _rises(metric: str, analysis: Analysis) -> bool:
    return analysis.metric.greater_is_better if metric == analysis.metric.name else is_greater_better(metric)


def drawn_evaluations(rows: pd.DataFrame, most: int = MAX_EVALUATIONS) -> tuple[pd.DataFrame, str]:
    """The evaluations that the page draws, and a sentence on those that it leaves out, empty if there are none.

    An arm keeps the same evaluation steps with every seed, so that medians are over all seeds; if that would leave too
    few points on a curve, the last seeds are left out.

    Args:
        rows: The evaluations, with the columns arm, seed and step among others.
        most: Largest number of evaluations that are drawn.
    """
    seeds, arms = sorted(rows["seed"].unique()), rows["arm"].nunique()
    kept = seeds[: max(most // (max(arms, 1) * MIN_POINTS), 1)]
    points = min(max(most // max(arms * len(kept), 1), 2), MAX_POINTS)
    drawn = rows[rows["seed"].isin(kept)]
    steps = {
        arm: set(evenly_spaced(sorted(arm_rows["step"].unique()), points)) for arm, arm_rows in drawn.groupby("arm")
    }
    chosen = [step in steps[arm] for arm, step in zip(drawn["arm"], drawn["step"], strict=True)]
    limits = []
    if len(kept) < len(seeds):
        limits.append(f"the first {len(kept)} of {len(seeds)} seeds (and the median over these)")
    if not all(chosen):
        limits.append(f"at most {points} evaluations of every run, evenly spaced")
    sentence = f"Drawn here: {', '.join(limits)}; tables, verdicts and the other charts rest on all." if limits else ""
    return drawn[np.array(chosen, dtype=bool)], sentence  # an empty list would select columns


def _near_targets(analysis: Analysis, values: pd.Series) -> tuple[float, float]:
    """Range of metric values centred at the easiest target, with the best value at its end."""
    targets, values = analysis.targets, values[np.isfinite(values.astype(float))]
    if analysis.metric.greater_is_better:
        best = max([*values, *targets])
        return min(targets) - max(best - min(targets), 1e-9), best
    best = min([*values, *targets])
    return best, max(targets) + max(max(targets) - best, 1e-9)
