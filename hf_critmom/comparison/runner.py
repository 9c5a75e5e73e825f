"""Runs a comparison: every arm with every seed, each result written whole or not at all."""

import copy
import gc
import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import Subset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, get_last_checkpoint

from hf_critmom.comparison.arguments import ComparisonArguments, ComparisonTrainingArguments
from hf_critmom.comparison.arms import Arm, arms_named
from hf_critmom.comparison.errors import ComparisonError
from hf_critmom.comparison.plan import (
    Plan,
    recorded_arm,
    recorded_training_arguments,
    settle_plan,
)
from hf_critmom.comparison.progress import Progress
from hf_critmom.comparison.recorder import RunRecorder, StopWhenDiverged, has_diverged
from hf_critmom.comparison.results import RESULT_FILE, read_result, read_runs, run_folder, write_results
from hf_critmom.errors import reason
from hf_critmom.files import write_json
from hf_critmom.tasks import DataArguments, ModelArguments, Task, build_model, check_model, load_task, task_spec
from hf_critmom.trainer import CritMomTrainer
from hf_critmom.versions import versions


@dataclass(frozen=True)
class Comparison:
    """A comparison as the command line describes it."""

    comparison: ComparisonArguments
    data: DataArguments
    model: ModelArguments
    training: ComparisonTrainingArguments
    command: str = ""


def run_comparison(asked: Comparison) -> Path:
    """Runs what is not yet finished of a comparison.

    Args:
        asked: The arguments.

    Returns:
        The folder with ``comparison.json``, ``runs/ARM/seed-N/`` and ``results.parquet``.

    Raises:
        ComparisonError: If the arguments cannot be followed, or the folder holds a different plan.
        TaskError: If the data or the model cannot be used.
    """
    arms = arms_named(asked.comparison.arms)
    task = load_task(asked.data)
    probe = build_model(task, asked.model, seed=0)
    check_model(probe, task)
    process = PartialState()
    _check_steps(asked.training, len(task.train))
    _check_last_batch(asked.training, task, probe)
    _check_trainer(asked, arms[0], task)
    folder = Path(str(asked.training.output_dir))
    plan = settle_plan(_plan(asked, arms, task, probe.num_parameters()), folder, write=process.is_main_process)
    process.wait_for_everyone()
    del probe

    read_runs(folder, plan)  # a corrupt result is better known now than after hours
    runs = [(arm, seed) for seed in plan.seeds for arm in arms]
    if any(not (run_folder(folder, arm.name, seed) / RESULT_FILE).exists() for arm, seed in runs):
        _rehearse(asked, arms[0], task)
    process.wait_for_everyone()
    with Progress(len(runs), shown=process.is_main_process) as progress:
        for arm, seed in runs:
            result_file = run_folder(folder, arm.name, seed) / RESULT_FILE
            if result_file.exists():
                progress.finished(read_result(result_file), earlier=True)
                continue
            result = _run(asked, arm, seed, task, result_file.parent, progress)
            if process.is_main_process:
                write_json(result_file, result)
                _remove_checkpoints(result_file.parent)
                write_results(folder, plan)
            process.wait_for_everyone()
            progress.finished(result)
    if process.is_main_process:
        write_results(folder, plan)
    process.wait_for_everyone()
    return folder


def _check_steps(training: TrainingArguments, num_examples: int) -> None:
    """Refuses settings under which a run would take no step, or be over before its first evaluation."""
    total_batch_size = training.train_batch_size * training.world_size
    batches = num_examples / total_batch_size
    batches = math.floor(batches) if training.dataloader_drop_last else math.ceil(batches)
    if batches == 0:
        raise ComparisonError(
            f"{num_examples} training images do not fill one batch of {total_batch_size}, and --dataloader_drop_last "
            "drops what is not full: choose a smaller --per_device_train_batch_size."
        )
    steps = math.ceil(batches / training.gradient_accumulation_steps * training.num_train_epochs)
    steps = training.max_steps if training.max_steps > 0 else steps
    if training.eval_strategy == IntervalStrategy.STEPS and training.eval_steps > steps:
        raise ComparisonError(
            f"A run takes about {steps} steps, so with --eval_steps {training.eval_steps:g} it would never be "
            "evaluated: choose fewer, or a share of all steps below 1."
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
            f"{len(task.train)} training images in batches of {size} leave a batch of one image, which "
            f"{type(model).__name__} cannot be trained on ({reason(error)}): choose another "
            "--per_device_train_batch_size, or drop the last batch with --dataloader_drop_last."
        ) from error


def _check_trainer(asked: Comparison, arm: Arm, task: Task) -> None:
    """Builds a Trainer, so that what it refuses is known before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _trainer(asked, arm, task, _run_arguments(asked.training, arm, asked.training.seed, Path(folder)), [])
        except (ImportError, RuntimeError, ValueError) as error:
            raise ComparisonError(f"The Trainer refuses these arguments ({reason(error)}): change them.") from error


def _plan(asked: Comparison, arms: list[Arm], task: Task, num_parameters: int) -> Plan:
    spec = task_spec(asked.data)
    if asked.model.model_name_or_path is None:
        model: dict[str, Any] = {"model": asked.model.model, "width": asked.model.width}
    else:
        model = {"model_name_or_path": asked.model.model_name_or_path}
    return Plan(
        task=task.description(),
        model={**model, "num_parameters": num_parameters},
        arms={arm.name: recorded_arm(arm) for arm in arms},
        seeds=[asked.training.seed + offset for offset in range(asked.comparison.num_seeds)],
        targets=sorted(set(asked.comparison.targets or spec.targets)),
        training=recorded_training_arguments(asked.training),
        versions=versions(),
        command=asked.command,
    )


def _rehearse(asked: Comparison, arm: Arm, task: Task) -> None:
    """A few steps and an evaluation that are thrown away: the first run must not pay for caches and lazy imports."""
    with tempfile.TemporaryDirectory() as folder:
        args = _run_arguments(asked.training, arm, asked.training.seed, Path(folder))
        args.max_steps, args.report_to, args.push_to_hub = 3, [], False
        args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        trainer = _trainer(asked, arm, task, args, callbacks=[])
        trainer.train()
        trainer.evaluate(Subset(task.validation, range(min(len(task.validation), args.eval_batch_size))))


def _trainer(
    asked: Comparison, arm: Arm, task: Task, args: TrainingArguments, callbacks: list[TrainerCallback]
) -> CritMomTrainer:
    # Convolutions on the CPU and in bf16 on a GPU run faster channels-last; other parameters are not affected.
    model = build_model(task, asked.model, args.seed).to(memory_format=torch.channels_last)
    trainer = CritMomTrainer(
        model=model,
        args=args,
        train_dataset=task.train,
        eval_dataset=task.validation,
        data_collator=task.collator,
        processing_class=task.processor,
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits,
        optimizer_cls_and_kwargs=arm.optimizer_cls_and_kwargs(args.learning_rate),
        callbacks=[*callbacks, *task.callbacks()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _run(asked: Comparison, arm: Arm, seed: int, task: Task, folder: Path, progress: Progress) -> dict[str, Any]:
    """One run: trains an arm with a seed from where it stopped, tests it once, saves the model."""
    args = _run_arguments(asked.training, arm, seed, folder)
    callbacks = [RunRecorder(), StopWhenDiverged(), progress.callback(arm.name, seed)]
    trainer = _trainer(asked, arm, task, args, callbacks)
    trained = trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    history = trainer.state.log_history
    diverged = has_diverged(history)
    # With persistent loader workers, Trainer.evaluate would take the cached loader of the validation split again.
    tested = trainer.predict(task.test, metric_key_prefix="test").metrics
    trainer.log(tested)
    trainer.save_model()
    trainer.create_model_card(model_name=f"{task.name}, {arm.name}, seed {seed}")
    recorder = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, RunRecorder))
    result = {
        "arm": arm.name,
        "seed": seed,
        "status": "diverged" if diverged else "finished",
        "steps": trainer.state.global_step,
        "train_seconds": recorder.seconds,
        "train_runtime": trained.metrics["train_runtime"],
        "evaluations": recorder.evaluations,
        "test": {name: tested[f"test_{name}"] for name in ("loss", task.metric)},
        "training_log": [
            {name: value for name, value in record.items() if name != "grad_norm"}
            for record in history
            if "loss" in record
        ],
        "versions": versions(),
    }
    del trainer
    gc.collect()
    return _finite(result)


def _run_arguments(training: TrainingArguments, arm: Arm, seed: int, folder: Path) -> TrainingArguments:
    args = copy.deepcopy(training)
    args.output_dir = str(folder)
    args.run_name = f"{arm.name}-seed-{seed}"
    args.seed = seed
    args.data_seed = seed
    return args


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a run that was written to its end; half-written ones are removed.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint that has a readable one is whole.
    """
    while folder.is_dir() and (checkpoint := get_last_checkpoint(str(folder))) is not None:
        try:
            json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            return checkpoint
        except (FileNotFoundError, json.JSONDecodeError):
            shutil.rmtree(checkpoint)
    return None


def _remove_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _finite(value: Any) -> Any:
    """The value with None in the place of numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
