"""Scan: the damping regime of each epoch of a finished training."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers.trainer import TRAINER_STATE_NAME

from hf_critmom.damping import damping_ratio, damping_regime
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.storage.files import read_text
from hf_critmom.storage.run_folder import RESULT_FILE
from hf_critmom.storage.typed import read_json


@dataclass(frozen=True)
class EpochScan:
    """The damping of one epoch, from its logged steps.

    Attributes:
        epoch: Number of the epoch, from 1.
        steps: Number of logged steps.
        learning_rate: Mean learning rate of these steps.
        momentum: Mean momentum of these steps.
        ratio: Geometric mean of their damping ratios at k = 1; None if all learning rates were 0.
        regime: The regime of most of the steps at k = 1: "underdamped", "critical" or "overdamped".
        curvature: The last top curvature that was measured before the end of the epoch; None if it was not measured or
            not positive.
        measured_ratio: Geometric mean of the damping ratios at the top curvature measured last before each step.
        measured_regime: The regime of most of the steps at that curvature.
    """

    epoch: int
    steps: int
    learning_rate: float
    momentum: float
    ratio: float | None
    regime: str
    curvature: float | None = None
    measured_ratio: float | None = None
    measured_regime: str | None = None


class _Step(NamedTuple):
    """The values of a logged step that decide its damping; ``curvature`` is the last one measured before it.

    ``lr`` is the learning rate that the step took, which for the controls is not the schedule's.
    """

    scheduled: float
    lr: float
    momentum: float
    nu: float | None
    curvature: float | None


def scan(log: Iterable[Mapping[str, Any]]) -> list[EpochScan]:
    """Classifies every epoch of a training log by its damping regime, at k = 1 and at the measured curvature.

    The paper's pipeline begins with this step (arXiv 2603.28921); giving an epoch the regime of most of its logged
    steps is our own choice.

    Args:
        log: Records of the Trainer's log; those with ``epoch``, ``learning_rate``, ``momentum`` and ``damping_regime``
            are used, as `CritMomTrainer` and `DampingCallback` log them, and those with ``curvature/top``, as
            `CurvatureCallback` logs them. A curvature holds until the next one is measured.

    Returns:
        The epochs with such records, in order; empty if no damping was logged, as for AdamW.
    """
    epochs: dict[int, list[_Step]] = {}
    curvature = None
    for record in sorted(log, key=lambda record: (_number(record, "step") or 0.0, "curvature/top" not in record)):
        if (measured := _number(record, "curvature/top")) is not None:
            curvature = measured if measured > 0.0 else None
        epoch, scheduled, momentum = (_number(record, name) for name in ("epoch", "learning_rate", "momentum"))
        if _number(record, "damping_regime") is None:
            continue
        if epoch is not None and scheduled is not None and momentum is not None:
            lr = _number(record, "effective_lr")
            step = _Step(scheduled, scheduled if lr is None else lr, momentum, _number(record, "nu"), curvature)
            epochs.setdefault(max(math.ceil(epoch), 1), []).append(step)
    found = []
    for number, steps in sorted(epochs.items()):
        moving = [step for step in steps if step.lr > 0.0]
        ratio, regime = _damping(moving, 1.0)
        measured_ratio, measured_regime = _damping([step for step in moving if step.curvature is not None], None)
        found.append(
            EpochScan(
                epoch=number,
                steps=len(steps),
                learning_rate=math.fsum(step.scheduled for step in steps) / len(steps),
                momentum=math.fsum(step.momentum for step in steps) / len(steps),
                ratio=ratio,
                regime=regime or "overdamped",
                curvature=steps[-1].curvature,
                measured_ratio=measured_ratio,
                measured_regime=measured_regime,
            )
        )
    return found


def _damping(steps: Sequence[_Step], curvature: float | None) -> tuple[float | None, str | None]:
    """Geometric mean of the positive ratios and most frequent regime, at one curvature or at each step's own."""
    at: list[dict[str, Any]] = [
        {"momentum": step.momentum, "lr": step.lr, "nu": step.nu, "curvature": curvature or step.curvature}
        for step in steps
    ]
    regimes = Counter(damping_regime(**one) for one in at)
    logs = [math.log(ratio) for one in at if math.inf > (ratio := damping_ratio(**one)) > 0.0]
    mean = math.exp(math.fsum(logs) / len(logs)) if logs else None
    return mean, regimes.most_common(1)[0][0] if regimes else None


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def logged_training(checkpoint: Path) -> list[dict[str, Any]]:
    """Reads the training log in a checkpoint's folder: the Trainer's state, or a comparison's result.

    Returns:
        Its records; empty if there is no log.

    Raises:
        RepairError: If a file that should hold it cannot be read.
    """
    for name, key in ((TRAINER_STATE_NAME, "log_history"), (RESULT_FILE, "training_log")):
        if (checkpoint / name).exists():
            log = _read(checkpoint / name, key)
            if name == RESULT_FILE and isinstance(log, list):
                log = [*log, *_read(checkpoint / name, "curvature", missing=[])]
            if not isinstance(log, list) or not all(isinstance(record, dict) for record in log):
                raise _no_log(checkpoint / name, f"{key} is not a list of records")
            return [dict(record) for record in log]
    return []


def training_seconds(checkpoint: Path) -> float | None:
    """Seconds that training the network took, if a comparison's result beside the checkpoint says so.

    Raises:
        RepairError: If the result cannot be read.
    """
    file = checkpoint / RESULT_FILE
    if not file.exists():
        return None
    seconds = _read(file, "train_seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise _no_log(file, f"train_seconds is {seconds!r} instead of a number")
    return float(seconds)


def _read(file: Path, key: str, missing: Any = None) -> Any:
    try:
        content = json.loads(read_text(file)) if key == "log_history" else read_json(file)
        return content[key] if missing is None else content.get(key, missing)
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise _no_log(file, f"{key} is missing" if isinstance(error, KeyError) else str(error)) from None


def _no_log(file: Path, why: str) -> RepairError:
    return RepairError(f"{file} does not hold a training log ({why}): restore it, or delete it to go on without.")
