"""Plans made by hand, with nothing in them but what a test is about."""

from collections.abc import Sequence
from typing import Any

from hf_critmom.experiments.comparison.arms import Arm
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.records import TaskRecord
from hf_critmom.storage.typed import from_json


def task_record(metric: str = "accuracy") -> TaskRecord:
    """A task of that metric."""
    split = {"examples": 10, "sha256": "0" * 64}
    splits = {"train": split, "validation": split, "test": split}
    return from_json(TaskRecord, {"name": "points", "source": "tests", "metric": metric, "splits": splits})


def plan_of(
    arms: Sequence[str] = ("constant",),
    seeds: Sequence[int] = (0,),
    targets: Sequence[float] = (0.9,),
    metric: str = "accuracy",
    **parts: Any,
) -> Plan:
    """A plan of these arms, seeds and targets."""
    return Plan(
        **{
            "task": task_record(metric),
            "model": {"model": "resnet18"},
            "arms": {name: Arm(name, "sgd") for name in arms},
            "seeds": tuple(seeds),
            "targets": tuple(targets),
            "training": {},
            **parts,
        }
    )
