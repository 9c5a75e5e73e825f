"""Results of a comparison on disk: ``runs/ARM/seed-N/result.json`` and their collection, ``results.parquet``."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from hf_critmom.comparison.errors import ComparisonError
from hf_critmom.comparison.plan import PLAN_FILE, Plan
from hf_critmom.errors import reason

RESULT_FILE = "result.json"
RESULTS_FILE = "results.parquet"


def run_folder(folder: Path, arm: str, seed: int) -> Path:
    """The folder of one run."""
    return folder / "runs" / arm / f"seed-{seed}"


def run_of(checkpoint: str | Path) -> tuple[Plan, str, int] | None:
    """The plan, arm and seed of the run that a folder, or a checkpoint in one, belongs to; None if it is of none.

    Raises:
        ComparisonError: If the comparison's plan cannot be read.
    """
    run = Path(checkpoint).absolute()
    if run.name.startswith("checkpoint-"):
        run = run.parent
    folder, seed = run.parent.parent.parent, run.name.removeprefix("seed-")
    if run.parent.parent.name != "runs" or not seed.isdecimal() or not (folder / PLAN_FILE).exists():
        return None
    return Plan.read(folder), run.parent.name, int(seed)


def read_runs(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """Results of the finished runs of a comparison, arm by arm and seed by seed.

    Raises:
        ComparisonError: If a result cannot be read.
    """
    found = []
    for arm in plan.arms:
        for seed in plan.seeds:
            file = run_folder(folder, arm, seed) / RESULT_FILE
            if file.exists():
                found.append(read_result(file))
    return found


def read_result(file: Path) -> dict[str, Any]:
    """The result of one run.

    Raises:
        ComparisonError: If it is not one.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(result, dict) or not {"arm", "seed", "status", "evaluations", "test"} <= set(result):
            raise ValueError("it does not hold what a run records")
    except ValueError as error:  # what JSON and text decoding raise
        raise ComparisonError(
            f"{file} is corrupt ({reason(error)}): delete it and repeat the comparison's command."
        ) from None
    return result


def results_table(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per arm, seed and evaluation.

    Columns: arm, seed, status, split ("validation", and one last row per run for "test"), step, epoch, seconds (of
    training until then), loss, the metric, and learning rate, momentum and damping ratio as last logged before.
    """
    rows = []
    for run in runs:
        of_run = {"arm": run["arm"], "seed": run["seed"], "status": run["status"]}
        rows += [{**of_run, "split": "validation", **evaluation} for evaluation in run["evaluations"]]
        last = run["evaluations"][-1] if run["evaluations"] else {}
        rows.append(
            {
                **of_run,
                "split": "test",
                "step": run["steps"],
                "epoch": last.get("epoch"),
                "seconds": run["train_seconds"],
                **run["test"],
            }
        )
    return pd.DataFrame(rows)


def write_results(folder: Path, plan: Plan) -> pd.DataFrame:
    """Collects the finished runs into ``results.parquet``, whole or not at all, and returns them."""
    table = results_table(read_runs(folder, plan))
    partial = folder / f".{RESULTS_FILE}.partial"
    table.to_parquet(partial, index=False)
    partial.replace(folder / RESULTS_FILE)
    return table
