"""What is recorded of the checkpoints that commands are given, by the experiment that trained them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_critmom.errors import InputError
from hf_critmom.experiments.comparison import find_run
from hf_critmom.experiments.diagnosis.plan import CheckpointSpec
from hf_critmom.experiments.repair.plan import find_repair
from hf_critmom.storage.redaction import redact
from hf_critmom.tasks.provenance import TrainedOn


@dataclass(frozen=True)
class CheckpointRecord:
    """What an experiment's folder says of a checkpoint in it.

    Attributes:
        trained_on: What it was trained on; None: not recorded.
        arm: The arm of the comparison that it is a run of, if it is one.
        seed: That run's seed.
    """

    trained_on: TrainedOn | None = None
    arm: str | None = None
    seed: int | None = None


def find_record(checkpoint: str) -> CheckpointRecord:
    """The record of a checkpoint, from the comparison or repair whose folder it lies in.

    Raises:
        InputError: If there is one and it is damaged.
    """
    path = Path(checkpoint).resolve()
    if (run := find_run(path)) is not None:
        plan, arm, seed = run
        return CheckpointRecord(_trained_on(plan.task.content, plan.command), arm, seed)
    if (repair := find_repair(path)) is not None:
        return CheckpointRecord(_trained_on(repair.get("task"), repair.get("command")))
    return CheckpointRecord()


def checkpoint_specs(paths: Sequence[str]) -> list[CheckpointSpec]:
    """Checkpoints to be studied, each with a label of its own.

    Raises:
        InputError: If a checkpoint is named twice, or its folder's record is damaged.
    """
    labels = _labels(paths)
    specs = []
    for path, label in zip(paths, labels, strict=True):
        record, name = find_record(path), Path(path).name
        of_a_step = f", {name}" if name.startswith("checkpoint-") else ""
        title = label if record.arm is None else f"{record.arm}, seed {record.seed}{of_a_step}"
        specs.append(CheckpointSpec(path, title, record.arm, record.seed, record.trained_on))
    if len({spec.label for spec in specs}) < len(specs):  # runs of the same name from two comparisons
        specs = [replace(spec, label=label) for spec, label in zip(specs, labels, strict=True)]
    # A folder may be called anything, and its name stands in tables, figures and pages.
    return [replace(spec, label=redact(spec.label)) for spec in specs]


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell them apart."""
    parts = [Path(path).absolute().parts if Path(path).exists() else Path(path).parts for path in paths]
    if len(set(parts)) < len(parts):
        raise InputError(f"A checkpoint is named twice among {shlex.join(paths)}: name each once.")
    lengths = [1] * len(paths)
    while len(set(ends := [part[-length:] for part, length in zip(parts, lengths, strict=True)])) < len(ends):
        lengths = [length + (ends.count(end) > 1) for length, end in zip(lengths, ends, strict=True)]
    return ["/".join(end) for end in ends]


def _trained_on(task: object, command: object) -> TrainedOn | None:
    """The training split's fingerprint in the description of a task; a script alone knows what it trains on."""
    sha256 = None if isinstance(task, dict) and "script" in task else task
    for name in ("splits", "train", "sha256"):
        sha256 = sha256.get(name) if isinstance(sha256, dict) else None
    return TrainedOn(sha256, command if isinstance(command, str) else "") if isinstance(sha256, str) else None
