"""From a request to a plan: what the request leaves open is taken from the comparison in the folder."""

import copy
import dataclasses
import difflib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import IntervalStrategy

from hf_critmom.experiments.comparison.arguments import (
    CADENCE_FLAGS,
    DEFAULT_ARMS,
    DEFAULT_MARGIN,
    DEFAULT_MAX_SEEDS,
    DEFAULT_SEEDS,
    FIRST_LOOK,
    ComparisonArguments,
    ComparisonRequest,
    ComparisonTrainingArguments,
)
from hf_critmom.experiments.comparison.arms.arm import ARMS, Arm
from hf_critmom.experiments.comparison.arms.selection import check_arm, get_arms, read_arms
from hf_critmom.experiments.comparison.arms.third_party import names_code
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.pilot import has_pilot_targets
from hf_critmom.experiments.comparison.plan import LookPlan, Plan, Tuning, with_tuned
from hf_critmom.experiments.comparison.records import MAX_SEED, TaskRecord
from hf_critmom.experiments.comparison.statistics.claims import parse_claim
from hf_critmom.storage.environment import versions
from hf_critmom.storage.plan import json_roundtrip
from hf_critmom.storage.typed import from_json
from hf_critmom.tasks import Task, model_record, task_spec
from hf_critmom.tasks.metrics import METRICS
from hf_critmom.tasks.stored_arguments import store_arguments
from hf_critmom.training.arguments import recorded_training_arguments

EVALUATIONS_PER_EPOCH = 4
MAX_EVALUATION_SHARE = 0.15
"""Largest share of the training time that evaluations take if no flag sets how often to evaluate."""
_TRIAL_SEED = 1042
"""Seed of the trials, whatever the seeds of a comparison are, so that shares of it have the same trials."""


def with_stored_cadence(request: ComparisonRequest, stored: Plan | None) -> ComparisonRequest:
    """The request with the evaluation cadence of the comparison in the folder, unless a flag sets its own.

    Args:
        request: The request.
        stored: The plan of the comparison that it continues, if there is one.
    """
    if stored is None or request.given & CADENCE_FLAGS:
        return request
    training = copy.copy(request.training)
    training.eval_strategy = IntervalStrategy(stored.training_argument("eval_strategy"))
    training.eval_steps = stored.training.get("eval_steps")
    epochs = training.eval_strategy == IntervalStrategy.EPOCH
    training.evaluations_per_epoch = int(stored.training.get("evaluations_per_epoch", 1)) if epochs else None
    return dataclasses.replace(request, training=training)


def with_measured_cadence(
    request: ComparisonRequest, step_seconds: float, evaluation_seconds: float, steps_per_epoch: float
) -> ComparisonRequest:
    """The request with four evaluations per epoch, or fewer if they would take too long.

    Args:
        request: The request, in which no flag sets the cadence.
        step_seconds: Seconds of an optimizer step.
        evaluation_seconds: Seconds of an evaluation.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    allowed = MAX_EVALUATION_SHARE * steps_per_epoch * step_seconds
    number = EVALUATIONS_PER_EPOCH
    while number > 1 and (number * evaluation_seconds > allowed or number > steps_per_epoch):
        number -= 1
    training = copy.copy(request.training)
    # Checkpoints are saved at the ends of epochs, so that the best evaluation must be one of those.
    training.evaluations_per_epoch = 1 if training.load_best_model_at_end else number
    return dataclasses.replace(request, training=training)


def should_measure_threads(request: ComparisonRequest) -> bool:
    """Whether the number of threads of a new comparison is measured: in one process on a CPU, if no flag sets it."""
    training = request.training
    return request.engine.threads_per_worker is None and training.device.type == "cpu" and training.world_size == 1


def select_arms(
    comparison: ComparisonArguments,
    folder: Path,
    stored: Plan | None,
    known: Mapping[str, Arm] = ARMS,
    default: Sequence[str] = DEFAULT_ARMS,
) -> dict[str, Arm]:
    """The arms of a request; if it names none, those of the comparison in the folder.

    Args:
        comparison: Flags that define what is compared.
        folder: The comparison's folder.
        stored: The plan of the comparison that the request continues, if there is one.
        known: The table of arms.
        default: Names of the arms of a new comparison.

    Raises:
        ComparisonError: If an arm is not known or cannot be built.
    """
    names, file = comparison.arms, comparison.arms_file
    if names is None and stored is not None:
        imported = [name for name, arm in stored.arms.items() if names_code(arm.optimizer)]
        if imported:
            raise ComparisonError(
                f"The plan in {folder} has arms whose optimizers are imported from other packages "
                f"({', '.join(imported)}): name the arms to continue with --arms, so that no file decides which code "
                "runs."
            )
        for arm in stored.arms.values():
            check_arm(arm)
        return dict(stored.arms)
    known = known if file is None else read_arms(Path(file), known)
    return get_arms(list(names or default), known, None if stored is None else stored.arms)


def select_seeds(
    comparison: ComparisonArguments, start: int, given: Collection[str], stored: Plan | None
) -> tuple[int, ...]:
    """The seeds of a request; if it gives no number of them, those of the comparison in the folder.

    Seeds are consecutive from ``--seed`` on, but for those of a plan's trials, which are skipped.

    Args:
        comparison: Flags that define what is compared.
        start: The first seed.
        given: Names of the flags that were given.
        stored: The plan of the comparison that the request continues, if there is one.

    Raises:
        ComparisonError: If a seed is out of range.
    """
    if stored is not None and _keeps_seeds(comparison, start, given, stored):
        return stored.seeds
    number = comparison.num_seeds
    if number is None:
        number = FIRST_LOOK if comparison.until_decided else DEFAULT_SEEDS
    if comparison.until_decided:
        number = max(number, 2)  # one seed decides nothing
    trials = () if stored is None else stored.trial_seeds
    seeds = [seed for seed in range(start, start + number + len(trials)) if seed not in trials][:number]
    if not 0 <= seeds[0] <= seeds[-1] <= MAX_SEED:
        raise ComparisonError(
            f"--seed {start} and --num_seeds {number} give the seeds {seeds[0]} to {seeds[-1]}: they must lie between "
            f"0 and {MAX_SEED}."
        )
    return tuple(seeds)


def select_left_out(
    comparison: ComparisonArguments, arms: Collection[str], start: int, given: Collection[str], stored: Plan | None
) -> dict[str, tuple[int, ...]]:
    """Those of the seeds of a request that an arm or tuned variant leaves out; none if it gives a number of seeds.

    Args:
        comparison: Flags that define what is compared.
        arms: Names of the arms of the request.
        start: The first seed.
        given: Names of the flags that were given.
        stored: The plan of the comparison that the request continues, if there is one.
    """
    if stored is None or not _keeps_seeds(comparison, start, given, stored):
        return {}
    return {name: stored.left_out[name] for name in with_tuned(arms) if name in stored.left_out}


def _keeps_seeds(comparison: ComparisonArguments, start: int, given: Collection[str], stored: Plan) -> bool:
    """Whether a request leaves the seeds of its arms to the plan of the comparison that it continues."""
    return comparison.num_seeds is None and ("seed" not in given or start in stored.seeds)


def next_seed(plan: Plan, arms: Collection[str]) -> int:
    """The seed that arms or tuned variants get next: the first one of the plan that one of them lacks, or a new one.

    Raises:
        ComparisonError: If it would be out of range.
    """
    if len(first := plan.first_seeds_of(arms)) < len(plan.seeds):
        return plan.seeds[len(first)]
    used = {*plan.seeds, *plan.trial_seeds}
    seed = max(plan.seeds) + 1
    while seed in used:
        seed += 1
    if seed > MAX_SEED:
        raise ComparisonError(f"There is no seed above {max(plan.seeds)}: start a comparison with a smaller --seed.")
    return seed


def plan_request(
    request: ComparisonRequest,
    arms: Mapping[str, Arm],
    task: Task,
    num_parameters: int,
    folder: Path,
    stored: Plan | None = None,
) -> Plan:
    """The plan of a request; its extent may be smaller than the stored plan's.

    Args:
        request: The request, with its evaluation cadence.
        arms: The arms of the request.
        task: The task.
        num_parameters: Number of parameters of the model.
        folder: The comparison's folder.
        stored: The plan of the comparison that the request continues, if there is one.

    Raises:
        ComparisonError: If seeds, baseline or claims cannot be used.
    """
    comparison, training = request.comparison, recorded_training_arguments(request.training)
    if len(request.training.budgets) > 1:
        training["num_train_epochs"] = request.training.budgets
    if (request.training.evaluations_per_epoch or 1) > 1:
        training["evaluations_per_epoch"] = request.training.evaluations_per_epoch
    every_arm = [*(stored.arms if stored is not None else ()), *arms]
    check_names(comparison, every_arm, folder, stored)
    targets = comparison.targets or (stored.targets if stored is not None else default_targets(request, task))
    start = request.training.seed
    seeds = select_seeds(comparison, start, request.given, stored)
    return Plan(
        task=from_json(TaskRecord, json_roundtrip(task.description())),
        model={**model_record(task, request.model), "num_parameters": num_parameters},
        arms=arms,
        seeds=seeds,
        targets=tuple(sorted(set(map(float, targets or _any_target(task))), reverse=not task.greater_is_better)),
        training=json_roundtrip(training),
        versions=versions(),
        command=request.command,
        tuning=plan_tuning(comparison, seeds, stored),
        arguments={"data": store_arguments(request.data, folder), "model": store_arguments(request.model, folder)},
        threads=torch.get_num_threads(),
        baseline=None if stored is not None else comparison.baseline or next(iter(arms)),
        margin=comparison.margin or (DEFAULT_MARGIN if stored is None else stored.margin),
        claims=tuple(comparison.claim or ()),
        looks=plan_looks(comparison, seeds),
        left_out=select_left_out(comparison, arms, start, request.given, stored),
    )


def default_targets(request: ComparisonRequest, task: Task) -> tuple[float, ...] | None:
    """The targets of a new comparison without ``--targets``; None if a pilot run has to set them.

    Args:
        request: The request.
        task: The task.
    """
    if request.comparison.pilot or task.metric != task.metrics[0]:
        return None
    return task_spec(request.data).targets


def _any_target(task: Task) -> tuple[float]:
    """A possible target, for a plan whose targets are not known yet."""
    metric = METRICS[task.metric]
    return (metric.at_most if math.isfinite(metric.at_most) else metric.above + 1.0,)


def check_names(comparison: ComparisonArguments, arms: list[str], folder: Path, stored: Plan | None) -> None:
    """Checks the baseline, the claims and ``--pilot`` of a request.

    Args:
        comparison: Flags that define what is compared.
        arms: Names of the arms of the request and of the stored plan.
        folder: The comparison's folder.
        stored: The plan of the comparison that the request continues, if there is one.

    Raises:
        ComparisonError: If they name other arms, or the plan has another baseline, or targets without a pilot run.
    """
    if comparison.pilot and stored is not None and not has_pilot_targets(stored):
        raise ComparisonError(
            f"{folder} holds a comparison whose targets were fixed before its first run, without a pilot run: leave "
            "--pilot out, or choose another --output_dir."
        )
    if comparison.baseline is not None:
        _check_named("--baseline", comparison.baseline, arms)
        if stored is not None and comparison.baseline != stored.baseline_arm:
            raise ComparisonError(
                f"{folder} holds a comparison against the baseline {stored.baseline_arm}, which was chosen before its "
                f"runs: leave --baseline {comparison.baseline} out, or choose another --output_dir."
            )
    for claim in comparison.claim or ():
        parse_claim(claim, arms)


def plan_looks(comparison: ComparisonArguments, seeds: tuple[int, ...]) -> LookPlan | None:
    """The looks of a comparison that grows until it is decided; None for a comparison of fixed size.

    Raises:
        ComparisonError: If the last look would come before the first.
    """
    if not comparison.until_decided:
        return None
    first = max(2, min(len(seeds), comparison.num_seeds or FIRST_LOOK))
    last = comparison.max_seeds or DEFAULT_MAX_SEEDS
    if last < first:
        raise ComparisonError(
            f"--max_seeds {last} is less than the {first} seeds of the first analysis: give a larger --max_seeds, or a "
            "smaller --num_seeds."
        )
    return LookPlan(first, last)


def plan_tuning(comparison: ComparisonArguments, seeds: tuple[int, ...], stored: Plan | None) -> Tuning | None:
    """The tuning grid of a request; if it gives none, that of the comparison in the folder.

    Args:
        comparison: Flags that define what is compared.
        seeds: Seeds of the compared runs, which the trials must not have.
        stored: The plan of the comparison that the request continues, if there is one.

    Raises:
        ComparisonError: If seeds are requested for the trials of no grid, or there are not as many.
    """
    grids = comparison.step_grid or comparison.learning_rate_grid, comparison.weight_decay_grid
    tuning = None if stored is None else stored.tuning
    taken = {*seeds, *(() if stored is None else stored.seeds)}
    if any(grids):
        learning_rate, weight_decay = (tuple(sorted(set(factors or [1.0]))) for factors in grids)
        unit = "step" if comparison.step_grid else "learning_rate"
        if tuning is None:
            free = itertools.chain((_TRIAL_SEED, max(taken) + 1000, min(taken) - 1000), range(MAX_SEED + 1))
            seed = next(one for one in free if 0 <= one <= MAX_SEED and one not in taken)
            tuning = Tuning(learning_rate, weight_decay, seed, unit, chosen_by="time", can_grow=True)
        tuning = dataclasses.replace(tuning, learning_rate=learning_rate, weight_decay=weight_decay, unit=unit)
    if comparison.trial_seeds is None:
        return tuning
    if tuning is None:
        raise ComparisonError(
            f"--trial_seeds {comparison.trial_seeds} is about the trials of a tuning grid, and there is none: give "
            "--learning_rate_grid, --step_grid or --weight_decay_grid too."
        )
    return _with_trial_seeds(tuning, comparison.trial_seeds, taken)


def _with_trial_seeds(tuning: Tuning, number: int, taken: Collection[int]) -> Tuning:
    """A grid whose points are tried with this number of seeds, of which compared runs have none.

    The first ones are those that it has: fewer seeds than it has are a part of it, as fewer points are.
    """
    further = (seed for seed in range(tuning.seed + 1, MAX_SEED + 1) if seed not in {*tuning.seeds, *taken})
    seeds = tuple(itertools.islice(itertools.chain(tuning.more_seeds, further), number - 1))
    if len(seeds) + 1 < number:
        raise ComparisonError(
            f"There are no {number} seeds for the trials from {tuning.seed} on: start a comparison with a smaller "
            "--seed."
        )
    return dataclasses.replace(tuning, more_seeds=seeds)


def _check_named(flag: str, name: str, arms: list[str]) -> None:
    if name in arms:
        return
    near = difflib.get_close_matches(name, arms, n=1)
    hint = f"did you mean {near[0]}?" if near else "add it to --arms, or choose one of them."
    raise ComparisonError(f"{flag} names the arm {name!r}, which is not among {', '.join(arms)}: {hint}")


def steps_per_epoch(training: ComparisonTrainingArguments, task: Task) -> float:
    """Optimizer steps of an epoch; not a whole number if the last batches do not fill a step."""
    batches = len(task.train) / (training.train_batch_size * training.world_size)
    batches = math.floor(batches) if training.dataloader_drop_last else math.ceil(batches)
    return batches / training.gradient_accumulation_steps


def changed_versions(stored: Plan) -> str:
    """A sentence on the libraries whose versions have changed since a comparison was started; empty if none has."""
    current: dict[str, Any] = versions()
    changed = [
        f"{name} {old} (now {current[name]})"
        for name, old in stored.versions.items()
        if name not in ("hardware", "hf-critmom") and name in current and current[name] != old
    ]
    return f"The comparison was started with {', '.join(changed)}." if changed else ""
