"""Runs a comparison: every arm with every seed, each result written whole or not at all."""

import copy
import dataclasses
import gc
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.optim import Optimizer
from torch.utils.data import Subset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.arguments import ComparisonArguments, ComparisonTrainingArguments
from hf_critmom.experiments.comparison.arms import ARMS, Arm, get_arms, read_arms
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import Plan, Run, Trial, Tuning, load_or_create_plan
from hf_critmom.experiments.comparison.progress import Progress, RunProgress, SentProgress
from hf_critmom.experiments.comparison.recorder import RunRecorder, SaveBehindEvaluation
from hf_critmom.experiments.comparison.records import DIVERGED, FINISHED, RunResult, TaskRecord
from hf_critmom.experiments.comparison.results import read_results, read_run, tuned_runs, write_results, writing
from hf_critmom.experiments.comparison.schedules import SCHEDULES
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import finite
from hf_critmom.storage.locks import locked
from hf_critmom.storage.plan import plain
from hf_critmom.storage.run_folder import RESULT_FILE, RunFolder, run_all
from hf_critmom.storage.typed import from_json
from hf_critmom.storage.workers import check_workers, run_in_workers, usable_cores
from hf_critmom.tasks import (
    DataArguments,
    ModelArguments,
    Task,
    build_model,
    check_model,
    load_task,
    model_record,
    task_spec,
)
from hf_critmom.tasks.metrics import METRICS
from hf_critmom.tasks.stored_arguments import store_arguments
from hf_critmom.training.arguments import recorded_training_arguments
from hf_critmom.training.callbacks.divergence import StopWhenDiverged, has_diverged
from hf_critmom.training.trainer import CritMomTrainer


@dataclass(frozen=True)
class Comparison:
    """A comparison as the command line describes it."""

    comparison: ComparisonArguments
    data: DataArguments
    model: ModelArguments
    training: ComparisonTrainingArguments
    command: str = ""


def run_comparison(request: Comparison) -> Path:
    """Runs what is not yet finished of a comparison.

    Several launches, on one machine or on several that share the folder, divide the runs among themselves.

    Args:
        request: The arguments.

    Returns:
        The folder with ``comparison.json``, ``runs/ARM/seed-N/`` and ``results.parquet``.

    Raises:
        ComparisonError: If the arguments cannot be followed, the folder holds a different plan, or it cannot be
            written to any more; what is finished then stays.
        TaskError: If the data or the model cannot be used.
    """
    check_workers(request.comparison.workers or 1, request.comparison.threads_per_worker)
    torch.set_num_threads(request.comparison.threads_per_worker)  # before any work: workers are forked from here
    file = request.comparison.arms_file
    known = ARMS if file is None else read_arms(Path(file))
    arms = {arm.name: arm for arm in get_arms(request.comparison.arms, known)}
    task = load_task(request.data, request.model)
    _check_targets(request, task)
    probe = build_model(task, request.model, seed=0)
    check_model(probe, task)
    process = PartialState()
    _check_steps(request.training, task)
    _check_last_batch(request.training, task, probe)
    for arm in arms.values():
        _check_trainer(request, arm, task)
    folder = Path(str(request.training.output_dir))
    with writing(folder):
        requested = _plan(request, arms, task, probe.num_parameters(), folder)
        plan = load_or_create_plan(requested, folder, write=process.is_main_process)
        process.wait_for_everyone()
        del probe
        read_results(folder, plan)  # a corrupt result is better known now than after hours
        runner = _Runner(request, task, plan, folder, arms)
        runner.run_all(plan.trials())
        runner.run_all([*plan.runs(), *runner.tuned_runs()])
        if process.is_main_process:
            write_results(folder, plan)
    process.wait_for_everyone()
    return folder


def num_workers(asked: int | None, process: PartialState) -> int:
    """Number of workers: as many as were asked for, else one per usable core, on an accelerator one.

    Args:
        asked: The number that was asked for, if any.
        process: The state of this process; one of several that a launcher started makes each run together with them.
    """
    if asked is not None:
        return asked
    return usable_cores() if process.device.type == "cpu" and process.num_processes == 1 else 1


class _Runner:
    """Makes runs of one comparison, one after another."""

    def __init__(self, request: Comparison, task: Task, plan: Plan, folder: Path, arms: dict[str, Arm]) -> None:
        self.request, self.task, self.plan, self.folder, self.arms = request, task, plan, folder, arms
        self.process = PartialState()
        self.workers = num_workers(request.comparison.workers, self.process)
        self.is_warm = False

    def run_all(self, runs: list[Run]) -> None:
        """Makes those of the runs that nobody has made, and waits for those that other launches are making."""
        if not runs:
            return
        finished = [run for run in runs if (self.folder / run.folder / RESULT_FILE).exists()]
        workers = max(1, min(self.workers, len(runs) - len(finished)))
        began = time.perf_counter()
        with Progress(len(runs), shown=self.process.is_main_process, workers=workers) as progress:
            if workers == 1:
                self._divide(runs, progress)
            else:
                for run in finished:
                    progress.finished(run, self._result(run), earlier=True)
                run_in_workers(
                    lambda send: self._divide(runs, SentProgress(send)),
                    workers=workers,
                    threads=self.request.comparison.threads_per_worker,
                    handle=progress.handle,
                    died=progress.died,
                )
            progress.took(time.perf_counter() - began)

    def _divide(self, runs: list[Run], progress: RunProgress) -> None:
        """Makes runs as long as there are some that nobody makes."""
        run_all(
            self.folder,
            runs,
            path=lambda run: run.folder,
            execute=lambda run, run_folder: self._execute(run, run_folder, progress),
            finished=lambda run, _, earlier: progress.finished(run, self._result(run), earlier=earlier),
            waiting=progress.waits_for_others,
        )

    def tuned_runs(self) -> list[Run]:
        """The runs of the tuned variants, whose arms this makes known, as the trials chose."""
        results = read_results(self.folder, self.plan)
        runs = []
        for run, choice in tuned_runs(self.plan, results.choices).items():
            if choice.trial != Trial():
                self.arms[run.arm] = dataclasses.replace(self.arms[choice.arm], name=run.arm, base=choice.arm)
                runs.append(run)
        return runs

    def _execute(self, run: Run, run_folder: RunFolder, progress: RunProgress) -> None:
        if not self.is_warm:
            _warm_up(self.request, self.arms[run.arm], self.task)
            self.is_warm = True
        began = time.perf_counter()
        result = _run(self.request, self._arm(run), run, self.task, run_folder.path, progress)
        if self.process.is_main_process:
            result = dataclasses.replace(result, wall_seconds=time.perf_counter() - began)
            run_folder.finish(result.as_json())
            with locked(self.folder, "results"):  # the last launch to write has read every result
                write_results(self.folder, self.plan)
        self.process.wait_for_everyone()

    def _result(self, run: Run) -> RunResult:
        trial = None if (base := self.arms[run.arm].base) is None else self._choice(base, run)
        result = read_run(self.folder, self.plan, run, trial)
        if result is None:
            raise ComparisonError(f"The result of {run.title} has gone from {self.folder}: repeat the command.")
        return result

    def _choice(self, base: str, run: Run) -> Trial:
        """What the trials of an arm chose for a run of its tuned variant."""
        choices = read_results(self.folder, self.plan).choices
        return next(choice.trial for choice in choices if (choice.arm, choice.epochs) == (base, run.epochs))

    def _arm(self, run: Run) -> Arm:
        """The run's arm at the learning rate and weight decay that this run has."""
        arm = self.arms[run.arm]
        trial = run.trial if arm.base is None else self._choice(arm.base, run)
        learning_rate, weight_decay = self.plan.settings(arm, trial)
        return dataclasses.replace(arm, learning_rate=learning_rate, weight_decay=weight_decay)


def _settings(training: TrainingArguments, arm: Arm) -> tuple[float, float]:
    """Peak learning rate and weight decay of an arm: its own, else the comparison's."""
    learning_rate = training.learning_rate if arm.learning_rate is None else arm.learning_rate
    weight_decay = training.weight_decay if arm.weight_decay is None else arm.weight_decay
    return learning_rate, weight_decay


def _check_targets(request: Comparison, task: Task) -> None:
    """Refuses targets that are no values of the task's metric, and a metric that has no targets."""
    metric = METRICS[task.metric]
    for target in request.comparison.targets or ():
        if not (math.isfinite(target) and metric.above < target <= metric.at_most):
            hint = ": write 90 % as 0.9" if metric.at_most == 1.0 else ""
            raise ComparisonError(f"--targets are {metric.in_words}, got {target:g}{hint}.")
    if not request.comparison.targets and task.metric != task.metrics[0]:
        raise ComparisonError(
            f"The task has no targets of its own for --metric {task.metric}: give some with --targets."
        )


def _check_steps(training: ComparisonTrainingArguments, task: Task) -> None:
    """Refuses settings under which a run would take no step, or be over before its first evaluation."""
    split = training.accelerator_config.split_batches
    for size in (training.train_batch_size, training.eval_batch_size) if split else ():
        if size % training.world_size:
            raise ComparisonError(
                f"{training.world_size} processes cannot share batches of {size} equally, as split_batches asks: "
                "choose batch sizes that the number of processes divides."
            )
    total_batch_size = training.train_batch_size * training.world_size
    batches = len(task.train) / total_batch_size
    batches = math.floor(batches) if training.dataloader_drop_last else math.ceil(batches)
    if batches == 0:
        raise ComparisonError(
            f"{len(task.train)} training {task.example}s do not fill one batch of {total_batch_size}, and "
            "--dataloader_drop_last drops what is not full: choose a smaller --per_device_train_batch_size."
        )
    steps_per_epoch = batches / training.gradient_accumulation_steps
    shortest, steps = (
        training.max_steps if training.max_steps > 0 else math.ceil(steps_per_epoch * epochs)
        for epochs in (training.budgets[0], training.budgets[-1])
    )
    by_steps = training.eval_strategy == IntervalStrategy.STEPS
    if by_steps and training.eval_steps > steps:
        raise ComparisonError(
            f"A run takes about {steps} steps, so with --eval_steps {training.eval_steps:g} it would never be "
            "evaluated: choose fewer, or a share of all steps below 1."
        )
    length = shortest if by_steps else shortest / steps_per_epoch
    if training.eval_delay > length:
        raise ComparisonError(
            f"A run takes about {length:g} {'steps' if by_steps else 'epochs'}, so with --eval_delay "
            f"{training.eval_delay:g} it would never be evaluated: choose a shorter delay."
        )


def _check_last_batch(training: TrainingArguments, task: Task, model: PreTrainedModel) -> None:
    """Batch normalisation cannot train on a single value per channel: say so before the first epoch ends in it.

    Several processes always share full batches, so there the question is the batch size alone.
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


def _check_trainer(request: Comparison, arm: Arm, task: Task) -> None:
    """Builds a Trainer with its schedule, so that what it refuses is known before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            args = _run_arguments(request.training, arm, Run(arm.name, 0), Path(folder))
            trainer = _trainer(request, arm, task, args, [])
            trainer.create_optimizer()
            trainer.create_scheduler(_WARM_UP_STEPS)
        except ComparisonError:
            raise
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise ComparisonError(
                f"The Trainer refuses these arguments ({root_message(error)}): change them."
            ) from error


def _plan(request: Comparison, arms: dict[str, Arm], task: Task, num_parameters: int, folder: Path) -> Plan:
    spec = task_spec(request.data)
    training = recorded_training_arguments(request.training)
    if len(request.training.budgets) > 1:
        training["num_train_epochs"] = request.training.budgets
    return Plan(
        task=from_json(TaskRecord, plain(task.description())),
        model={**model_record(task, request.model), "num_parameters": num_parameters},
        arms=arms,
        seeds=tuple(request.training.seed + offset for offset in range(request.comparison.num_seeds)),
        targets=tuple(sorted(set(request.comparison.targets or spec.targets), reverse=not task.greater_is_better)),
        training=training,
        versions=versions(),
        command=request.command,
        tuning=_tuning(request),
        arguments={"data": store_arguments(request.data, folder), "model": store_arguments(request.model, folder)},
    )


def _tuning(request: Comparison) -> Tuning | None:
    grids = request.comparison.learning_rate_grid, request.comparison.weight_decay_grid
    if not any(grids):
        return None
    learning_rate, weight_decay = (tuple(sorted(set(factors or [1.0]))) for factors in grids)
    return Tuning(learning_rate, weight_decay, seed=request.training.seed + request.comparison.num_seeds)


_WARM_UP_STEPS = 3


def _warm_up(request: Comparison, arm: Arm, task: Task) -> None:
    """A few steps and an evaluation that are thrown away: the first run must not pay for caches and lazy imports."""
    with tempfile.TemporaryDirectory() as folder:
        args = _run_arguments(request.training, arm, Run(arm.name, request.training.seed), Path(folder))
        args.max_steps, args.report_to, args.push_to_hub = _WARM_UP_STEPS, [], False
        args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        trainer = _trainer(request, arm, task, args, callbacks=[])
        trainer.train()
        trainer.evaluate(Subset(task.validation, range(min(len(task.validation), args.eval_batch_size))))


class _ArmTrainer(CritMomTrainer):
    """The Trainer of one arm: its optimizer, and its schedule in the place of the Trainer's own."""

    def __init__(self, arm: Arm, args: TrainingArguments, **kwargs: Any) -> None:
        super().__init__(args=args, optimizer_cls_and_kwargs=arm.optimizer_cls_and_kwargs(args.learning_rate), **kwargs)
        self.arm = arm

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Builds the arm's schedule, another one for every training."""
        build = SCHEDULES[self.arm.schedule]
        self.lr_scheduler: Any = build(optimizer or self.optimizer, self.args, num_training_steps)
        return self.lr_scheduler


def _trainer(
    request: Comparison, arm: Arm, task: Task, args: TrainingArguments, callbacks: list[TrainerCallback]
) -> CritMomTrainer:
    model = build_model(task, request.model, args.seed).to(memory_format=task.memory_format)
    trainer = _ArmTrainer(
        arm,
        args,
        model=model,
        train_dataset=task.train,
        eval_dataset=task.validation,
        data_collator=task.collator,
        processing_class=task.processor,
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits,
        callbacks=[*callbacks, *task.callbacks()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _run(request: Comparison, arm: Arm, run: Run, task: Task, folder: Path, progress: RunProgress) -> RunResult:
    """One run: trains an arm with a seed from where it stopped, tests it once, saves the model."""
    args = _run_arguments(request.training, arm, run, folder)
    callbacks = [SaveBehindEvaluation(), RunRecorder(), StopWhenDiverged(), progress.callback(run, task.metric)]
    trainer = _trainer(request, arm, task, args, callbacks)
    trained = trainer.train(resume_from_checkpoint=trainer.last_complete_checkpoint())
    history = trainer.state.log_history
    diverged = has_diverged(history)
    # With persistent loader workers, Trainer.evaluate would take the cached loader of the validation split again.
    tested: dict[str, float] = {}
    if run.trial is None:  # a trial chooses, and must not know the test split
        trainer.compute_metrics = task.compute_test_metrics
        tested = dict(trainer.predict(task.test, metric_key_prefix="test").metrics)
        trainer.log(tested)
        trainer.save_model()
        trainer.create_model_card(model_name=f"{task.name}, {run.title}")
    recorder = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, RunRecorder))
    result = {
        "arm": run.arm,
        "seed": run.seed,
        "status": DIVERGED if diverged else FINISHED,
        "steps": trainer.state.global_step,
        "train_seconds": recorder.seconds,
        "evaluations": recorder.evaluations,
        "test": {name: tested[f"test_{name}"] for name in ("loss", *task.metrics) if tested},
        "versions": versions(),
        "budget": args.num_train_epochs if args.max_steps <= 0 else None,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "trainer_seconds": trained.metrics["train_runtime"] + tested.get("test_runtime", 0.0),
        "load": recorder.load,
        "training_log": [
            {name: value for name, value in record.items() if name != "grad_norm"}
            for record in history
            if "loss" in record
        ],
    }
    del trainer
    gc.collect()
    return from_json(RunResult, finite(result))


def _run_arguments(training: TrainingArguments, arm: Arm, run: Run, folder: Path) -> TrainingArguments:
    args = copy.deepcopy(training)
    args.output_dir = str(folder)
    args.run_name = "-".join(run.folder.parts[1:])
    args.seed = run.seed
    args.data_seed = run.seed
    args.learning_rate, args.weight_decay = _settings(training, arm)
    if run.epochs is not None:
        args.num_train_epochs = run.epochs
    return args
