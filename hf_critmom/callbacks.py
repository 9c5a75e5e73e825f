"""Callbacks that report the damping state of a training run, and which layers its mistakes and gradients lie in."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from hf_critmom.damping import damping_ratio, damping_regime
from hf_critmom.diagnosis.attribution import attribute_gradients
from hf_critmom.diagnosis.errors import DiagnosisError
from hf_critmom.diagnosis.gradients import stacked_norms
from hf_critmom.diagnosis.groups import Groups, layer_groups
from hf_critmom.diagnosis.history import read_history, write_history

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)

REGIME_CODES = {"underdamped": -1.0, "critical": 0.0, "overdamped": 1.0}
"""Regimes as the numbers that trackers can plot."""


class LoggingCallback(TrainerCallback):
    """A callback that logs by itself, for which it needs its trainer.

    Trackers receive only what goes through `Trainer.log`, which callbacks are not given:

        trainer.add_callback(DampingCallback(trainer))

    `CritMomTrainer` gives itself to those that were made without one.
    """

    def __init__(self, trainer: "Trainer | None" = None) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is None:
            name = type(self).__name__
            logger.warning(
                f"{name} was constructed without a trainer, so it cannot log: use "
                f"trainer.add_callback({name}(trainer)), or CritMomTrainer."
            )


class DampingCallback(LoggingCallback):
    """Logs momentum, damping ratio and regime of each logging step, of the values the optimizer really used.

    Keys are ``momentum``, ``damping_ratio`` and ``damping_regime`` (-1 underdamped, 0 critical, 1 overdamped), of the
    first param group; a group that differs from it adds its own with ``_group_1`` and so on behind. The ratio is left
    out at learning rate 0, where it is infinite. Momentum is ``momentum`` of SGD-like and the first beta of Adam-like
    optimizers; others log nothing, and say so once.

    `CritMomTrainer` has one built in and merges its values into the record of the loss.
    """

    def __init__(self, trainer: "Trainer | None" = None) -> None:
        super().__init__(trainer)
        self._used: list[tuple[float, float, str, float]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._used = []

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The scheduler has not stepped yet: the groups still hold what this step was made with.
        optimizer = kwargs.get("optimizer")
        if optimizer is None or getattr(optimizer, "step_was_skipped", False):
            return
        self._used = [used for group in optimizer.param_groups if (used := _used_by(group)) is not None]
        if not self._used:
            logger.warning_once(
                f"{type(getattr(optimizer, 'optimizer', optimizer)).__name__} has no momentum in its param groups: "
                "the damping state is not logged."
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.trainer is None or logs is None or not is_training_record(logs) or "momentum" in logs:
            return
        if metrics := self.metrics():
            self.trainer.log(metrics)

    def metrics(self) -> dict[str, float]:
        """The damping state of the last optimizer step, as plain floats; empty before the first."""
        metrics: dict[str, float] = {}
        for index, used in enumerate(self._used):
            if index > 0 and used == self._used[0]:
                continue
            suffix = f"_group_{index}" if index else ""
            lr, momentum, rule, curvature = used
            metrics[f"momentum{suffix}"] = momentum
            if lr > 0.0:
                metrics[f"damping_ratio{suffix}"] = damping_ratio(momentum, lr, rule=rule, curvature=curvature)
            regime = damping_regime(momentum, lr, rule=rule, curvature=curvature)
            metrics[f"damping_regime{suffix}"] = REGIME_CODES[regime]
        return metrics


class AttributionCallback(LoggingCallback):
    """Attributes the mistakes that are left to layer groups, after each evaluation.

    Logs ``eval_attribution/GROUP``, the group's share in the squared norm of the mean gradient on misclassified
    examples (mispredicted tokens of a language model), in a record of its own, and keeps all that `attribute_gradients`
    returns in ``attribution_history.json`` in the output folder. A run goes the same way with it as without it, to the
    bit. Where no gradients can be had (no mistakes, DeepSpeed, FSDP1) it says so once and goes on.

    Args:
        trainer: The trainer; not needed with `CritMomTrainer`.
        every: After which evaluations: every one, every second one, ...
        select: What the gradient is taken of, see `attribute_gradients`.
        groups: Layer groups, see `layer_groups`.
        batch_size: Rows of a backward pass, see `attribute_gradients`.
    """

    def __init__(
        self,
        trainer: "Trainer | None" = None,
        *,
        every: int = 1,
        select: str = "misclassified",
        groups: Groups = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(trainer)
        if every < 1:
            raise DiagnosisError(f"every must be at least 1, got {every}.")
        self.every = every
        self.select = select
        self.groups = groups
        self.batch_size = batch_size
        self.history: list[dict[str, Any]] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        earlier = read_history(args.output_dir) if state.global_step else []
        self.history = [entry for entry in earlier if entry["step"] <= state.global_step]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        trainer = self.trainer
        # The prefix is eval, test, or eval_NAME of one among several evaluation sets.
        timed = next((name for name in metrics or {} if name.endswith("_runtime")), None)
        if trainer is None or timed is None or eval_dataloader is None:
            return
        if sum(timed in record for record in state.log_history) % self.every:
            return
        if obstacle := _obstacle(trainer):
            logger.warning_once(f"AttributionCallback attributes nothing: {obstacle}.")
            return

        def compute_loss(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
            return trainer.compute_loss(model, inputs, return_outputs=True)

        try:
            attribution = attribute_gradients(
                trainer.model,
                eval_dataloader,
                groups=self.groups,
                select=self.select,
                batch_size=self.batch_size,
                compute_loss=compute_loss,
                accelerator=trainer.accelerator,
                label_name=next(iter(trainer.label_names), "labels"),
            )
        except DiagnosisError as error:
            logger.warning_once(f"AttributionCallback attributes nothing after this evaluation. {error}")
            return
        prefix = timed.removesuffix("_runtime")
        trainer.log({f"{prefix}_attribution/{group}": share for group, share in attribution.shares.items()})
        if self.history is None:  # an evaluation without training
            self.history = read_history(args.output_dir)
        found = {"step": state.global_step, "epoch": state.epoch, "prefix": prefix, **attribution.to_dict()}
        self.history.append(found)
        if state.is_world_process_zero:
            write_history(args.output_dir, self.history)


class GradientNormCallback(LoggingCallback):
    """Logs the norm of each layer group's training gradient, before clipping, at the logging steps.

    Keys are ``gradient_norm/GROUP``, in a record of its own beside that of the loss; their squares add up to that of
    the Trainer's ``grad_norm``. Other steps cost nothing, unless logging is by epoch, where each step may be the last.
    Where there are no gradients to see (DeepSpeed, FSDP1) it says so once.

    Args:
        trainer: The trainer; not needed with `CritMomTrainer`.
        groups: Layer groups, see `layer_groups`.
    """

    def __init__(self, trainer: "Trainer | None" = None, *, groups: Groups = None) -> None:
        super().__init__(trainer)
        self.groups = groups
        self._members: list[tuple[str, torch.nn.Parameter]] = []
        self._measured: tuple[int, list[str], torch.Tensor] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._members, self._measured = [], None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is None or not _logs_next_step(args, state):
            return
        if obstacle := _obstacle(self.trainer):
            logger.warning_once(f"GradientNormCallback logs nothing: {obstacle}.")
            return
        if not self._members:  # only now has everything that swaps parameters done so
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            grouped = layer_groups(model, self.groups).of(model)
            self._members = [(name, parameter) for name, members in grouped.items() for parameter in members.values()]
        present = [(name, parameter.grad) for name, parameter in self._members if parameter.grad is not None]
        if present:
            names, gradients = zip(*present, strict=True)
            self._measured = (state.global_step + 1, list(names), stacked_norms(gradients))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.trainer is None or self._measured is None or logs is None or not is_training_record(logs):
            return
        step, names, norms = self._measured
        self._measured = None
        if step != state.global_step:
            return
        squares: dict[str, float] = {}
        for name, norm in zip(names, norms.tolist(), strict=True):
            squares[name] = squares.get(name, 0.0) + norm**2
        # The gradients were clipped by then, all by the factor that the Trainer's norm tells.
        clipped, before = math.sqrt(sum(squares.values())), logs.get("grad_norm", math.nan)
        scale = before / clipped if args.max_grad_norm > 0.0 and 0.0 < clipped <= before < math.inf else 1.0
        self.trainer.log({f"gradient_norm/{name}": scale * math.sqrt(square) for name, square in squares.items()})


def _obstacle(trainer: "Trainer") -> str | None:
    """Why a trainer's gradients cannot be had, if so."""
    if trainer.is_deepspeed_enabled:
        return "DeepSpeed keeps gradients to itself"
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        return "FSDP1 flattens parameters, so that layers have no gradients of their own; FSDP2 does not"
    return None


def _logs_next_step(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the Trainer logs after the step that is being made."""
    step = state.global_step + 1
    if args.logging_strategy == IntervalStrategy.STEPS:
        return step % state.logging_steps == 0 or (args.logging_first_step and step == 1)
    return args.logging_strategy == IntervalStrategy.EPOCH


def is_training_record(logs: Mapping[str, Any]) -> bool:
    """Whether a log record is the Trainer's own of a logging step (not an evaluation, summary or other record)."""
    return "loss" in logs


def _used_by(group: Mapping[str, Any]) -> tuple[float, float, str, float] | None:
    """Learning rate, momentum, rule and curvature of a param group; None if it has no momentum."""
    if "momentum" in group:
        momentum = group["momentum"]
    elif "betas" in group:
        momentum = group["betas"][0]
    else:
        return None
    return float(group["lr"]), float(momentum), group.get("rule", "linear"), group.get("curvature", 1.0)
