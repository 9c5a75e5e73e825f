"""Measures curvature and gradient noise during training, and passes the curvature to optimizers that need it."""

import copy
import dataclasses
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_critmom.attribution.groups import Groups, layer_groups
from hf_critmom.curvature import (
    CurvatureError,
    Measurement,
    NoiseSample,
    NoiseScale,
    measure_along,
    measure_curvature,
    noise_scale,
    preserved,
    sample_noise,
)
from hf_critmom.curvature.eigenvalue import check_tolerance
from hf_critmom.curvature.objective import BATCH_NORM_MODES, count_rows, summed
from hf_critmom.curvature.products import METHODS
from hf_critmom.damping import damping_ratio, damping_regime
from hf_critmom.errors import root_message
from hf_critmom.optim.qhm import set_measured_curvature
from hf_critmom.training.callbacks.damping import REGIME_CODES, Used, is_heavy_ball, trained_groups, used_by
from hf_critmom.training.callbacks.logged import LoggingCallback
from hf_critmom.training.callbacks.observing import log_beside, observing_copy
from hf_critmom.training.callbacks.reading import left_alone

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)

POINTS = (0.0, 0.02, 0.1, 0.35, 0.65)
"""Default points of measurement as shares of a run: dense at the beginning, where curvature changes most."""
MOST_EXAMPLES = 256
"""Largest default number of examples to measure on; fewer if one total batch is smaller."""
NOISE_BATCHES = 8
"""Smallest number of small batches that the examples are divided into for the noise scale."""
POINTS_OF_NOISE = 4
"""Number of last measurements from which the noise scale is estimated together; that before the first step is not
among them."""
_STATE = "CurvatureCallback.noise"
"""Name of these measurements in the checkpointed state. The Trainer restores a state by the name of its callback,
by constructing the callback anew, without its trainer: hence a name of its own."""


class _Examples(NamedTuple):
    """Examples in batches of the training's size, and in the small ones that the gradient noise is sampled from."""

    batches: list[Any]
    small: list[Any]
    rows: int


class CurvatureCallback(LoggingCallback):
    """Logs the curvature of the training loss, the damping at that curvature, and the gradient noise scale.

    The keys, in a record of their own:

    * ``curvature/top``, the largest eigenvalue of the Hessian, with its residual ``curvature/top_residual``;
      ``curvature/gradient`` and ``curvature/update``, along the gradient and along the last step;
    * ``curvature/top_damping_ratio`` and ``curvature/top_damping_regime`` (-1 underdamped, 0 critical, 1 overdamped):
      those of the last step of the first param group at that curvature, and likewise for ``gradient`` and ``update``.
      They are left out if a curvature is not positive, because nothing oscillates there, and for optimizers other than
      SGD with momentum;
    * ``noise_scale``, in examples, with the ends of its 90 percent interval, ``noise_scale_low`` and
      ``noise_scale_high`` (an end that cannot be determined is left out), and ``noise_scale_rows``, the size of the
      small batches that it was estimated from; it is that of the last four measurements together, without the one
      before the first step, which stands alone;
    * ``curvature/mean_step``, ``lr / (1 - mu)`` of the last step: if its product with ``curvature/top`` exceeds 2,
      plain SGD with the same mean step is unstable;
    * ``curvature/seconds``, the duration of the measurement, and ``curvature/time_share``, the share of all
      measurements in the time since training began; a run ends with ``curvature/total_seconds`` and the final share.

    A run is bit-identical with and without the callback, unless the optimizer uses the measured curvature
    (``critmom_qhm`` with ``curvature=auto``), or dataset, collator or loss draw from a generator that is not found,
    such as one of another module, see `hf_critmom.curvature.owned.reachable`. The callback measures the loss that the
    trainer computes and weighs accumulated batches as the trainer does, on training examples as they are augmented at
    that step, in batches of the training's size; dropout is off, batch normalization uses the statistics of these
    batches where it does so in training, and mixed precision is off. Examples without any labelled token are left out.
    If curvature cannot be measured (sharded parameters, datasets without a length, an error in the model), the training
    goes on, and each reason is warned of once in a run.

    By default it measures at five points of the run, each time on one batch and to 10 percent, which takes about as
    long as 40 training steps: at most 5 percent of a run of 5,000 steps or more.

    Args:
        trainer: The trainer; not needed with `CritMomTrainer`.
        every: Number of steps between two measurements, the first before the first step; None: five points of the run.
        examples: Number of training examples to measure on, over all processes; by default 512 if ``every`` is given.
        groups: Layer groups to measure as well, see `layer_groups`; True for the automatic ones. Their keys are
            ``curvature/GROUP/top`` and so on. Each group costs about as much as the whole network.
        method: See `measure_curvature`.
        batch_norm: See `measure_curvature`.
        tolerance: Largest residual of the top eigenvalue, as a share of it; default: 0.05 with ``every``, else 0.1.
        on_demand: Whether to measure only if the optimizer needs the curvature.
        around: Makes a context for each measurement, such as one that stops a clock; called with the trainer.
    """

    def __init__(
        self,
        trainer: "Trainer | None" = None,
        *,
        every: int | None = None,
        examples: int | None = None,
        groups: Groups | bool = False,
        method: str = "auto",
        batch_norm: str = "train",
        tolerance: float | None = None,
        on_demand: bool = False,
        around: Callable[["Trainer"], AbstractContextManager[Any]] = lambda trainer: nullcontext(),
    ) -> None:
        super().__init__(trainer)
        for name, number in (("every", every), ("examples", examples)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise CurvatureError(f"{name}={number!r} is not valid: expected a whole number of at least 1.")
        if tolerance is not None:
            check_tolerance(tolerance)
        for name, value, known in (("method", method, METHODS), ("batch_norm", batch_norm, BATCH_NORM_MODES)):
            if value not in known:
                raise CurvatureError(f"{name}={value!r} is not known: choose one of {', '.join(known)}.")
        self.every = every
        self.examples = examples
        self.groups = groups
        self.method = method
        self.batch_norm = batch_norm
        self.tolerance = tolerance or (0.1 if every is None else 0.05)
        self.max_iterations = 10 if every is None and tolerance is None else 50
        self.on_demand = on_demand
        self.around = around
        self._started = 0.0
        self._seconds = 0.0
        self._before: dict[str, torch.Tensor] = {}
        self._used: Used | None = None
        self._noise: deque[NoiseSample] = deque(maxlen=POINTS_OF_NOISE)
        self._warned: set[str] = set()

    # ----------------------------------------------------------------------------------------------------------- when

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.on_demand:
            super().on_train_begin(args, state, control, **kwargs)
        self._started, self._seconds, self._before = time.perf_counter(), 0.0, {}
        self._noise.clear()
        self._noise.extend(_noise_sample(**stored) for stored in state.stateful_callbacks.get(_STATE, ()))
        self._warned.clear()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = kwargs.get("optimizer")
        if state.global_step == 0 and self._is_due(0, state, optimizer):
            self._used = _used_by(optimizer)
            self._measure_beside(args, state, optimizer, kwargs.get("train_dataloader"))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is not None and self._is_due(state.global_step + 1, state, kwargs.get("optimizer")):
            trainable = (item for item in self.trainer.model.named_parameters() if item[1].requires_grad)
            self._before = {name: parameter.detach().clone() for name, parameter in trainable}

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._before:  # the scheduler has not stepped yet: the groups still hold the values of this step
            self._used = _used_by(kwargs.get("optimizer"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        optimizer = kwargs.get("optimizer")
        if self._is_due(state.global_step, state, optimizer):
            self._measure_beside(args, state, optimizer, kwargs.get("train_dataloader"))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is not None and self._seconds:
            log_beside(
                self.trainer,
                {"curvature/total_seconds": round(self._seconds, 3), "curvature/time_share": self._time_share()},
            )

    def _is_due(self, step: int, state: TrainerState, optimizer: Any) -> bool:
        if self.trainer is None or optimizer is None or (self.on_demand and not _asks_for_curvature(optimizer)):
            return False
        if self.every is not None:
            return step % self.every == 0
        return step in {round(point * state.max_steps) for point in POINTS}

    # ----------------------------------------------------------------------------------------------------------- what

    def _measure_beside(self, args: TrainingArguments, state: TrainerState, optimizer: Any, dataloader: Any) -> None:
        assert self.trainer is not None
        with self.around(self.trainer):
            self._measure(args, state, optimizer, dataloader)

    def _measure(self, args: TrainingArguments, state: TrainerState, optimizer: Any, dataloader: Any) -> None:
        trainer = self.trainer
        assert trainer is not None
        began = time.perf_counter()
        metrics = self._try_to_measure(trainer, args, state, optimizer, dataloader)
        seconds = time.perf_counter() - began
        self._seconds += seconds  # a measurement that failed takes time, too
        if metrics:
            log_beside(trainer, {**metrics, "curvature/seconds": seconds, "curvature/time_share": self._time_share()})

    def _try_to_measure(
        self, trainer: "Trainer", args: TrainingArguments, state: TrainerState, optimizer: Any, dataloader: Any
    ) -> dict[str, float]:
        """Measures, hands the curvature to the optimizer, and returns what to log; empty if it cannot be measured."""
        before, self._before = self._before, {}
        try:
            if trainer.is_deepspeed_enabled:
                raise CurvatureError(
                    "DeepSpeed does not expose parameters and gradients: measure a checkpoint instead."
                )
            examples = self._read(trainer, args, dataloader)
            measured, along_update, noise = self._measured(trainer, examples, before)
            metrics = self._metrics(measured, along_update, noise)
        except Exception as error:
            if args.world_size > 1 and not isinstance(error, CurvatureError):
                raise  # the other processes wait for what this one does not reach
            self._warn(f"CurvatureCallback measures nothing at step {state.global_step}", _reason(error))
            return {}
        if measured.top.value > 0.0:
            set_measured_curvature(optimizer.param_groups, measured.top.value)
        elif _asks_for_curvature(optimizer):
            self._warn(
                f"The top curvature at step {state.global_step} is {measured.top.value:.3g}",
                "Nothing oscillates where it is not positive: critmom_qhm keeps the curvature that it has.",
            )
        return metrics

    def _warn(self, what: str, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            logger.warning(f"{what}. {reason}")

    def _measured(
        self, trainer: "Trainer", examples: _Examples, before: dict[str, torch.Tensor]
    ) -> tuple[Measurement, float | None, NoiseScale | None]:
        model: torch.nn.Module = trainer.model
        common: dict[str, Any] = {
            "compute_loss": _mean_loss(trainer),
            "batch_norm": self.batch_norm,
            "accelerator": trainer.accelerator,
        }
        mean: dict[str, Any] = {"method": self.method, "weighting": _weighting(trainer), **common}
        along_update = None
        if before:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in before:
                        before[name].neg_().add_(parameter)
                    elif parameter.requires_grad:  # since the step
                        before[name] = torch.zeros_like(parameter)
            along_update = measure_along(model, examples.batches, before, **mean)
            before.clear()  # as large as the gradient
        groups = None
        if self.groups is not False:
            groups = layer_groups(model, None if self.groups is True else self.groups).of(model)
        measured = measure_curvature(
            model,
            examples.batches,
            groups=groups,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            **mean,
        )
        noise = None
        try:
            rows = max(map(count_rows, examples.small))
            if summed(float(rows != examples.rows), trainer.accelerator):  # every process must know
                raise CurvatureError(f"The collator makes {rows} rows of {examples.rows} examples, so none is alone.")
            self._noise.append(sample_noise(model, examples.small, rows=rows, **common))
            noise = noise_scale(self._noise)
            if trainer.state.global_step == 0:  # an untrained network's would count for the points that follow
                self._noise.clear()
            trainer.state.stateful_callbacks[_STATE] = [dataclasses.asdict(sample) for sample in self._noise]
        except Exception as error:
            if trainer.args.world_size > 1 and not isinstance(error, CurvatureError):
                raise
            self._warn("CurvatureCallback logs no noise scale", _reason(error))
        return measured, along_update, noise

    def _read(self, trainer: "Trainer", args: TrainingArguments, dataloader: Any) -> _Examples:
        """The same training examples at every measurement of a run, augmented as they are at this step."""
        dataset: Any = getattr(dataloader, "dataset", None)
        collate: Any = getattr(dataloader, "collate_fn", None)
        indexed = hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)
        if not indexed or collate is None:
            raise CurvatureError(
                "The training dataset has no length or no index, so the same examples cannot be read again: curvature "
                "is measured on datasets that have both."
            )
        of_process = trainer.state.train_batch_size or args.train_batch_size  # auto_find_batch_size may lower it
        size = max(of_process // max(args.n_gpu, 1), 1)
        step = size * args.gradient_accumulation_steps * args.world_size
        wanted = self.examples or (512 if self.every else min(MOST_EXAMPLES, step))
        seed = args.seed if args.data_seed is None else args.data_seed
        count = min(wanted, len(dataset)) // args.world_size  # of each process: all have as many batches
        if not count:
            raise CurvatureError(
                f"{min(wanted, len(dataset))} examples are too few for {args.world_size} processes: each needs one."
            )
        count = max(count - count % size, min(count, size))  # batches of equal size, if there are several
        drawn = random.Random(seed).sample(range(len(dataset)), count * args.world_size)
        own = Subset(dataset, drawn[args.process_index :: args.world_size])
        with preserved(trainer.model), left_alone(dataset, collate):  # reading may draw random numbers
            torch.manual_seed(seed)  # the same each time
            random.seed(seed)
            np.random.seed(seed % 2**32)
            batches = list(DataLoader(own, size, collate_fn=collate))
            rows = min(size, count, max(count // NOISE_BATCHES, 2))
            if rows == size:
                return _Examples(batches, batches, rows)
            return _Examples(batches, list(DataLoader(own, rows, drop_last=True, collate_fn=collate)), rows)

    def _metrics(self, measured: Measurement, along_update: float | None, noise: NoiseScale | None) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, value in (("top", measured.top.value), ("gradient", measured.gradient), ("update", along_update)):
            if value is not None:
                metrics[f"curvature/{name}"] = value
                metrics |= self._damping(f"curvature/{name}", value)
        metrics["curvature/top_residual"] = measured.top.residual
        for group, curvature in measured.groups.items():
            metrics[f"curvature/{group}/top"] = curvature.top.value
            if curvature.gradient is not None:
                metrics[f"curvature/{group}/gradient"] = curvature.gradient
        if noise is not None:
            told = {"noise_scale": noise.value, "noise_scale_low": noise.low or None, "noise_scale_high": noise.high}
            metrics |= {name: value for name, value in told.items() if value is not None and math.isfinite(value)}
            metrics["noise_scale_rows"] = float(noise.rows[0])
        if self._used is not None and self._used.is_damped and self._used.lr > 0.0:
            metrics["curvature/mean_step"] = self._used.lr / (1.0 - self._used.momentum)
        return metrics

    def _damping(self, prefix: str, curvature: float) -> dict[str, float]:
        """Damping ratio and regime of the last step at a curvature; empty where they are not defined."""
        used = self._used
        if used is None or not used.is_damped or curvature <= 0.0 or used.lr <= 0.0:
            return {}
        options: dict[str, Any] = {"momentum": used.momentum, "lr": used.lr, "rule": used.rule, "nu": used.nu}
        options["curvature"] = curvature
        ratio = damping_ratio(**options)
        logged = {f"{prefix}_damping_ratio": ratio} if math.isfinite(ratio) else {}
        return {**logged, f"{prefix}_damping_regime": REGIME_CODES[damping_regime(**options)]}

    def _time_share(self) -> float:
        return self._seconds / max(time.perf_counter() - self._started, 1e-9)


class _OnDemand(CurvatureCallback):
    """A class of its own: Transformers warns of a callback whose class is there already, such as the user's."""


def give_curvature_callback(trainer: Any) -> None:
    """Gives a trainer an on-demand `CurvatureCallback`, unless it has one.

    Args:
        trainer: The trainer. An on-demand callback that it has is removed if it has another one as well.
    """
    handler = trainer.callback_handler
    present = [one for one in handler.callbacks if isinstance(one, CurvatureCallback)]
    if not present:  # through the handler: a subclass may override add_callback, and not be constructed yet
        handler.add_callback(_OnDemand(trainer, on_demand=True))
    for callback in present:
        if callback.on_demand and len(present) > 1:
            handler.remove_callback(callback)


def _asks_for_curvature(optimizer: Any) -> bool:
    return any(
        group.get("curvature_source", "given") != "given" and group.get("fixed_nu") is None
        for group in optimizer.param_groups
    )


def _reason(error: Exception) -> str:
    """Why something was not measured."""
    if isinstance(error, CurvatureError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return (
            "There is not enough memory: lower per_device_train_batch_size, by which the examples are divided, or "
            "measure a checkpoint instead."
        )
    return f"{type(error).__name__}: {root_message(error)}"


def _noise_sample(*, traces: Sequence[float], squares: Sequence[float], **fields: Any) -> NoiseSample:
    """A sample from the state of a checkpoint, which is JSON and knows no tuples."""
    return NoiseSample(**fields, traces=tuple(traces), squares=tuple(squares))


def _mean_loss(trainer: "Trainer") -> Callable[[torch.nn.Module, Any], Any]:
    """The loss that a trainer computes, as the mean over the rows or tokens of one batch in this process."""
    twin = observing_copy(trainer)
    twin.args = copy.copy(twin.args)
    twin.args.average_tokens_across_devices = False

    def compute_loss(network: torch.nn.Module, inputs: Any) -> Any:
        items = None
        if isinstance(inputs, Mapping) and trainer.args.n_gpu <= 1:  # else the number is that of each device
            _, items = twin.get_batch_samples(iter([inputs]), 1, next(network.parameters()).device)
        return twin.compute_loss(network, inputs, num_items_in_batch=items)

    return compute_loss


def _weighting(trainer: "Trainer") -> str:
    """How a trainer takes the mean over accumulated batches: over their rows or tokens, where it passes on how many."""
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        scaled = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
    return "items" if scaled else "batches"


def _used_by(optimizer: Any) -> Used | None:
    """The values of the first trained param group that decide its damping; None unless it is SGD with momentum."""
    group = trained_groups(optimizer)[0]
    if not is_heavy_ball(group):
        logger.warning_once(
            "The damping ratio at a measured curvature is not logged: it is defined for SGD with momentum, and an "
            "optimizer that scales each parameter, as Adam does, sees another curvature than that of the loss."
        )
        return None
    return used_by(group)
