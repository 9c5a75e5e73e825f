"""Plans and findings made by hand, with nothing in them but what a test is about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.findings.findings import Findings, findings_of
from hf_critmom.experiments.comparison.plan import Plan, Run
from hf_critmom.experiments.comparison.records import Evaluation, RunResult, TaskRecord
from hf_critmom.experiments.comparison.results import Results
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


def findings_of_size(arms: int, seeds: int, targets: int, evaluations: int, logged: int = 0) -> Findings:
    """What a comparison of this size found: arms that rise at rates of their own, each seed with noise of its own."""
    names = ["constant", *(f"optimizer-{number}" for number in range(1, arms))]
    levels = tuple(round(0.5 + 0.4 * place / targets, 3) for place in range(1, targets + 1))
    plan = plan_of(names, range(seeds), levels, training={"max_grad_norm": 0.0, "num_train_epochs": 10.0})
    draws, results = np.random.default_rng(0), {}
    for place, name in enumerate(names):
        for seed in range(seeds):
            share = np.arange(1, evaluations + 1) / evaluations
            accuracies = 0.95 * (1 - np.exp(-share * (5 + place / arms))) + 0.01 * draws.random(evaluations)
            results[Run(name, seed)] = RunResult(
                arm=name,
                seed=seed,
                status="finished",
                steps=10 * evaluations,
                train_seconds=2.1 * evaluations,
                evaluations=tuple(
                    Evaluation(10 * at, at / 7, at * 2.0123456789, {"accuracy": accuracy, "loss": 1 / accuracy})
                    for at, accuracy in enumerate(map(float, accuracies), start=1)
                ),
                test={"loss": 0.2, "accuracy": float(accuracies[-1])},
                training_log=tuple(
                    {"step": float(at), "learning_rate": 0.1 / at, "momentum": 1 - 0.1 / at, "damping_ratio": 1.0 / at}
                    for at in range(1, logged + 1)
                ),
                versions={"hardware": "none"},
            )
    return findings_of(Path("comparison-points"), plan, Results(results, {}, []))
