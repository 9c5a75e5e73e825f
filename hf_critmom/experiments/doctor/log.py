"""The log of a training, read from its output folder."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_critmom.experiments.doctor.errors import DoctorError
from hf_critmom.experiments.doctor.settings import Settings, read_settings
from hf_critmom.optim.damped import group_momentum
from hf_critmom.storage.checkpoint_folders import list_checkpoints
from hf_critmom.storage.files import find_irregular_file, read_text

STATE_FILE = "trainer_state.json"
RESULT_FILE = "result.json"
_SHOWN = 8
_DURATIONS = ("_runtime", "_per_second", "_preparation_time", "_compilation_time")
"""Ends of what a Trainer logs of the duration of an evaluation."""
_NEVER_NULL = ("loss", "grad_norm", "eval_loss")
"""Values that a Trainer logs as numbers: strict JSON has null in place of those that are not finite."""
_LARGEST = 1e100
"""Values beyond this one count as not finite: their sums and squares are not."""
_LIMITS = {"learning_rate": _LARGEST, "effective_lr": _LARGEST, "momentum": 1.0, "nu": 1.0}
"""Largest value that each of these may have; the smallest is 0."""


@dataclass(frozen=True)
class LoggedStep:
    """A logging step of a training; values are None if they were not logged and are not known.

    Attributes:
        step: Number of optimizer steps until then.
        loss: The training loss, averaged since the last logging step; NaN where it was not finite.
        grad_norm: Norm of the gradient before clipping; NaN where it was not finite.
        scheduled: The schedule's learning rate.
        lr: The learning rate that the step took.
        momentum: Momentum of the step, or Adam's beta1.
        is_logged: Whether momentum was logged, rather than found from the settings.
        nu: Immediate weight of a quasi-hyperbolic step, which for Nesterov's momentum is the momentum.
    """

    step: int
    loss: float
    grad_norm: float | None
    scheduled: float | None
    lr: float | None
    momentum: float | None
    is_logged: bool
    nu: float | None

    @property
    def mean_step(self) -> float | None:
        """The mean step of a heavy ball, ``lr / (1 - momentum)``."""
        if self.lr is None or self.momentum is None or self.momentum >= 1.0:
            return None
        return self.lr / (1.0 - self.momentum)


@dataclass(frozen=True)
class TrainingLog:
    """The log of a training and its settings.

    Attributes:
        folder: The folder.
        source: The file that holds the log, for the report.
        records: All records in the order of training, with None in place of values that are not finite.
        settings: The settings.
        step: The last optimizer step.
        max_steps: Planned number of steps; None if not known.
        epoch: Number of epochs until then; None if not known.
    """

    folder: Path
    source: str
    records: Sequence[Mapping[str, float | None]]
    settings: Settings = field(default_factory=Settings)
    step: int = 0
    max_steps: int | None = None
    epoch: float | None = None

    @cached_property
    def steps(self) -> tuple[LoggedStep, ...]:
        """The logging steps, each with what callbacks logged at the same step in records of their own."""
        beside: dict[float | None, dict[str, float | None]] = {}
        for record in self.records:
            if "loss" not in record:
                beside.setdefault(record["step"], {}).update(record)
        return tuple(
            _logged_step({**beside.get(record["step"], {}), **record}, self.settings)
            for record in self.records
            if "loss" in record
        )

    @property
    def evaluations(self) -> list[Mapping[str, float | None]]:
        """The evaluations, each with ``step`` and metrics that begin with ``eval_``."""
        return [record for record in self.records if any(is_metric(name) for name in record)]

    @property
    def curvature(self) -> list[Mapping[str, float | None]]:
        """The records of `CurvatureCallback`."""
        return [record for record in self.records if record.get("curvature/top") is not None]


def read_training(folder: Path) -> TrainingLog:
    """Reads the log of a training from a Trainer's output folder, or from a checkpoint in one.

    The later of the folder's own ``trainer_state.json`` and that of its newest checkpoint is read. Nothing in the
    folder is executed.

    Raises:
        DoctorError: If the folder holds no log, or a damaged one.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DoctorError(f"{folder} {what}: expected the output folder of a Trainer, or a checkpoint in it.")
    for place in (folder, *list_checkpoints(folder)):
        if odd := find_irregular_file(place):
            raise DoctorError(f"{odd} is not a regular file, and reading it may never end: remove it.")
    found = [(folder, file) for file in [folder / STATE_FILE] if file.exists()]
    written = [checkpoint for checkpoint in list_checkpoints(folder) if (checkpoint / STATE_FILE).exists()]
    found += [(checkpoint, checkpoint / STATE_FILE) for checkpoint in written[-1:]]
    if not found:
        raise DoctorError(_nothing_there(folder))
    states = [(_read_state(file), place) for place, file in found]
    state, place = max(states, key=lambda one: one[0]["global_step"])
    epoch = state.get("epoch")
    name = STATE_FILE if place == folder else f"{STATE_FILE} of {place.name}"
    checkpoint = place if place != folder else (written[-1] if written else None)
    return TrainingLog(
        folder=folder,
        source=name,
        records=_records(place / STATE_FILE, state["log_history"]),
        settings=read_settings(folder, checkpoint, _positive(state.get("train_batch_size"))),
        step=state["global_step"],
        max_steps=_positive(state.get("max_steps")),
        epoch=float(epoch) if epoch is not None and _is_finite(epoch) else None,
    )


def _read_state(file: Path) -> dict[str, Any]:
    """The Trainer's state: JSON that may contain NaN and infinity, which a diverging run logs."""
    try:
        state = json.loads(read_text(file))
        if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
            raise ValueError("it is not the state of a Trainer, which has a log_history")
        if not _is_count(state.get("global_step")):
            raise ValueError(f"its global_step is {str(state.get('global_step'))[:40]} instead of a number of steps")
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error) or type(error).__name__
        raise DoctorError(
            f"{file} is damaged ({problem}): name a checkpoint whose {STATE_FILE} is complete, or restore the file."
        ) from None
    return state


def _records(file: Path, history: list[Any]) -> list[dict[str, float | None]]:
    records: list[dict[str, float | None]] = []
    for place, record in enumerate(history):
        if not isinstance(record, dict) or not _is_count(record.get("step")):
            raise DoctorError(
                f"{file} is damaged (log_history[{place}] is {str(record)[:60]} instead of a record with its step): "
                "name another checkpoint, or restore the file."
            )
        if records and record["step"] < (last := records[-1]["step"] or 0.0):
            raise DoctorError(
                f"{file} holds the logs of several runs (log_history[{place}] is of step {record['step']:,}, and the "
                f"record before it of step {last:,.0f}): examine each of them by itself."
            )
        numbers = _numbers(record)
        for name, largest in _LIMITS.items():
            if (value := numbers.get(name)) is not None and not 0.0 <= value <= largest:
                raise DoctorError(
                    f"{file} is damaged (log_history[{place}] holds {value:g} as its {name}, which no optimizer "
                    "takes): name another checkpoint, or restore the file."
                )
        records.append(numbers)
    return records


def _numbers(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of a record, also those written as text, with None in place of values that are not finite."""
    found: dict[str, float | None] = {}
    for name, value in record.items():
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                continue
        if _is_number(value) or (value is None and name in _NEVER_NULL):
            found[name] = float(value) if _is_finite(value) else None
    return found


def _nothing_there(folder: Path) -> str:
    """The message that a folder holds no log, with the folders in it that do."""
    patterns = [f"{'*/' * depth}{name}" for depth in (1, 2, 3, 4) for name in (STATE_FILE, RESULT_FILE)]
    holders = {file.parent for pattern in patterns for file in folder.glob(pattern)}
    runs = sorted({place.parent if place.name.startswith("checkpoint-") else place for place in holders})
    if runs:
        others = f" (of {len(runs)})" if len(runs) > _SHOWN else ""
        names = ", ".join(str(run) for run in runs[:_SHOWN])
        return f"{folder} holds several runs rather than the log of one: name a run, one of {names}{others}."
    return (
        f"{folder} holds no log of a training: expected {STATE_FILE}, in it or in a checkpoint; trainer.save_state() "
        "and --save_strategy write one."
    )


def _logged_step(record: Mapping[str, float | None], settings: Settings) -> LoggedStep:
    scheduled = record.get("learning_rate")
    lr = record.get("effective_lr", None if settings.rescaled else scheduled)
    is_logged = record.get("momentum") is not None
    momentum = record["momentum"] if is_logged else settings.momentum
    if not is_logged and settings.damped is not None and scheduled is not None:
        momentum = group_momentum({"lr": scheduled, **settings.damped})
    return LoggedStep(
        step=int(record["step"] or 0),
        loss=_or_nan(record["loss"]),
        grad_norm=_or_nan(record["grad_norm"]) if "grad_norm" in record else None,
        scheduled=scheduled,
        lr=lr,
        momentum=momentum,
        is_logged=is_logged,
        nu=record.get("nu", momentum if settings.nesterov else None),
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def is_metric(name: str) -> bool:
    """Whether a name in a record is that of a metric of an evaluation, rather than of its duration."""
    return name.startswith("eval_") and not name.endswith(_DURATIONS)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and -_LARGEST <= value <= _LARGEST


def _is_count(value: Any) -> bool:
    return _is_finite(value) and value >= 0 and float(value).is_integer()


def _positive(value: Any) -> int | None:
    return int(value) if _is_count(value) and value else None
