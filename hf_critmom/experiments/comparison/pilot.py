"""The pilot run of a comparison: where nobody gives targets, it sets them before there is a plan."""

import dataclasses
import math
import shutil
from collections.abc import Collection
from pathlib import Path

from accelerate import PartialState

from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import PLAN_FILE_FORMAT, Plan
from hf_critmom.experiments.comparison.records import RunResult, TaskRecord
from hf_critmom.storage.locks import broadcast_from_main, try_lock
from hf_critmom.storage.typed import from_json
from hf_critmom.tasks.metrics import METRICS

TARGET_SHARES = (0.5, 0.75, 0.9)
"""Shares of the pilot run's improvement at which the targets lie."""
_PILOT_SEED = 2042
"""Seed of the pilot run, whatever the seeds of a comparison are, so that shares of it have the same targets."""
_NOTE = "The targets are what a pilot run of"


def pilot_folder(folder: Path) -> Path:
    """Folder of the pilot run, which is made before there is a plan."""
    return folder / ".pilot"


def pilot_plan(requested: Plan) -> Plan:
    """The plan of the pilot run: the baseline's run with the smallest budget and a seed that no compared run has.

    Args:
        requested: The requested plan of the comparison, whose targets are not known yet.
    """
    name = requested.baseline_arm
    training = dict(requested.training)
    if len(requested.budgets) > 1:
        training["num_train_epochs"] = requested.budgets[:1]
    return dataclasses.replace(
        requested,
        arms={name: requested.arms[name]},
        seeds=(_pilot_seed({*requested.seeds, *requested.trial_seeds}),),
        training=training,
        tuning=None,
        baseline=name,
        claims=(),
        looks=None,
    )


def begun_pilot(folder: Path) -> Plan | None:
    """The plan of a pilot run that an earlier or another command has begun; None without one.

    Args:
        folder: Folder of the pilot run.
    """
    try:
        return Plan.read(folder) if PLAN_FILE_FORMAT.exists(folder) else None
    except ComparisonError:
        return None


def is_same_pilot(stored: Plan, plan: Plan) -> bool:
    """Whether two plans are of the same pilot run: of the same arm and seed, under the same conditions."""
    return stored.seeds == plan.seeds and stored.arms.keys() == plan.arms.keys() and not stored.differences(plan)


def remove_other_pilot(folder: Path, plan: Plan) -> None:
    """Removes a pilot run with other conditions, which an earlier command left behind, unless a launch works on it.

    In a distributed launch, all processes call it.

    Args:
        folder: Folder of the pilot run.
        plan: The plan of the pilot run that is to be made there.
    """
    stored, exists = begun_pilot(folder), PLAN_FILE_FORMAT.exists(folder)
    if broadcast_from_main(exists and (stored is None or not is_same_pilot(stored, plan))):
        with try_lock(folder, "launch") as alone:
            if alone and PartialState().is_main_process:
                shutil.rmtree(folder, ignore_errors=True)


def with_pilot_targets(requested: Plan, pilot: Plan, result: RunResult | None) -> Plan:
    """A requested plan with the targets that the pilot run sets, and a note on them.

    Args:
        requested: The requested plan.
        pilot: The plan of the pilot run.
        result: Its result.

    Raises:
        ComparisonError: If the pilot run sets no targets.
    """
    (arm,), task = pilot.arms, requested.task
    targets = pilot_targets(result, arm, task.metric, greater_is_better=task.greater_is_better)
    notes = [*task.notes, pilot_note(arm, *pilot.seeds)]
    record = from_json(TaskRecord, {**task.content, "notes": notes})
    return dataclasses.replace(requested, targets=targets, task=record)


def pilot_targets(result: RunResult | None, arm: str, metric: str, *, greater_is_better: bool) -> tuple[float, ...]:
    """Targets from the curve of a pilot run: its values at `TARGET_SHARES` of the improvement.

    Args:
        result: Result of the pilot run.
        arm: Name of its arm.
        metric: The metric.
        greater_is_better: Whether larger values are better.

    Raises:
        ComparisonError: If the run diverged, or its curve does not improve.
    """
    if result is None or not result.finished:
        raise ComparisonError(
            f"The pilot run of {arm} diverged, so it sets no targets: give --targets, or a smaller --learning_rate."
        )
    values = [value for one in result.evaluations if (value := one.values.get(metric)) is not None]
    best = (max if greater_is_better else min)(values, default=0.0)
    if len(values) < 2 or values[0] == best:
        shown = ", ".join(f"{value:.4g}" for value in values) or "nothing"
        turned = "" if metric in METRICS else f"--greater_is_better {str(not greater_is_better).lower()}, "
        raise ComparisonError(
            f"The pilot run's eval_{metric}, of which {'larger' if greater_is_better else 'smaller'} values count as "
            f"better, does not improve after its first evaluation ({shown}), so it sets no targets: give {turned}"
            "--targets, more training, or another learning rate."
        )
    first, improvement = values[0], best - values[0]
    scale = max(abs(first), abs(best)) / abs(improvement)
    digits = max(5, 3 + math.ceil(math.log10(scale)))  # fewer would move the targets of a small improvement out of it
    return tuple(float(f"{first + share * improvement:.{digits}g}") for share in TARGET_SHARES)


def pilot_announcement(arm: str, seed: int) -> str:
    """A sentence that announces the pilot run."""
    return f"Without --targets, a pilot run of {arm} with the seed {seed} sets them."


def pilot_note(arm: str, seed: int) -> str:
    """A sentence on the origin of the targets, for readers of the results."""
    shares = ", ".join(f"{100 * share:g}" for share in TARGET_SHARES)
    return (
        f"{_NOTE} {arm} with the seed {seed}, which no compared run has, had reached at "
        f"{shares} % of its improvement after the first evaluation."
    )


def has_pilot_targets(plan: Plan) -> bool:
    """Whether a pilot run has set the planned targets of a comparison, by the note on them.

    Args:
        plan: The plan of the comparison.
    """
    return any(note.startswith(_NOTE) for note in plan.task.notes)


def _pilot_seed(taken: Collection[int]) -> int:
    return next(seed for seed in range(_PILOT_SEED, _PILOT_SEED + len(taken) + 1) if seed not in taken)
