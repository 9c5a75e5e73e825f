"""Records of given checkpoints, from the experiment that trained them."""

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
    """What the folder of an experiment records about a checkpoint in it.

    Attributes:
        trained_on: What it was trained on; None if that is not recorded.
        arm: Arm of the comparison, if the checkpoint belongs to one of its runs.
        seed: Seed of that run.
    """

    trained_on: TrainedOn | None = None
    arm: str | None = None
    seed: int | None = None


def find_record(checkpoint: str) -> CheckpointRecord:
    """Finds the record of a checkpoint in the folder of a comparison or repair that it lies in.

    Raises:
        InputError: If that folder's plan is damaged.
    """
    path = Path(checkpoint).resolve()
    if (run := find_run(path)) is not None:
        plan, arm, seed = run
        return CheckpointRecord(_trained_on(plan.task.content, plan.command), arm, seed)
    if (repair := find_repair(path)) is not None:
        return CheckpointRecord(_trained_on(repair.get("task"), repair.get("command")))
    return CheckpointRecord()


def checkpoint_specs(paths: Sequence[str]) -> list[CheckpointSpec]:
    """Specifies the checkpoints to study, each with a unique label.

    Raises:
        InputError: If a checkpoint is named twice, or the plan of the experiment that trained it is damaged.
    """
    labels = _labels(paths)
    specs = []
    for path, label in zip(paths, labels, strict=True):
        record, name = find_record(path), Path(path).name
        step = f", {name}" if name.startswith("checkpoint-") else ""
        title = label if record.arm is None else f"{record.arm}, seed {record.seed}{step}"
        specs.append(CheckpointSpec(path, title, record.arm, record.seed, record.trained_on))
    if len({spec.label for spec in specs}) < len(specs):  # runs of the same name from two comparisons
        specs = [replace(spec, label=label) for spec, label in zip(specs, labels, strict=True)]
    # Folder names are arbitrary, and appear in tables, figures and pages.
    return [replace(spec, label=redact(spec.label)) for spec in specs]


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest suffixes of paths that are unique."""
    parts = [Path(path).absolute().parts if Path(path).exists() else Path(path).parts for path in paths]
    if len(set(parts)) < len(parts):
        raise InputError(f"A checkpoint is named twice among {shlex.join(paths)}: name each once.")
    lengths = [1] * len(paths)
    while len(set(ends := [part[-length:] for part, length in zip(parts, lengths, strict=True)])) < len(ends):
        lengths = [length + (ends.count(end) > 1) for length, end in zip(lengths, ends, strict=True)]
    return ["/".join(end) for end in ends]


def _trained_on(task: object, command: object) -> TrainedOn | None:
    """The fingerprint of the training split in a task's description; there is none if a script loads its own data."""
    sha256 = None if isinstance(task, dict) and "script" in task else task
    for name in ("splits", "train", "sha256"):
        sha256 = sha256.get(name) if isinstance(sha256, dict) else None
    return TrainedOn(sha256, command if isinstance(command, str) else "") if isinstance(sha256, str) else None
