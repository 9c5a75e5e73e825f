"""One run of a comparison: the Trainer of its arm, resumed from its last checkpoint, and the result."""

import copy
import gc
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.data import Subset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_critmom.engines.interface import Load
from hf_critmom.experiments.comparison.arguments import ComparisonTrainingArguments
from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.arms.muon import MuonWithAdamW, decay_groups
from hf_critmom.experiments.comparison.arms.schedules import SCHEDULES
from hf_critmom.experiments.comparison.plan import Run
from hf_critmom.experiments.comparison.records import DIVERGED, FINISHED, RunResult
from hf_critmom.experiments.comparison.running.recorder import EvaluateWithinEpochs, RunRecorder, SaveAfterEvaluation
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import replace_non_finite
from hf_critmom.storage.run_folder import RunFolder
from hf_critmom.storage.typed import from_json
from hf_critmom.tasks import ModelArguments, Task, build_model
from hf_critmom.training.batch_statistics import averages_weights, recalibrate
from hf_critmom.training.callbacks.divergence import StopWhenDiverged, has_diverged
from hf_critmom.training.trackers import name_space, project_name
from hf_critmom.training.trainer import CritMomTrainer

WARM_UP_STEPS = 3


@dataclass(frozen=True)
class ArmRun:
    """A run with its arm: a `Job` of an engine.

    Attributes:
        run: The run.
        arm: The arm, with the learning rate and weight decay of the run.
    """

    run: Run
    arm: Arm

    @property
    def folder(self) -> Path:
        """Folder of the run, within that of the comparison."""
        return self.run.folder

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return self.run.title


@dataclass(frozen=True)
class RunStore:
    """Writes results to the folders of runs: a `Store` of an engine.

    Attributes:
        folder: The comparison's folder.
    """

    folder: Path

    def finished(self, job: ArmRun) -> bool:
        """Whether a run is finished."""
        return RunFolder(self.folder / job.folder).finished()

    def keep(self, job: ArmRun, result: RunResult, load: Load) -> None:
        """Writes a result, completed by the load of the machine that made it."""
        completed = replace(result, load=replace(result.load, **vars(load)))
        RunFolder(self.folder / job.folder).finish(completed.as_json())


class ArmTrainer(CritMomTrainer):
    """The Trainer of one arm, with the arm's optimizer and schedule.

    If the optimizer evaluates other weights than it trains, as Schedule-Free does, the statistics of batch
    normalization belong to the trained weights: they are recomputed for the evaluated ones before each evaluation.
    """

    optimizer: Any

    def __init__(self, arm: Arm, args: TrainingArguments, **kwargs: Any) -> None:
        optimizer_cls_and_kwargs = arm.optimizer_cls_and_kwargs(args.learning_rate)
        super().__init__(args=args, optimizer_cls_and_kwargs=optimizer_cls_and_kwargs, **kwargs)
        self.arm = arm

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Builds the arm's optimizer; one that the Trainer cannot build gets the same param groups."""
        assert self.optimizer_cls_and_kwargs is not None
        build, kwargs = self.optimizer_cls_and_kwargs
        for_muon = build is MuonWithAdamW
        if self.optimizer is None and (for_muon or not isinstance(build, type)):
            model = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(model))
            self.optimizer = build(decay_groups(model, self.args.weight_decay, decayed, for_muon=for_muon), **kwargs)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Builds the arm's schedule."""
        if self.lr_scheduler is None:
            build = SCHEDULES[self.arm.schedule]
            self.lr_scheduler: Any = build(optimizer or self.optimizer, self.args, num_training_steps)
        return self.lr_scheduler

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates, after recomputing the statistics of batch normalization if need be."""
        if self.optimizer is not None and averages_weights(self.optimizer):
            self.optimizer.eval()
            recalibrate(self.model, self.train_dataset, self.args.train_batch_size, self.data_collator)
        return super().evaluation_loop(*args, **kwargs)


def build_trainer(
    model_arguments: ModelArguments, arm: Arm, task: Task, args: TrainingArguments, callbacks: Iterable[TrainerCallback]
) -> ArmTrainer:
    """The Trainer of an arm on a task, with a model whose weights follow from the run's seed.

    Args:
        model_arguments: Flags of the model.
        arm: The arm, with the learning rate and weight decay of the run.
        task: The task.
        args: Training arguments of the run.
        callbacks: Callbacks besides those of the task.
    """
    model = build_model(task, model_arguments, args.seed).to(memory_format=task.memory_format)
    if task.train.on_device:
        args.dataloader_pin_memory = False  # the data is on the device already
    trainer = ArmTrainer(
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


def run_arguments(training: ComparisonTrainingArguments, arm: Arm, run: Run, folder: Path) -> TrainingArguments:
    """Training arguments of one run.

    Args:
        training: Training arguments of the comparison.
        arm: The arm, with the learning rate and weight decay of the run.
        run: The run.
        folder: The run's folder.
    """
    args: Any = copy.deepcopy(training)
    args.output_dir = str(folder)
    args.run_name = run.name
    args.project = project_name(args, Path(str(training.output_dir)))
    args.trackio_static_space_id = args.trackio_static_space_id or False  # else each run would leave a Space of its own
    args.seed = run.seed
    args.data_seed = run.seed
    if arm.learning_rate is not None:
        args.learning_rate = arm.learning_rate
    if arm.weight_decay is not None:
        args.weight_decay = arm.weight_decay
    if run.epochs is not None:
        args.num_train_epochs = run.epochs
    return args


def warm_up(
    training: ComparisonTrainingArguments, model_arguments: ModelArguments, arm: Arm, task: Task, num_steps: int
) -> tuple[float, float]:
    """Runs a few steps, an evaluation and a prediction with the arguments of a run, and discards them.

    This fills caches and imports lazy modules before the first run, and shows whether Trainer, model and metrics accept
    the arguments.

    Args:
        training: Training arguments of the comparison.
        model_arguments: Flags of the model.
        arm: The arm, with the learning rate and weight decay of its runs.
        task: The task.
        num_steps: Number of optimizer steps.

    Returns:
        Seconds of the fastest step, and estimated seconds of an evaluation on the whole validation split, extrapolated
        from one batch.

    Raises:
        ValueError: If the evaluation lacks a metric.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = run_arguments(training, arm, Run(arm.name, training.seed), Path(folder))
        build_trainer(model_arguments, arm, task, args, [])  # with the arguments for saving and logging, too
        best = args.metric_for_best_model
        args.max_steps, args.report_to, args.push_to_hub = num_steps, [], False
        args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
        args.eval_strategy = IntervalStrategy.NO
        clock = _StepClock()
        trainer = build_trainer(model_arguments, arm, task, args, [clock])
        trainer.train()
        size = min(len(task.validation), args.eval_batch_size)
        batch: Any = Subset(task.validation, range(size))
        trainer.evaluate(batch)
        began = time.perf_counter()
        evaluated = trainer.evaluate(batch)
        seconds = (time.perf_counter() - began) * len(task.validation) / size
        trainer.compute_metrics = task.compute_test_metrics
        trainer.predict(batch, metric_key_prefix="test")  # not on the test split, which is read once, at a run's end
        _check_metrics(evaluated, (*task.metrics, *([best.removeprefix("eval_")] if best else ())))
    del trainer
    gc.collect()
    return clock.fastest, seconds


def _check_metrics(metrics: Mapping[str, float], names: Iterable[str]) -> None:
    if missing := [name for name in ("loss", *names) if f"eval_{name}" not in metrics]:
        found = [name.removeprefix("eval_") for name in metrics if not name.endswith(("_runtime", "_second"))]
        raise ValueError(f"evaluations have no {missing[0]}, only {', '.join(found)}")


class _StepClock(TrainerCallback):
    """Measures the fastest step."""

    def __init__(self) -> None:
        self.fastest = float("inf")
        self._began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.fastest = min(self.fastest, time.perf_counter() - self._began)


def execute_run(
    training: ComparisonTrainingArguments,
    model_arguments: ModelArguments,
    arm: Arm,
    run: Run,
    task: Task,
    folder: Path,
    callbacks: Iterable[TrainerCallback] = (),
) -> RunResult:
    """Trains an arm from the run's last complete checkpoint, if there is one, tests it once, and saves the model.

    A trial is neither tested nor saved.

    Args:
        training: Training arguments of the comparison.
        model_arguments: Flags of the model.
        arm: The arm, with the learning rate and weight decay of the run.
        run: The run.
        task: The task.
        folder: The run's folder.
        callbacks: Further callbacks.
    """
    began = time.perf_counter()
    args = run_arguments(training, arm, run, folder)
    recording = [EvaluateWithinEpochs(training.evaluations_per_epoch), SaveAfterEvaluation(), RunRecorder()]
    trainer = build_trainer(model_arguments, arm, task, args, [*recording, StopWhenDiverged(), *callbacks])
    trained = trainer.train(resume_from_checkpoint=trainer.last_complete_checkpoint())
    history = trainer.state.log_history
    diverged = has_diverged(history)
    # Not Trainer.evaluate: with persistent loader workers it would reuse the cached loader of the validation split.
    tested: dict[str, float] = {}
    if run.trial is None:  # a trial must not read the test split
        trainer.compute_metrics = task.compute_test_metrics
        tested = dict(trainer.predict(task.test, metric_key_prefix="test").metrics)
        trainer.log(tested)
        name_space(trainer.model, args.report_to or ())
        trainer.save_model()
        trainer.create_model_card(model_name=f"{task.name}, {run.title}")
    # Resuming replaces the callbacks that were passed.
    recorder = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, RunRecorder))
    result: dict[str, Any] = {
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
        # Time of interrupted launches until the last checkpoint counts, too.
        "trainer_seconds": recorder.wall_seconds + trained.metrics["train_runtime"] + tested.get("test_runtime", 0.0),
        "training_log": [record for record in history if "loss" in record],
        "curvature": [record for record in history if "curvature/top" in record],
        "threads": torch.get_num_threads(),
        **recorder.summary(),
    }
    result["load"]["data"] = "device" if task.train.on_device else "loader"
    del trainer
    gc.collect()
    result["wall_seconds"] = recorder.wall_seconds + time.perf_counter() - began
    return from_json(RunResult, replace_non_finite(result))
