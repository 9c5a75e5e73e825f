"""Scan: the damping regime of each epoch of a finished training."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers.trainer import TRAINER_STATE_NAME

from hf_critmom.damping import regime_of
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.storage.files import read_text
from hf_critmom.storage.run_folder import RESULT_FILE
from hf_critmom.storage.typed import read_json
from hf_critmom.training.callbacks.damping import logged_ratio


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
    """A logged step; ``curvature`` is the last top curvature measured before it."""

    record: Mapping[str, Any]
    curvature: float | None


def scan(log: Iterable[Mapping[str, Any]]) -> list[EpochScan]:
    """Classifies every epoch of a training log by its damping regime, at k = 1 and at the measured curvature.

    The paper's pipeline begins with this step (arXiv 2603.28921); giving an epoch the regime of most of its logged
    steps is our own choice.

    Args:
        log: Records of the Trainer's log; those with ``epoch``, ``learning_rate``, ``momentum`` and ``damping_regime``
            are used, as `CritMomTrainer` and `DampingCallback` log them, and those with ``curvature/top``, as
            `CurvatureCallback` logs them. A curvature holds until the next one is measured. Without any
            ``curvature/top_damping_ratio`` they are left out: the optimizer, such as Adam, sees another curvature.

    Returns:
        The epochs with such records, in order; empty if no damping was logged, as for AdamW.
    """
    epochs: dict[int, list[_Step]] = {}
    curvature = None
    log = list(log)
    oscillates = any("curvature/top_damping_ratio" in record for record in log)
    for record in sorted(log, key=lambda record: (_number(record, "step") or 0.0, "curvature/top" not in record)):
        if (measured := _number(record, "curvature/top")) is not None:
            curvature = measured if measured > 0.0 and oscillates else None
        needed = ("epoch", "learning_rate", "momentum", "damping_regime")
        if any(_number(record, name) is None for name in needed):
            continue
        epochs.setdefault(max(math.ceil(record["epoch"]), 1), []).append(_Step(record, curvature))
    found = []
    for number, steps in sorted(epochs.items()):
        ratio, regime = _damping((step.record, 1.0) for step in steps)
        measured_ratio, measured_regime = _damping((one, k) for one, k in steps if k is not None)
        found.append(
            EpochScan(
                epoch=number,
                steps=len(steps),
                learning_rate=math.fsum(step.record["learning_rate"] for step in steps) / len(steps),
                momentum=math.fsum(step.record["momentum"] for step in steps) / len(steps),
                ratio=ratio,
                regime=regime or "overdamped",
                curvature=steps[-1].curvature,
                measured_ratio=measured_ratio,
                measured_regime=measured_regime,
            )
        )
    return found


def _damping(steps: Iterable[tuple[Mapping[str, Any], float]]) -> tuple[float | None, str | None]:
    """Geometric mean of the positive ratios and most frequent regime of steps, each at a curvature."""
    ratios = [ratio for record, curvature in steps if (ratio := logged_ratio(record, curvature)) is not None]
    regimes = Counter(regime_of(ratio) for ratio in ratios)
    logs = [math.log(ratio) for ratio in ratios if math.inf > ratio > 0.0]
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
