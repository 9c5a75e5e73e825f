"""The table of results: what analyses read, and what ``results.parquet`` holds."""

from collections.abc import Iterable

import pandas as pd

from hf_critmom.experiments.comparison.records import RunResult


def results_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """One row per arm, seed and evaluation.

    Columns: arm, seed, status, budget (requested epochs), split ("validation", and one last row per run for "test"),
    step, epoch, seconds (of training until then), loss, the metrics, learning rate, momentum and damping ratio as last
    logged before the evaluation, and the peak learning rate and weight decay of the run.
    """
    rows = []
    for run in runs:
        identity = {"arm": run.arm, "seed": run.seed, "status": run.status, "budget": run.budget}
        settings = {"peak_learning_rate": run.learning_rate, "weight_decay": run.weight_decay}
        rows += [{**identity, "split": "validation", **one.as_json(), **settings} for one in run.evaluations]
        rows.append(
            {
                **identity,
                "split": "test",
                "step": run.steps,
                "epoch": run.evaluations[-1].epoch if run.evaluations else None,
                "seconds": run.train_seconds,
                **run.test,
                **settings,
            }
        )
    return pd.DataFrame(rows)
