"""Checks before the plan is written: what would fail after hours fails now, in a sentence, and leaves no trace."""

import math
from collections.abc import Iterable

from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_critmom.errors import InputError, root_message
from hf_critmom.experiments.comparison.arguments import ComparisonRequest, ComparisonTrainingArguments
from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.planning import steps_per_epoch
from hf_critmom.experiments.comparison.running.execution import WARM_UP_STEPS, warm_up
from hf_critmom.tasks import Task
from hf_critmom.tasks.metrics import METRICS

MAX_STEPS = 10**9
"""Largest number of steps of a run that is accepted."""


def check_request(request: ComparisonRequest, task: Task, model: PreTrainedModel) -> None:
    """Checks targets, lengths and batches of a request.

    Args:
        request: The request.
        task: The task.
        model: A model of the task, which may be modified.

    Raises:
        ComparisonError: If runs could not be made or compared.
    """
    _check_targets(request, task)
    _check_steps(request.training, task)
    _check_last_batch(request.training, task, model)


def try_arms(request: ComparisonRequest, arms: Iterable[Arm], task: Task) -> tuple[float, float]:
    """Trains each arm for a few steps and evaluates it, with the request's own flags, and discards the results.

    Args:
        request: The request.
        arms: The arms, with the learning rate and weight decay of their runs.
        task: The task.

    Returns:
        Seconds of an optimizer step and of an evaluation, each the smallest of all arms.

    Raises:
        ComparisonError: If Trainer, optimizer, model or metrics refuse these arguments.
    """
    measured: list[tuple[float, float]] = []
    for arm in arms:
        steps = 1 if measured else WARM_UP_STEPS
        try:
            measured.append(warm_up(request.training, request.model, arm, task, steps))
        except InputError:
            raise
        except Exception as error:  # Trainer, model, optimizer and trackers may raise anything
            raise ComparisonError(
                f"A trial step and evaluation of the arm {arm.name} with these arguments failed "
                f"({root_message(error)}): change them."
            ) from error
    return min(seconds for seconds, _ in measured), min(seconds for _, seconds in measured)


def step_seconds_of(request: ComparisonRequest, arm: Arm, task: Task) -> float:
    """Seconds of an optimizer step of an arm, with the number of threads of this process."""
    return warm_up(request.training, request.model, arm, task, WARM_UP_STEPS)[0]


def _check_targets(request: ComparisonRequest, task: Task) -> None:
    """Refuses targets that the metric cannot reach."""
    metric = METRICS[task.metric]
    for target in request.comparison.targets or ():
        if not (math.isfinite(target) and metric.above < target <= metric.at_most):
            hint = ": write 90 % as 0.9" if metric.at_most == 1.0 else ""
            raise ComparisonError(f"--targets must be {metric.in_words}, got {target:g}{hint}.")


def _check_steps(training: ComparisonTrainingArguments, task: Task) -> None:
    """Refuses settings with which a run would take no step, too many, or end before its first evaluation."""
    split = training.accelerator_config.split_batches
    for size in (training.train_batch_size, training.eval_batch_size) if split else ():
        if size % training.world_size:
            raise ComparisonError(
                f"{training.world_size} processes cannot share batches of {size} equally, as split_batches requires: "
                "choose batch sizes that are multiples of the number of processes."
            )
    an_epoch = steps_per_epoch(training, task)
    if an_epoch == 0:
        raise ComparisonError(
            f"{len(task.train)} training {task.example}s do not fill one batch of "
            f"{training.train_batch_size * training.world_size}, and --dataloader_drop_last drops incomplete batches: "
            "choose a smaller --per_device_train_batch_size."
        )
    shortest, steps = (
        training.max_steps if training.max_steps > 0 else math.ceil(an_epoch * epochs)
        for epochs in (training.budgets[0], training.budgets[-1])
    )
    if steps > MAX_STEPS:
        raise ComparisonError(
            f"A run would take {steps:.2g} steps: choose at most {MAX_STEPS:,}, with --num_train_epochs or --max_steps."
        )
    by_steps = training.eval_strategy == IntervalStrategy.STEPS
    if by_steps and training.eval_steps > steps:
        raise ComparisonError(
            f"A run takes about {steps} steps, so with --eval_steps {training.eval_steps:g} it would never be "
            "evaluated: choose fewer, or a share of all steps below 1."
        )
    length = shortest if by_steps else shortest / an_epoch
    if training.eval_delay > length:
        raise ComparisonError(
            f"A run takes about {length:g} {'steps' if by_steps else 'epochs'}, so with --eval_delay "
            f"{training.eval_delay:g} it would never be evaluated: choose a shorter delay."
        )


def _check_last_batch(training: TrainingArguments, task: Task, model: PreTrainedModel) -> None:
    """Refuses a last batch of one example that the model cannot train on, as batch normalization cannot.

    Several processes always share full batches, so that only the batch size matters for them.
    """
    size = training.train_batch_size
    rest = len(task.train) % size if training.world_size == 1 and not training.dataloader_drop_last else 0
    if (rest or size) > 1:
        return
    try:
        model.train()(**task.collator(task.train.__getitems__([0])))
    except ValueError as error:
        raise ComparisonError(
            f"{len(task.train)} training {task.example}s in batches of {size} leave a batch of one {task.example}, "
            f"which {type(model).__name__} cannot be trained on ({root_message(error)}): choose another "
            "--per_device_train_batch_size, or drop the last batch with --dataloader_drop_last."
        ) from error
