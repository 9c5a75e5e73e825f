"""What is recorded of the checkpoints that commands are given, by the experiment that trained them."""

from dataclasses import dataclass
from pathlib import Path

from hf_critmom.experiments.comparison import run_of
from hf_critmom.experiments.repair.plan import find_repair
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
    path = Path(checkpoint)
    if not path.exists():
        return CheckpointRecord()
    path = path.resolve()
    if (run := run_of(path)) is not None:
        plan, arm, seed = run
        return CheckpointRecord(_trained_on(plan.task, plan.command), arm, seed)
    if (repair := find_repair(path)) is not None:
        return CheckpointRecord(_trained_on(repair.get("task"), repair.get("command")))
    return CheckpointRecord()


def _trained_on(task: object, command: object) -> TrainedOn | None:
    """The training split's fingerprint in the description of a task."""
    sha256 = task
    for name in ("splits", "train", "sha256"):
        sha256 = sha256.get(name) if isinstance(sha256, dict) else None
    return TrainedOn(sha256, command if isinstance(command, str) else "") if isinstance(sha256, str) else None
