"""Tables of results made by hand, for `test_statistics.py` and `test_verdict.py`."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.results import results_table as table_of_results
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.storage.files import replace_non_finite
from hf_critmom.storage.typed import from_json

STEPS_PER_EPOCH = 10
ACCURACY = Metric("accuracy")
Epochs = list[int | None]


def run_of(
    accuracies: list[float], *, arm: str = "constant", seed: int = 0, test: float | None = 0.5, status: str = "finished"
) -> dict[str, Any]:
    """A result as result.json holds it: one evaluation an epoch, two seconds an epoch."""
    return {
        "arm": arm,
        "seed": seed,
        "status": status,
        "steps": STEPS_PER_EPOCH * len(accuracies),
        "train_seconds": 2.0 * len(accuracies),
        "evaluations": [
            {
                "step": STEPS_PER_EPOCH * epoch,
                "epoch": float(epoch),
                "seconds": 2.0 * epoch,
                "loss": 1.0 - accuracy - 1e-9 * seed,  # two seeds never have the very same curve
                "accuracy": accuracy,
                "learning_rate": 0.1 / epoch,
                "momentum": 0.9,
                "damping_ratio": 0.5,
            }
            for epoch, accuracy in enumerate(accuracies, start=1)
        ],
        "test": {"loss": 0.7, "accuracy": test},
        "versions": {"hardware": "none"},
    }


def result_of(run: dict[str, Any]) -> RunResult:
    """The result that result.json would hold so."""
    return from_json(RunResult, replace_non_finite({"training_log": [], **run}))


def results_table(runs: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The table of results that result.json would hold so."""
    return table_of_results(map(result_of, runs))


def reaching_at(epoch: int | None) -> list[float]:
    """A curve over six epochs that first reaches 0.9 in an epoch, or never."""
    return [0.9 if epoch is not None and at >= epoch else 0.1 for at in range(1, 7)]


def rising_to(epoch: float | None, *, length: int = 6) -> list[float]:
    """A straight curve that is at 0.9 after so many epochs, between two evaluations too; None: one that stays low."""
    return [0.1 if epoch is None else 0.9 * at / epoch for at in range(1, length + 1)]


def timed(**arms: list[float | None]) -> pd.DataFrame:
    """The table of arms whose seeds reach 0.9 after these epochs of six, fractions included, or never."""
    return results_table(
        [run_of(rising_to(epoch), arm=arm, seed=seed) for arm, of in arms.items() for seed, epoch in enumerate(of)]
    )


def compared(**arms: Epochs) -> pd.DataFrame:
    """The table of arms whose seeds first reach 0.9 in these epochs of six, or never."""
    return results_table(
        [run_of(reaching_at(epoch), arm=arm, seed=seed) for arm, of in arms.items() for seed, epoch in enumerate(of)]
    )


def two_speeds(arm: tuple[float, float], baseline: tuple[float, float], seeds: int = 5) -> pd.DataFrame:
    """Runs of twelve epochs that are at 0.4 and at 0.8 after these epochs, a little later with each seed."""
    runs = []
    for name, (to_low, to_high) in (("critmom", arm), ("constant", baseline)):
        for seed in range(seeds):
            low, high = to_low + 0.05 * seed, to_high + 0.06 * seed
            curve = [0.4 * at / low if at <= low else 0.4 + 0.4 * (at - low) / (high - low) for at in range(1, 13)]
            runs.append(run_of(curve, arm=name, seed=seed))
    return results_table(runs)
