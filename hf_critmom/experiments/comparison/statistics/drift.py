"""Statistics of drift: accuracy of the arms on corrupted images, and differences from the baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hf_critmom.experiments.comparison.records import CLEAN
from hf_critmom.reporting.intervals import Interval, mean_interval

CORRUPTED = "corrupted"


@dataclass(frozen=True)
class DriftCurve:
    """Accuracy against severity, over the seeds of one arm.

    Attributes:
        severity: Severities in rising order; 0 stands for clean images.
        mean: Mean accuracy over the seeds at each severity.
        low: Accuracy of the worst seed at each severity.
        high: Accuracy of the best seed at each severity.
    """

    severity: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class ArmDrift:
    """Accuracy of one arm's networks on corrupted images.

    Attributes:
        arm: The arm's name.
        accuracy: Mean accuracy over seeds and severities, by corruption and for `CLEAN`.
        curves: Accuracy against severity by corruption.
        differences: Paired differences from the baseline by `CLEAN`, `CORRUPTED` and each corruption; empty for the
            baseline itself.
    """

    arm: str
    accuracy: Mapping[str, float]
    curves: Mapping[str, DriftCurve]
    differences: Mapping[str, Interval]


@dataclass(frozen=True)
class DriftSummary:
    """Accuracy of a comparison's networks on corrupted images.

    Attributes:
        corruptions: Names of the corruptions, in the order in which they were measured.
        examples: Number of images on which each network was tested.
        arms: One entry for each arm that was measured.
    """

    corruptions: tuple[str, ...]
    examples: int
    arms: tuple[ArmDrift, ...]


def drift_differences(drift: pd.DataFrame, arm: str, baseline: str) -> Mapping[str, Interval]:
    """Differences of accuracy between an arm and the baseline over paired seeds, on clean and on corrupted images.

    Args:
        drift: Accuracies at one budget.
        arm: The arm's name.
        baseline: The baseline's name.

    Returns:
        Intervals for `CLEAN`, for `CORRUPTED` (the mean over all corruptions and severities) and for each corruption.
        Those without a seed for which both arms were measured are left out. A seed counts for `CORRUPTED` only if all
        corruptions were measured for both: means over other corruptions cannot be compared.
    """
    if not {arm, baseline} <= set(drift["arm"]):
        return {}
    accuracies = drift.pivot(index=["arm", "seed"], columns=["corruption", "severity"], values="accuracy")
    differences = accuracies.loc[arm] - accuracies.loc[baseline]
    names = list(dict.fromkeys(drift["corruption"]))
    corrupted = [name for name in names if name != CLEAN]
    found = {}
    for kind, members in {CLEAN: [CLEAN], CORRUPTED: corrupted, **{name: [name] for name in corrupted}}.items():
        if members and set(members) <= set(names):
            paired = differences[members].mean(axis=1, skipna=False).dropna()
            found[kind] = mean_interval(paired.to_numpy(dtype=float))
    return {kind: interval for kind, interval in found.items() if interval.n}


def summarise_drift(drift: pd.DataFrame, arms: Sequence[str], baseline: str) -> DriftSummary | None:
    """Summarises the drift of a comparison; None if no corrupted images were tested.

    Args:
        drift: Accuracies at one budget, see `hf_critmom.experiments.comparison.results.read_drift`.
        arms: Names of the arms, in order.
        baseline: Name of the arm that the others are compared with.
    """
    names = tuple(name for name in dict.fromkeys(drift["corruption"]) if name != CLEAN)
    if not names:
        return None
    means = drift.groupby(["arm", "corruption"])["accuracy"].mean()
    found = []
    for arm in arms:
        if arm not in means.index.get_level_values("arm"):
            continue
        accuracy = {name: float(means[arm].get(name, math.nan)) for name in (CLEAN, *names)}
        differences = drift_differences(drift, arm, baseline) if arm != baseline else {}
        found.append(ArmDrift(arm, accuracy, {name: _curve(drift, arm, name) for name in names}, differences))
    return DriftSummary(names, int(drift["examples"].max()), tuple(found))


def _curve(drift: pd.DataFrame, arm: str, corruption: str) -> DriftCurve:
    rows = drift[(drift["arm"] == arm) & drift["corruption"].isin([corruption, CLEAN])]
    found = rows.groupby("severity")["accuracy"].agg(["mean", "min", "max"])
    return DriftCurve(*(np.asarray(column) for column in (found.index, found["mean"], found["min"], found["max"])))
