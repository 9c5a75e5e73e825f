"""Synthetic runs with the noise of real ones, for `simulate_verdicts.py`.

A synthetic run is the mean validation curve of `constant` in a committed comparison, stretched in time by the true
ratio, with the noise of that comparison's runs: each run is stretched by a random factor of its own, and each of its
evaluations deviates from the curve. The deviations are fitted to all arms: their size at each stage of training, their
correlation between consecutive evaluations and between two arms of one seed, and the shape of their tails (residuals
are resampled rather than replaced by a normal distribution). The spread of the factor is fitted, too, and then raised
until headlines scatter over seeds at least as much as those of the committed runs do. Because of the stretching, the
truth is known: at every target that an arm reaches within its budget, it takes `ratio` times as many steps. With
several evaluations per epoch, the correlation between them decays exponentially, to its fitted value after one epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from hf_critmom.experiments.comparison.statistics.arrivals import Arrivals, arrivals
from hf_critmom.experiments.comparison.statistics.summaries import Metric

CARDS = Path(__file__).parents[1] / "model_cards"
CHANCE = 0.1  # accuracy before the first step, with ten classes
MIN_CORRELATION = 0.02  # at one epoch; at a quarter of one it is 0.38, as in runs with four evaluations per epoch
MAX_SEEDS = 10


@dataclass(frozen=True)
class Source:
    """A committed comparison whose noise is used.

    Attributes:
        name: Name in the table.
        folder: Its folder in `model_cards`.
        targets: Targets of the synthetic comparisons.
    """

    name: str
    folder: str
    targets: tuple[float, ...]


SOURCES = (
    Source("CIFAR-10", "cifar10-resnet18-w16-15epochs", (0.75, 0.8, 0.85)),
    Source("digits", "digits-resnet18-w16", (0.9, 0.95, 0.98)),
    Source("digits to 0.95", "digits-resnet18-w16", (0.9, 0.95)),
)


@dataclass(frozen=True)
class Noise:
    """A mean validation curve, and how runs deviate from it.

    Attributes:
        source: Where it was measured.
        epochs: Number of epochs of a run.
        curve: Accuracy after 0, 1, ... epochs; increasing.
        stretch: Standard deviation of the logarithm of a run's time factor.
        deviation: Standard deviation of an evaluation after 1, 2, ... epochs.
        correlation: Correlation between two evaluations one epoch apart.
        shared: Correlation between two arms with the same seed.
        residuals: Standardised deviations to resample.
    """

    source: Source
    epochs: int
    curve: np.ndarray
    stretch: float
    deviation: np.ndarray
    correlation: float
    shared: float
    residuals: np.ndarray


def fit_noise(source: Source) -> Noise:
    """Fits curve and noise to the runs of a committed comparison with one evaluation per epoch."""
    table = pd.read_parquet(CARDS / source.folder / "results.parquet")
    validation = table[table["split"] == "validation"]
    wide = validation.pivot_table(index=["arm", "seed"], columns="epoch", values="accuracy")
    # The hybrid repeats critmom's runs if its momentum never reaches `hold`: they would count twice.
    arms = [arm for arm in dict.fromkeys(validation["arm"]) if arm != "hybrid"]
    fits = [_fit_arm(wide.loc[arm].to_numpy()) for arm in arms]
    seeds, epochs = fits[0][2].shape
    unbiased = np.sqrt(seeds / (seeds - 1))
    factors, residuals = (np.stack([fit[part] for fit in fits]) * unbiased for part in (1, 2))
    raw = np.log(np.sqrt((residuals**2).mean(axis=(0, 1))))
    deviation = np.exp(np.convolve(np.pad(raw, 1, mode="edge"), np.ones(3) / 3.0, mode="valid"))
    standard = residuals / deviation
    standard /= standard.std()
    correlation = max(float((standard[..., 1:] * standard[..., :-1]).mean()), MIN_CORRELATION)
    pairs = [(standard[one] * standard[other]).mean() for one in range(len(arms)) for other in range(one)]
    shared = max(float(np.mean(pairs)), 0.0)
    curve = fits[arms.index("constant")][0]
    stretch = float(np.sqrt((factors**2).mean()))
    noise = Noise(source, epochs, curve, stretch, deviation, correlation, shared, standard.ravel())
    committed = {arm: arrivals(table, arm, Metric("accuracy"), source.targets) for arm in arms}
    return _with_enough_scatter(noise, committed)


def _with_enough_scatter(noise: Noise, committed: Mapping[str, Arrivals]) -> Noise:
    """Raises the spread of time factors until headlines scatter at least as much as those of the committed runs."""
    names = list(committed)
    pairs = [(committed[one], committed[other]) for one in names for other in names[: names.index(one)]]
    scatter = float(np.mean([np.log(one.times / other.times).mean(axis=1).var(ddof=1) for one, other in pairs]))
    for stretch in np.arange(noise.stretch, 0.5, 0.0025):
        raised = replace(noise, stretch=float(stretch))
        values = draw(raised, np.ones(2), 400, 1, np.random.default_rng(0))
        logs = arrivals_of(values, noise.source.targets, 1, smooth=False).logs
        if float((logs[:, 1] - logs[:, 0]).mean(axis=-1).var()) >= scatter:
            return raised
    raise ValueError(f"{noise.source.name}: no spread of time factors gives headlines a variance of {scatter:.3f}.")


def _fit_arm(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits curve, log time factors and residuals to the runs of one arm.

    Alternates between two steps: the curve is the isotonic regression of all evaluations at their stretched times, and
    the factor of each run is the one with which the curve fits it best.

    Args:
        values: Accuracies, of shape (seeds, epochs).
    """
    seeds, epochs = values.shape
    at = np.arange(1, epochs + 1)
    candidates = np.linspace(-0.5, 0.5, 201)
    factors = np.zeros(seeds)
    for _ in range(5):
        stages = np.exp(-factors)[:, None] * at
        order = np.argsort(stages, axis=None)
        rising = isotonic_regression(values.ravel()[order]).x
        curve = isotonic_regression(np.interp(at, stages.ravel()[order], rising)).x
        curve = np.concatenate([[CHANCE], curve + 1e-6 * at])  # strictly increasing, so that every target has one time
        fitted = np.interp(np.exp(-candidates)[:, None] * at, np.arange(epochs + 1), curve)
        spread = (values - curve[1:]).std(axis=0) + 0.003
        misfit = (((values[:, None] - fitted) / spread) ** 2).sum(axis=-1)
        factors = candidates[misfit.argmin(axis=1)]
        factors -= factors.mean()
    fitted = np.interp(np.exp(-factors)[:, None] * at, np.arange(epochs + 1), curve)
    return curve, factors, values - fitted


def draw(noise: Noise, ratios: np.ndarray, comparisons: int, density: int, rng: np.random.Generator) -> np.ndarray:
    """Synthetic validation curves, of shape (comparisons, arms, seeds, evaluations).

    Args:
        noise: Curve and noise.
        ratios: Each arm's true time, relative to that of the curve.
        comparisons: Number of comparisons.
        density: Number of evaluations per epoch.
        rng: Random number generator.
    """
    at = np.arange(1, noise.epochs * density + 1) / density
    step = noise.correlation ** (1.0 / density)
    shape = (comparisons, len(ratios), MAX_SEEDS, len(at))
    own, common = (rng.choice(noise.residuals, size=size) for size in (shape, (comparisons, 1, *shape[2:])))
    fresh = np.sqrt(1.0 - noise.shared) * own + np.sqrt(noise.shared) * common
    for evaluation in range(1, len(at)):
        fresh[..., evaluation] = step * fresh[..., evaluation - 1] + np.sqrt(1.0 - step**2) * fresh[..., evaluation]
    factors = np.exp(noise.stretch * rng.normal(size=shape[:3])) * ratios[:, None]
    stage = at / factors[..., None]
    deviation = np.exp(np.interp(stage, np.arange(1, noise.epochs + 1), np.log(noise.deviation)))
    return np.interp(stage, np.arange(noise.epochs + 1), noise.curve) + deviation * fresh


@dataclass(frozen=True)
class Times:
    """Arrivals of many runs; arrays of shape (comparisons, arms, seeds, targets).

    Attributes:
        logs: Logarithms of the interpolated times, in epochs.
        arrived: Which runs have an evaluation at the target or above.
        immediate: For which of them that is the first evaluation.
    """

    logs: np.ndarray
    arrived: np.ndarray
    immediate: np.ndarray


def arrivals_of(values: np.ndarray, targets: tuple[float, ...], density: int, *, smooth: bool) -> Times:
    """Arrivals of many runs at once, with times in epochs.

    A smoothed curve is the isotonic regression of its rise, which ends where three evaluations together are the best.
    It is never computed: it first reaches a target after the evaluation up to which the sum of deviations from the
    target is smallest (the switching relation, Groeneboom and Jongbloed, Nonparametric Estimation
    under Shape Constraints (2014), section 3.8), and its values on both sides of that are a maximum and a minimum of
    means.
    """
    last = values.shape[-1]
    places = np.arange(last)
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    rise = np.full(values.shape[:-1], last)
    if smooth and last > 2:
        rise -= (sums[..., 3:] - sums[..., :-3])[..., ::-1].argmax(axis=-1)
    found = []
    for target in targets:
        if smooth:
            deviations = sums - target * np.arange(last + 1)
            first = np.where(np.arange(last + 1) <= rise[..., None], deviations, np.inf).argmin(axis=-1)
            arrived = first < rise
        else:
            reached = values >= target
            arrived = reached.any(axis=-1)
            first = np.where(arrived, reached.argmax(axis=-1), last)
        at = np.clip(first, 1, rise - 1)[..., None]
        if smooth:
            total = np.take_along_axis(sums, at, -1)
            with np.errstate(divide="ignore", invalid="ignore"):
                before = np.where(places < at, (total - sums[..., :-1]) / (at - places), -np.inf)
                rises = (places >= at) & (places < rise[..., None])
                after = np.where(rises, (sums[..., 1:] - total) / (places + 1 - at), np.inf)
            low, high = before.max(axis=-1), after.min(axis=-1)
        else:
            low, high = (np.take_along_axis(values, at + shift, -1)[..., 0] for shift in (-1, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = at[..., 0] + (target - low) / (high - low)
        time = np.where(first == 0, 1.0, np.where(arrived, inside, last))
        found.append((np.log(time / density), arrived, arrived & (first == 0)))
    return Times(*(np.stack(parts, axis=-1) for parts in zip(*found, strict=True)))
