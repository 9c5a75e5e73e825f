"""What ``hf-critmom run --recorded`` adds to the Trainers of a compared script: the arm, and callbacks that record."""

import functools
import inspect
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.records import RESERVED_NAMES
from hf_critmom.experiments.comparison.running.recorder import RunRecorder
from hf_critmom.experiments.comparison.script.arms import register_arm, set_scheduler
from hf_critmom.experiments.comparison.script.fingerprints import batch_fingerprint, weights_fingerprint
from hf_critmom.experiments.comparison.script.instructions import RECORDING_FILE, Instructions, append_event
from hf_critmom.storage.checkpoint_folders import remove_checkpoints
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import replace_non_finite, write_json
from hf_critmom.storage.redaction import is_secret_name, is_secret_value
from hf_critmom.training.arguments import decisive_arguments
from hf_critmom.training.callbacks.divergence import StopWhenDiverged, has_diverged
from hf_critmom.training.callbacks.logged import gradient_obstacle, is_training_record
from hf_critmom.upstream import multi_tensor_operations

if TYPE_CHECKING:
    from transformers import Trainer

DRY_RUN_STEPS = 3
FIRST_BATCHES, FIRST_LOSSES = 4, 3
"""Numbers of the first batches that are fingerprinted, and of the first steps whose losses are logged."""
SECONDS_BETWEEN_EVENTS = 0.5
TRAINER_STATE_FILE = "trainer_state.json"


@contextmanager
def recorded_run(file: str) -> Iterator[Callable[["Trainer"], None]]:
    """Prepares this process for a run of a compared script.

    The run ends with the command that started it, and a lock ensures that no other process makes the same run.

    Args:
        file: File of the instructions.

    Yields:
        A function to be called with every Trainer that the script constructs.

    Raises:
        ComparisonError: If there are no instructions, or another process is making the run.
    """
    instructions = Instructions.read(file)
    arm = instructions.described_arm()
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":
            try:
                stack.enter_context(FileLock(instructions.lock).acquire(timeout=30.0))
            except Timeout:
                raise ComparisonError(
                    f"Another process is making the run in {instructions.folder}: end it, and repeat the command."
                ) from None
        threading.Thread(target=_end_with_parent, args=(instructions,), daemon=True).start()
        if arm is not None:
            register_arm(arm)
        session = stack.enter_context(Session(instructions))

        def prepare(trainer: "Trainer") -> None:
            session.attach(trainer)
            if arm is not None:
                set_scheduler(trainer, arm)

        yield prepare


class Session:
    """The state of a run in one of its processes: its Trainers, and the recorder of the one that trains.

    Args:
        instructions: The instructions.
    """

    def __init__(self, instructions: Instructions) -> None:
        self.instructions, self.folder = instructions, Path(instructions.folder)
        self.trainers: list[Trainer] = []
        self.trainings = 0
        self.recorder: ScriptRecorder | None = None
        self.began = time.perf_counter()
        self._last_sent = 0.0
        self._optim_was_read = False
        self._undo = ExitStack()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def attach(self, trainer: "Trainer") -> None:
        """Adds the callbacks that record a Trainer."""
        if not self.trainers:
            self._watch_optim()
        self.trainers.append(trainer)
        _pickle_without_secrets(type(trainer.args))
        trainer.args.logging_nan_inf_filter = False  # it would hide losses that are not finite
        ScriptRecorder.session = self
        # Through the handler, because a subclass may override add_callback and is not yet constructed.
        trainer.callback_handler.add_callback(ScriptRecorder())
        trainer.callback_handler.add_callback(StopWhenDiverged())

    def own_optimizer(self, trainer: "Trainer", optimizer: Any) -> str:
        """Class of an optimizer that the script has passed regardless of ``--optim``; empty if it has not."""
        found = type(getattr(optimizer, "optimizer", optimizer))
        if self._optim_was_read or optimizer is None:
            return ""
        return "" if trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)[0] is found else found.__name__

    def _watch_optim(self) -> None:
        """Detects whether any Trainer looks up the optimizer of ``--optim``."""
        from transformers import Trainer

        look_up = Trainer.get_optimizer_cls_and_kwargs

        @functools.wraps(look_up)
        def look_up_and_note(*args: Any, **kwargs: Any) -> Any:
            self._optim_was_read = True
            return look_up(*args, **kwargs)

        name = look_up.__name__
        setattr(Trainer, name, staticmethod(look_up_and_note))
        self._undo.callback(setattr, Trainer, name, staticmethod(look_up))

    def send(self, *event: Any, at_once: bool = False) -> None:
        """Sends an event to the command, at most one every `SECONDS_BETWEEN_EVENTS` unless it is urgent."""
        now = time.perf_counter()
        if at_once or now - self._last_sent >= SECONDS_BETWEEN_EVENTS:
            self._last_sent = now
            append_event(self.folder, *event)


def _pickle_without_secrets(arguments: type[TrainingArguments]) -> None:
    """Keeps tokens out of ``training_args.bin``, which the Trainer saves; the script's own object keeps them.

    Args:
        arguments: Class of the script's training arguments.
    """

    def state(self: TrainingArguments) -> dict[str, Any]:
        secret = {name for name, value in vars(self).items() if is_secret_name(name) and is_secret_value(value)}
        return {name: None if name in secret else value for name, value in vars(self).items()}

    arguments.__getstate__ = state  # type: ignore[assignment]


class ScriptRecorder(RunRecorder):
    """Records a script's run: like `RunRecorder`, with fingerprints, first losses, gradient norms and later metrics.

    Checkpoints store its state, which it restores by itself when the script resumes from one.

    Args:
        seconds: Seconds of training in earlier parts of the run.
    """

    session: Session

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(seconds)
        self.pairing: dict[str, Any] = {"weights": None, "batches": [], "first_losses": []}
        self.gradient_norms: dict[str, float] = {}
        self.final: dict[str, float] = {}
        self.test: dict[str, float] = {}
        self.trained = False
        self.own_optimizer = ""
        self.step_seconds = math.inf
        self.evaluation_seconds: float | None = None
        self._training = False
        self._elsewhere = False  # while another dataset than the Trainer's own is evaluated
        self._step_began = 0.0
        self._norm: tuple[int, torch.Tensor] | None = None
        self._conditions: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        """The state that checkpoints store."""
        state = super().state()
        own = {"pairing": self.pairing, "gradient_norms": self.gradient_norms}
        return {**state, "attributes": {**state["attributes"], **own}}

    @property
    def trainer(self) -> "Trainer":
        """The Trainer that it is a callback of."""
        return next(one for one in self.session.trainers if self in one.callback_handler.callbacks)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.session.trainings += 1
        if self.session.recorder is not None:  # it would remove the checkpoints of the first training
            first = self.session.recorder
            first._record(first.trainer.args, first.trainer.state)
            sys.exit(1)
        self.session.recorder = self
        self._training = True
        if state.global_step:
            stored: Any = (state.stateful_callbacks or {}).get(type(self).__name__, {})
            stored = stored[0] if isinstance(stored, list) else stored
            self.seconds = stored.get("args", {}).get("seconds", self.seconds)
            for name, value in stored.get("attributes", {}).items():
                setattr(self, name, value)
        else:
            if state.is_world_process_zero:  # those of an earlier attempt, from which the script does not resume
                remove_checkpoints(self.session.folder)
            self.pairing["weights"] = weights_fingerprint(kwargs["model"])
        self.own_optimizer = self.session.own_optimizer(self.trainer, kwargs.get("optimizer"))
        if len(self.pairing["batches"]) < FIRST_BATCHES:
            self._watch_batches()
        self._watch_evaluations()
        self._record(args, state)
        self.session.send("begin", int(state.global_step), int(state.max_steps), at_once=True)
        super().on_train_begin(args, state, control, **kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        self._step_began = time.perf_counter()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures the gradient norm at logging steps if the Trainer does not, because it does not clip."""
        step = state.global_step + 1
        if args.max_grad_norm or args.logging_strategy != IntervalStrategy.STEPS or step % state.logging_steps:
            return
        gradients = [one.grad for one in kwargs["model"].parameters() if one.grad is not None]
        if gradients and gradient_obstacle(self.trainer) is None and type(gradients[0]) is torch.Tensor:
            norms = multi_tensor_operations()["norm"](gradients)
            self._norm = (step, torch.stack([norm.float() for norm in norms]).norm())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        if step > 1:
            self.step_seconds = min(self.step_seconds, time.perf_counter() - self._step_began)
        if step <= FIRST_LOSSES and args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True
        if self.session.instructions.dry_run and (step >= DRY_RUN_STEPS or last):
            control.should_evaluate = control.should_training_stop = True
            control.should_save = False
        elif last and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True
        super().on_step_end(args, state, control, **kwargs)
        if state.is_world_process_zero:
            self.session.send("step", step, at_once=last)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or not is_training_record(logs):
            return
        if state.global_step <= FIRST_LOSSES and len(self.pairing["first_losses"]) < FIRST_LOSSES:
            self.pairing["first_losses"].append(logs["loss"])
        if self._norm is not None and self._norm[0] == state.global_step:
            self.gradient_norms[str(state.global_step)] = float(self._norm[1])
        self._norm = None

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        measured = _numbers(metrics)
        if self._elsewhere and "eval_runtime" in measured:  # under the names of the Trainer's own dataset
            return
        if not self._training:  # after training
            self._measured_after(measured)
            return
        before = self.evaluations[-1] if self.evaluations else {}
        number = len(self.evaluations)
        super().on_evaluate(args, state, control, metrics=measured, **kwargs)
        if len(self.evaluations) > max(number, 1) and before.get("step") == state.global_step:  # under other names
            self.evaluations[-2:] = [{**self.evaluations[-1], **before}]  # the first value of a name is the Trainer's
        self.evaluation_seconds = measured.get("eval_runtime", self.evaluation_seconds)
        if state.is_world_process_zero and self.evaluations:
            self._record(args, state)
            self.session.send(
                "evaluated", float(state.epoch or 0.0), replace_non_finite(self.evaluations[-1]), at_once=True
            )

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not self._training:
            self._measured_after(_numbers(metrics))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_end(args, state, control, **kwargs)
        self._training, self.trained = False, True
        if state.is_world_process_zero:
            state.save_to_json(str(self.session.folder / TRAINER_STATE_FILE))
        self._record(args, state)
        if self.session.instructions.dry_run:
            sys.exit(0)

    def _measured_after(self, measured: Mapping[str, float]) -> None:
        """Keeps metrics from after training; a Trainer that only evaluates may have measured a test split."""
        recorder = self.session.recorder
        if recorder is None:  # no Trainer has trained yet
            return
        recorder.test.update(_without_prefix(measured, "test_"))
        if recorder is self:
            self.final.update(_without_prefix(measured, "eval_"))
        recorder._record(recorder.trainer.args, recorder.trainer.state)

    def _watch_batches(self) -> None:
        """Takes the fingerprints of the first batches on which the Trainer trains."""
        trainer, batches = self.trainer, self.pairing["batches"]
        train = trainer.training_step

        def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            batches.append(batch_fingerprint(inputs))
            if len(batches) >= FIRST_BATCHES:
                del trainer.training_step  # which restores the method of the class
            return train(model, inputs, *args, **kwargs)

        trainer.training_step = training_step

    def _watch_evaluations(self) -> None:
        """Notes whether an evaluation is of the Trainer's own dataset, and stops the clock."""
        trainer, evaluate = self.trainer, self.trainer.evaluate
        signature = inspect.signature(evaluate)

        @functools.wraps(evaluate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            dataset = signature.bind(*args, **kwargs).arguments.get("eval_dataset")
            before, self._elsewhere = self._elsewhere, self._elsewhere or not _is_part(dataset, trainer.eval_dataset)
            try:
                with self.stopped():
                    return evaluate(*args, **kwargs)
            finally:
                self._elsewhere = before

        trainer.evaluate = watched

    def _record(self, args: TrainingArguments, state: TrainerState) -> None:
        """Writes the recording so far, completely or not at all."""
        if not state.is_world_process_zero:
            return
        if not self._conditions:
            self._conditions = _conditions(self.trainer, args, state)
        recorded = {
            **self._conditions,
            "trainings": self.session.trainings,
            "trained": self.trained,
            "own_optimizer": self.own_optimizer,
            "diverged": has_diverged(state.log_history),
            "steps": state.global_step,
            "evaluations": self.evaluations,
            "final": self.final,
            "test": self.test,
            "pairing": self.pairing,
            "gradient_norms": self.gradient_norms,
            "train_seconds": self.seconds,
            "wall_seconds": self.wall_seconds + time.perf_counter() - self.session.began,
            "step_seconds": self.step_seconds if math.isfinite(self.step_seconds) else None,
            "evaluation_seconds": self.evaluation_seconds,
            "summary": self.summary(),
        }
        write_json(self.session.folder / RECORDING_FILE, replace_non_finite(recorded))


def _conditions(trainer: "Trainer", args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """The part of a recording that stays the same during a run."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside PEFT's wrapper
    epochs = state.max_steps / args.num_train_epochs if args.max_steps <= 0 else None
    return {
        "output_dir": str(Path(str(args.output_dir)).resolve()),
        "seed": args.seed,
        "optim": str(getattr(args.optim, "value", args.optim)),
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "num_train_epochs": args.num_train_epochs,
        "args_max_steps": args.max_steps,
        "max_steps": state.max_steps,
        "steps_per_epoch": epochs,
        "training": decisive_arguments(args),
        "model": type(base).__name__,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_trained_parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "examples": {"train": _length(trainer.train_dataset), "validation": _length(trainer.eval_dataset)},
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def _numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """The metrics that are numbers, as Python floats."""
    found = {}
    for name, value in (metrics or {}).items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            continue
    return found


def _without_prefix(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix)
        and not name.endswith(("_runtime", "_per_second", "_time"))
        and name.removeprefix(prefix) not in RESERVED_NAMES
    }


def _is_part(dataset: Any, own: Any) -> bool:
    """Whether a dataset that is passed to ``Trainer.evaluate`` is the Trainer's own, or one of its own by name."""
    parts = list(own.values()) if isinstance(own, Mapping) else []
    return dataset is None or isinstance(dataset, str) or any(dataset is one for one in (own, *parts))


def _length(dataset: Any) -> int | None:
    """Number of examples of a dataset, or of several datasets by name; None if it is not known."""
    try:
        if isinstance(dataset, Mapping):
            return sum(len(one) for one in dataset.values())
        return None if dataset is None or isinstance(dataset, str) else len(dataset)
    except TypeError:
        return None


def _end_with_parent(instructions: Instructions) -> None:
    """Ends this process when the command that started it has ended, even if that was killed."""
    while not instructions.parent.has_ended():
        time.sleep(0.5)
    os._exit(1)
