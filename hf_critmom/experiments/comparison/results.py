"""Results of a comparison on disk: ``runs/ARM/seed-N/result.json`` and their collection, ``results.parquet``."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.arms import TUNED_SUFFIX
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import PLAN_FILE, Plan, Run, Trial
from hf_critmom.experiments.comparison.tuning import Choice, choose
from hf_critmom.storage.files import atomic_write, why_unwritable

RESULT_FILE = "result.json"
RESULTS_FILE = "results.parquet"


def run_of(checkpoint: str | Path) -> tuple[Plan, str, int] | None:
    """The plan, arm and seed of the run that a folder, or a checkpoint in one, belongs to; None if it is of none.

    Where a comparison has several budgets, the arm's name says which one it is.

    Raises:
        ComparisonError: If the comparison's plan cannot be read.
    """
    run = Path(checkpoint).absolute()
    if run.name.startswith("checkpoint-"):
        run = run.parent
    seed = run.name.removeprefix("seed-")
    for runs in run.parents:
        if runs.name == "runs" and seed.isdecimal() and (runs.parent / PLAN_FILE).exists():
            return Plan.read(runs.parent), ", ".join(run.relative_to(runs).parts[:-1]), int(seed)
    return None


def read_runs(folder: Path, runs: Iterable[Run]) -> dict[Run, dict[str, Any]]:
    """Results of those runs that are finished, by run.

    Raises:
        ComparisonError: If a result cannot be read.
    """
    files = {run: folder / run.folder / RESULT_FILE for run in runs}
    return {run: read_result(file) for run, file in files.items() if file.exists()}


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
            f"{file} is corrupt ({root_message(error)}): delete it and repeat the comparison's command."
        ) from None
    return result


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says in one sentence that a comparison's folder could not be written.

    Raises:
        ComparisonError: If it could not.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not (why := why_unwritable(folder, error)):
            raise
        raise ComparisonError(
            f"{folder} cannot be written any more ({why}): make room there, or let it be written, then repeat the "
            "command; the runs that are finished stay, and are not repeated."
        ) from error


@dataclass(frozen=True)
class Results:
    """What is finished of a comparison.

    Attributes:
        runs: Results of the compared runs, by run; the tuned variant of an arm, named with `TUNED_SUFFIX`, has the
            arm's own results where its trials chose the arm's own values.
        trials: Results of the trials, by run.
        choices: What the trials chose.
    """

    runs: dict[Run, dict[str, Any]]
    trials: dict[Run, dict[str, Any]]
    choices: list[Choice]


def tuned_runs(plan: Plan, choices: list[Choice]) -> dict[Run, Choice]:
    """The runs of the tuned variants, and what was chosen for them."""
    return {
        Run(f"{choice.arm}{TUNED_SUFFIX}", seed, choice.epochs): choice for seed in plan.seeds for choice in choices
    }


def read_results(folder: Path, plan: Plan) -> Results:
    """Reads what is finished of a comparison.

    Raises:
        ComparisonError: If a result cannot be read.
    """
    runs, trials = read_runs(folder, plan.runs()), read_runs(folder, plan.trials())
    choices = choose(plan, trials)
    tuned = tuned_runs(plan, choices)
    runs |= read_runs(folder, tuned)
    for run, choice in tuned.items():
        same = Run(choice.arm, run.seed, run.epochs)
        if choice.trial == Trial() and same in runs:
            runs[run] = {**runs[same], "arm": run.arm}
    return Results(runs, trials, choices)


def results_table(runs: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per arm, seed and evaluation.

    Columns: arm, seed, status, budget (epochs asked for), split ("validation", and one last row per run for "test"),
    step, epoch, seconds (of training until then), loss, the metric, learning rate, momentum and damping ratio as last
    logged before, and the peak learning rate and weight decay of the run.
    """
    rows = []
    for run in runs:
        of_run = {"arm": run["arm"], "seed": run["seed"], "status": run["status"], "budget": run.get("budget")}
        settings = {"peak_learning_rate": run.get("learning_rate"), "weight_decay": run.get("weight_decay")}
        rows += [{**of_run, "split": "validation", **evaluation, **settings} for evaluation in run["evaluations"]]
        last = run["evaluations"][-1] if run["evaluations"] else {}
        rows.append(
            {
                **of_run,
                "split": "test",
                "step": run["steps"],
                "epoch": last.get("epoch"),
                "seconds": run["train_seconds"],
                **run["test"],
                **settings,
            }
        )
    return pd.DataFrame(rows)


def write_results(folder: Path, plan: Plan) -> pd.DataFrame:
    """Collects the compared runs into ``results.parquet``, whole or not at all, and returns them."""
    table = results_table(read_results(folder, plan).runs.values())
    with atomic_write(folder / RESULTS_FILE) as partial:
        table.to_parquet(partial, index=False)
    return table
