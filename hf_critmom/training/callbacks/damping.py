"""Logs the damping state of a training run: momentum, damping ratio and regime."""

import math
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


class Used(NamedTuple):
    """The values that decide the damping of a step.

    ``lr`` is the learning rate of a heavy ball that takes the same step; ``rescaled`` is True if the optimizer itself
    replaces the scheduler's. ``nu`` is the weight of quasi-hyperbolic momentum, which for Nesterov's momentum is the
    momentum; None for a heavy ball. ``is_damped`` is False if damping is not defined for the optimizer or its values,
    such as momentum 1 and a negative learning rate.
    """

    lr: float
    rescaled: bool
    momentum: float
    rule: str
    curvature: float
    nu: float | None
    is_damped: bool


def used_by(group: Mapping[str, Any]) -> Used | None:
    """The values of a param group in the current step; None if the group has no momentum."""
    if "momentum" in group:
        momentum = float(group["momentum"])
    elif "betas" in group:
        momentum = float(group["betas"][0])
    else:
        return None
    lr = float(group.get("effective_lr", group["lr"]))
    if momentum:  # else torch's SGD does not apply its dampening
        lr *= 1.0 - group.get("dampening", 0.0)
    return Used(
        lr=lr,
        rescaled="effective_lr" in group,
        momentum=momentum,
        rule=group.get("rule", "linear"),
        curvature=group.get("curvature", 1.0),
        nu=group["nu"] if "fixed_nu" in group else momentum if group.get("nesterov") else None,
        is_damped=(is_heavy_ball(group) or "rule" in group) and 0.0 <= momentum < 1.0 and 0.0 <= lr < math.inf,
    )


def trained_groups(optimizer: Any) -> list[dict[str, Any]]:
    """The param groups that hold parameters; all of them where an engine keeps the parameters elsewhere.

    The Trainer makes one group with weight decay and one without, of which adapters leave one empty: no step writes
    into it what it used.
    """
    return [group for group in optimizer.param_groups if group.get("params")] or optimizer.param_groups


_OPTIONS_OF_SCALED_LAYERS = frozenset({"trust_coeff", "trust_coefficient", "wd_ratio"})


def is_heavy_ball(group: Mapping[str, Any]) -> bool:
    """Whether a param group has the momentum of `torch.optim.SGD`, whose steps are those of a damped oscillator.

    RMSprop, Muon and others have a momentum as well, but scale each parameter, so that they see another curvature than
    that of the loss; they have no dampening. LARS and SGDP have one, and scale or project the steps of each layer.
    """
    return "momentum" in group and "dampening" in group and not group.keys() & _OPTIONS_OF_SCALED_LAYERS


class DampingCallback(LoggingCallback):
    """Logs momentum, damping ratio and regime at each logging step, from the values that the optimizer really used.

    Keys are ``momentum``, ``damping_ratio`` and ``damping_regime`` (-1 underdamped, 0 critical, 1 overdamped) for the
    first param group that holds parameters; a group that differs from it adds its own, with ``_group_1`` and so on
    appended. The ratio is left out where it is infinite: at learning rate 0, and for Nesterov's momentum clamped to 0.
    Ratio and regime are those at curvature 1, or at the ``curvature`` in the optimizer's param groups, which is then
    logged as ``damping_curvature``; `CurvatureCallback` measures the real one, and `logged_ratio` gives the ratio at
    any. Momentum is ``momentum`` or the first beta; for optimizers without either nothing is logged, with one warning.
    Optimizers that scale each parameter, such as AdamW, RMSprop and Muon, see another curvature than that of the loss:
    only their momentum is logged, unless a rule of this package sets it (then ratio and regime are those by that rule).
    Quasi-hyperbolic momentum adds its weight as ``nu``, which for Nesterov's momentum is the momentum, and the controls
    add the learning rate that they use in place of the scheduler's as ``effective_lr``.

    `CritMomTrainer` has one built in and merges its values into the record of the loss.
    """

    def __init__(self, trainer: "Trainer | None" = None) -> None:
        super().__init__(trainer)
        self._used: list[Used] = []

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
        self._used = [used for group in trained_groups(optimizer) if (used := used_by(group)) is not None]
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
            if not used.is_damped:
                continue
            options: dict[str, Any] = {"rule": used.rule, "curvature": used.curvature, "nu": used.nu}
            if used.curvature != 1.0:
                metrics[f"damping_curvature{suffix}"] = used.curvature
            if math.isfinite(ratio := damping_ratio(used.momentum, used.lr, **options)):
                metrics[f"damping_ratio{suffix}"] = ratio
            regime = damping_regime(used.momentum, used.lr, **options)
            metrics[f"damping_regime{suffix}"] = REGIME_CODES[regime]
        return metrics


def logged_ratio(record: Mapping[str, Any], curvature: float = 1.0) -> float | None:
    """The damping ratio of a logged step at any curvature; None where it was not logged.

    Under every rule the ratio of a heavy ball is inversely proportional to the square root of the curvature, see
    `damping_ratio`.

    Args:
        record: A record that `DampingCallback` completed; only its first param group counts.
        curvature: The curvature, positive.
    """
    ratio = record.get("damping_ratio")
    if ratio is None:
        return None
    if (nu := record.get("nu")) is not None:
        lr = record.get("effective_lr", record["learning_rate"])
        return damping_ratio(record["momentum"], lr, nu=nu, curvature=curvature)
    return float(ratio) * math.sqrt(record.get("damping_curvature", 1.0) / curvature)
