"""Scan: the damping regime that each epoch of a finished training was in."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from hf_critmom.damping import damping_ratio, damping_regime
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.storage.run_folder import RESULT_FILE
from hf_critmom.storage.typed import read_json


@dataclass(frozen=True)
class EpochScan:
    """The damping of one epoch, as its logged steps show it.

    Attributes:
        epoch: Number of the epoch, from 1.
        steps: Number of logged steps.
        learning_rate: Mean learning rate of these.
        momentum: Their mean momentum.
        ratio: Geometric mean of their damping ratios, at k = 1; None where all learning rates were 0.
        regime: The regime of most of them: "underdamped", "critical" or "overdamped".
    """

    epoch: int
    steps: int
    learning_rate: float
    momentum: float
    ratio: float | None
    regime: str


def scan(log: Iterable[Mapping[str, Any]]) -> list[EpochScan]:
    """Classes every epoch of a training log by its damping regime.

    The paper's pipeline begins so (arXiv 2603.28921); that an epoch's class is the one of most of its logged steps is
    our own choice.

    Args:
        log: Records of the Trainer's log; those with ``epoch``, ``learning_rate`` and ``momentum`` are used, as
            `CritMomTrainer` and `DampingCallback` log them.

    Returns:
        The epochs that have such records, in order; none if momentum was not logged.
    """
    epochs: dict[int, list[tuple[float, float]]] = {}
    for record in log:
        values = [record.get(name) for name in ("epoch", "learning_rate", "momentum")]
        if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            number = max(math.ceil(record["epoch"]), 1)
            epochs.setdefault(number, []).append((float(record["learning_rate"]), float(record["momentum"])))
    found = []
    for number, steps in sorted(epochs.items()):
        moving = [(lr, momentum) for lr, momentum in steps if lr > 0.0]
        regimes = Counter(damping_regime(momentum, lr) for lr, momentum in moving)
        logs = [math.log(ratio) for lr, momentum in moving if (ratio := damping_ratio(momentum, lr)) > 0.0]
        found.append(
            EpochScan(
                epoch=number,
                steps=len(steps),
                learning_rate=math.fsum(lr for lr, _ in steps) / len(steps),
                momentum=math.fsum(momentum for _, momentum in steps) / len(steps),
                ratio=math.exp(math.fsum(logs) / len(logs)) if logs else None,
                regime=regimes.most_common(1)[0][0] if regimes else "overdamped",
            )
        )
    return found


def logged_training(checkpoint: Path) -> list[dict[str, Any]]:
    """The training log that lies in a checkpoint's folder: the Trainer's state, or a comparison's result.

    Returns:
        Its records; none if there is no log.

    Raises:
        RepairError: If a file that should hold it cannot be read.
    """
    for name, key in ((TRAINER_STATE_NAME, "log_history"), (RESULT_FILE, "training_log")):
        if (checkpoint / name).exists():
            log = _read(checkpoint / name, key)
            if not isinstance(log, list) or not all(isinstance(record, dict) for record in log):
                raise _no_log(checkpoint / name, f"{key} is no list of records")
            return [dict(record) for record in log]
    return []


def training_seconds(checkpoint: Path) -> float | None:
    """What training the network took, where a comparison's result beside the checkpoint says so.

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


def _read(file: Path, key: str) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if key == "log_history" else read_json(file)
        return content[key]
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise _no_log(file, f"{key} is missing" if isinstance(error, KeyError) else str(error)) from None


def _no_log(file: Path, why: str) -> RepairError:
    return RepairError(f"{file} does not hold a training log ({why}): restore it, or delete it to go on without.")
