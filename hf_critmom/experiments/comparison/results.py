"""Results of a comparison on disk: ``runs/ARM/seed-N/result.json`` and their collection, ``results.parquet``."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import PLAN_FILE, Plan, Run, Trial
from hf_critmom.experiments.comparison.records import (
    DRIFT_FILE,
    ExpectedRun,
    RunResult,
    read_drift_record,
    read_result,
    severities,
)
from hf_critmom.experiments.comparison.table import results_table
from hf_critmom.experiments.comparison.tuning import BestTrial, choose_best_trials
from hf_critmom.storage.files import atomic_write, explain_write_errors
from hf_critmom.storage.run_folder import RESULT_FILE

RESULTS_FILE = "results.parquet"


def find_run(checkpoint: str | Path) -> tuple[Plan, str, int] | None:
    """The plan, arm and seed of the run that a folder or checkpoint belongs to; None if it does not belong to a run.

    If the comparison has several budgets, the arm's name is followed by that of the budget's folder.

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


@dataclass(frozen=True)
class Results:
    """Results of the finished runs of a comparison.

    Attributes:
        runs: Results of the compared runs, by run. The tuned variant of an arm, named with `TUNED_SUFFIX`, has the
            arm's own results if its trials chose the arm's own values.
        trials: Results of the trials, by run.
        choices: The best trial of each arm and budget.
    """

    runs: dict[Run, RunResult]
    trials: dict[Run, RunResult]
    choices: list[BestTrial]


def read_run(folder: Path, plan: Plan, run: Run, trial: Trial | None = None) -> RunResult | None:
    """The result of one run; None if it is not finished.

    Args:
        folder: The comparison's folder.
        plan: The comparison's plan.
        run: The run.
        trial: The point of the grid that a tuned variant's run uses; None for other runs.

    Raises:
        ComparisonError: If the result is damaged or belongs to another run.
    """
    file = folder / run.folder / RESULT_FILE
    if not file.exists():
        return None
    arm = plan.arms[run.arm if trial is None else run.arm.removesuffix(TUNED_SUFFIX)]
    learning_rate, weight_decay = plan.settings(arm, trial or run.trial)
    expected = ExpectedRun(
        arm=run.arm,
        seed=run.seed,
        metric=plan.task.metric,
        is_trial=run.trial is not None,
        budget=plan.budget(run),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        is_script=plan.task.is_script,
    )
    return read_result(file, expected)


def read_runs(folder: Path, plan: Plan, runs: Iterable[Run]) -> dict[Run, RunResult]:
    """Results of the finished ones among some runs, by run.

    Raises:
        ComparisonError: If a result is damaged or belongs to another run.
    """
    return {run: result for run in runs if (result := read_run(folder, plan, run)) is not None}


def read_results(folder: Path, plan: Plan) -> Results:
    """Reads the results of the finished runs of a comparison.

    Raises:
        ComparisonError: If a result is damaged or belongs to another run.
    """
    runs, trials = read_runs(folder, plan, plan.runs()), read_runs(folder, plan, plan.trials())
    choices = choose_best_trials(plan, trials)
    for run, choice in tuned_runs(plan, choices).items():
        if (result := read_run(folder, plan, run, choice.trial)) is not None:
            runs[run] = result
        elif choice.trial == Trial() and (same := runs.get(Run(choice.arm, run.seed, run.epochs))) is not None:
            runs[run] = replace(same, arm=run.arm)
    return Results(runs, trials, choices)


def read_tuned_runs(folder: Path, plan: Plan) -> dict[Run, RunResult]:
    """Results of the tuned variants' runs at every point of a grid, also at those that its trials no longer choose.

    Args:
        folder: The comparison's folder.
        plan: The comparison's plan.

    Raises:
        ComparisonError: If a result is damaged or belongs to another run.
    """
    if plan.tuning is None or not plan.tuning.can_grow:
        return {}
    points = dict.fromkeys((run.arm, run.epochs, run.trial) for run in plan.trials())
    runs = {
        Run(f"{arm}{TUNED_SUFFIX}", seed, epochs, chosen=trial): trial
        for arm, epochs, trial in points
        for seed in plan.seeds_of([f"{arm}{TUNED_SUFFIX}"])
    }
    results = {run: read_run(folder, plan, run, trial) for run, trial in runs.items()}
    return {run: result for run, result in results.items() if result is not None}


def tuned_runs(plan: Plan, choices: list[BestTrial]) -> dict[Run, BestTrial]:
    """The runs of the tuned variants, with the trial that chose their learning rate and weight decay."""
    by_point = plan.tuning is not None and plan.tuning.can_grow
    return {
        Run(name, seed, one.epochs, chosen=one.trial if by_point else None): one
        for seed in plan.seeds
        for one, name in ((one, f"{one.arm}{TUNED_SUFFIX}") for one in choices)
        if seed not in plan.seeds_left_out(name)
    }


def separate_tuned_runs(plan: Plan, choices: list[BestTrial]) -> dict[Run, BestTrial]:
    """Those of `tuned_runs` that have to be made: where the arm's own settings are the best, its own runs count."""
    return {run: choice for run, choice in tuned_runs(plan, choices).items() if choice.trial != Trial()}


def write_results(folder: Path, plan: Plan) -> pd.DataFrame:
    """Collects the compared runs in ``results.parquet``, written completely or not at all, and returns the table."""
    table = results_table(read_results(folder, plan).runs.values())
    write_table(folder, table)
    return table


def write_table(folder: Path, table: pd.DataFrame) -> None:
    """Writes a table of results as ``results.parquet``, completely or not at all."""
    with atomic_write(folder / RESULTS_FILE) as partial:
        table.to_parquet(partial, index=False)


def writing(folder: Path) -> AbstractContextManager[None]:
    """Turns a failure to write to a comparison's folder, such as a full disk, into a `ComparisonError`."""
    return explain_write_errors(folder, ComparisonError, "finished runs are kept, and are not repeated")


def read_drift(folder: Path, results: Results) -> pd.DataFrame:
    """Reads accuracies on corrupted test images, by arm, seed, budget, corruption and severity (0: clean).

    Args:
        folder: A comparison's folder.
        results: Results of its finished runs.

    Raises:
        ComparisonError: If a file is damaged.
    """
    rows = []
    for run, result in results.runs.items():
        file = folder / run.folder / DRIFT_FILE
        if not file.exists():
            continue
        stored = read_drift_record(file)
        for corruption, accuracies in stored.accuracy.items():
            for severity, accuracy in zip(severities(corruption), accuracies, strict=True):
                rows.append((result.arm, result.seed, run.epochs, corruption, severity, accuracy, stored.examples))
    return pd.DataFrame(rows, columns=["arm", "seed", "budget", "corruption", "severity", "accuracy", "examples"])
