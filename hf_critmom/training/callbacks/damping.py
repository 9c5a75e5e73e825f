"""Logs the damping state of a training run: momentum, damping ratio and regime."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_critmom.damping import damping_ratio, damping_regime
from hf_critmom.training.callbacks.logged import LoggingCallback, is_training_record
from hf_critmom.training.callbacks.observing import log_beside

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)

REGIME_CODES = {"underdamped": -1.0, "critical": 0.0, "overdamped": 1.0}
"""Regimes as numbers, which trackers can plot."""


class _Used(NamedTuple):
    """The values that decide the damping of a step.

    ``nu`` is the weight of quasi-hyperbolic momentum; ``rescaled`` is True if ``lr`` is not the scheduler's learning
    rate, as for the controls.
    """

    lr: float
    rescaled: bool
    momentum: float
    rule: str
    curvature: float
    nu: float | None


class DampingCallback(LoggingCallback):
    """Logs momentum, damping ratio and regime at each logging step, from the values that the optimizer really used.

    Keys are ``momentum``, ``damping_ratio`` and ``damping_regime`` (-1 underdamped, 0 critical, 1 overdamped) for the
    first param group; a group that differs from it adds its own, with ``_group_1`` and so on appended. The ratio is
    left out at learning rate 0, where it is infinite. Ratio and regime are those at curvature 1, or at the
    ``curvature`` in the optimizer's param groups; `CurvatureCallback` measures the real one. Momentum is ``momentum``
    of SGD-like and the first beta of Adam-like optimizers; for others nothing is logged, with one warning.
    Quasi-hyperbolic momentum adds its weight as ``nu``, and the controls add the learning rate that they use in place
    of the scheduler's as ``effective_lr``.

    `CritMomTrainer` has one built in and merges its values into the record of the loss.
    """

    def __init__(self, trainer: "Trainer | None" = None) -> None:
        super().__init__(trainer)
        self._used: list[_Used] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._used = []

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The scheduler has not stepped yet: the groups still hold the values of this step.
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
        if self.trainer is None or logs is None or not is_training_record(logs):
            return
        logged = any(
            "momentum" in record for record in state.log_history[-8:] if record.get("step") == state.global_step
        )
        if not logged and (metrics := self.metrics()):  # CritMomTrainer or another such callback may have logged
            log_beside(self.trainer, metrics)

    def metrics(self) -> dict[str, float]:
        """The damping state of the last optimizer step, as plain floats; empty before the first."""
        metrics: dict[str, float] = {}
        for index, used in enumerate(self._used):
            if index > 0 and used == self._used[0]:
                continue
            suffix = f"_group_{index}" if index else ""
            metrics[f"momentum{suffix}"] = used.momentum
            if used.rescaled:
                metrics[f"effective_lr{suffix}"] = used.lr
            if used.nu is not None:
                metrics[f"nu{suffix}"] = used.nu
            options: dict[str, Any] = {"rule": used.rule, "curvature": used.curvature, "nu": used.nu}
            if used.lr > 0.0:
                metrics[f"damping_ratio{suffix}"] = damping_ratio(used.momentum, used.lr, **options)
            regime = damping_regime(used.momentum, used.lr, **options)
            metrics[f"damping_regime{suffix}"] = REGIME_CODES[regime]
        return metrics


def _used_by(group: Mapping[str, Any]) -> _Used | None:
    """The values of a param group in the current step; None if the group has no momentum."""
    if "momentum" in group:
        momentum = group["momentum"]
    elif "betas" in group:
        momentum = group["betas"][0]
    else:
        return None
    return _Used(
        lr=float(group.get("effective_lr", group["lr"])),
        rescaled="effective_lr" in group,
        momentum=float(momentum),
        rule=group.get("rule", "linear"),
        curvature=group.get("curvature", 1.0),
        nu=group["nu"] if "fixed_nu" in group else None,
    )
