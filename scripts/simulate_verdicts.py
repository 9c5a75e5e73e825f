"""How often the verdict is wrong, and how often it knows: thousands of synthetic comparisons with real runs' noise.

    python scripts/simulate_verdicts.py
    python scripts/simulate_verdicts.py --type_one --comparisons 40000 --seed 12345

The second prints the type I error alone, of one claim and with the noise of digits: whether a cell that lies above 5 %
in the table does so by chance.

A synthetic run is the mean validation curve of `constant` in a committed comparison, stretched in time by the true
ratio, with the noise of that comparison's runs: each run is stretched by a further factor of its own, and each of its
evaluations deviates from the curve. The deviations are fitted to all arms: their size at each stage of the training,
their correlation from one evaluation to the next, what two arms of one seed share, and the shape of their tails (they
are drawn again, not replaced by normal ones). The factor's spread is fitted too, and raised until headlines scatter
over seeds at least as much as those of the committed runs do. Stretching makes the truth known: at every target the arm
takes `ratio` times the steps, as far as the budget lets it arrive. Between two evaluations of one epoch the deviations
are as correlated as an exponential decay through the correlation at one epoch makes it.

Designs: `N seeds`: fixed; `F to L`: `--until_decided` from F seeds, a look after every further one, at most L;
`N, by hand`: a fixed comparison whose seeds are added by hand, one at a time, up to ten in all, for as long as
something is not decided. With ten claims, ten arms are compared with one baseline, and all have the same true ratio.

Columns, in percent of comparisons: at a true ratio of 1, how often any claim was called faster or slower (type I
error), and how often a claim was called no difference; at a true ratio at the margin (1.1), how often any claim was
called no difference (the other error), and a claim slower; at 1.25 and 1.5, how often a claim was called slower
(power), and how often any claim faster.

Coverage: how often the headline's interval at the last look held the true ratio, at 1 and at 1.25, and how often it
held what it estimates, at 1.25. The two differ where runs do not arrive within the budget and count with its end: then
the headline estimates a restricted ratio, which is nearer to 1; its mean at a true 1.25 is shown. Last, how many seeds
there were at the end, at 1.25.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import isotonic_regression
from transformers import HfArgumentParser

from hf_critmom.experiments.comparison.statistics.arrivals import Arrivals, arrivals
from hf_critmom.experiments.comparison.statistics.claims import Claim
from hf_critmom.experiments.comparison.statistics.sequential import ALPHA, Looks, decide, interval_level
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.statistics.verdict import (
    FASTER,
    MARGIN,
    NO_DIFFERENCE,
    NOT_DECIDED,
    SLOWER,
    Rule,
    judge,
    verdicts,
)
from hf_critmom.reporting.intervals import CONFIDENCE

CARDS = Path(__file__).parents[1] / "model_cards"
CHANCE = 0.1  # accuracy before the first step, with ten classes
LEAST_CORRELATION = 0.02  # at one epoch; at a quarter of it 0.38, which runs with four evaluations an epoch show
RATIOS = (1.0, 1.0 + MARGIN, 1.25, 1.5)
MOST_SEEDS = 10
WORDS = (NOT_DECIDED, FASTER, SLOWER, NO_DIFFERENCE)


@dataclass(frozen=True)
class Source:
    """A committed comparison whose noise is used.

    Attributes:
        name: What the table calls it.
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
    """A curve and what runs deviate from it.

    Attributes:
        source: Where it was measured.
        epochs: Length of a run.
        curve: Accuracy at 0, 1, ... epochs, rising.
        stretch: Standard deviation of the logarithm of a run's own factor of time.
        deviation: Standard deviation of an evaluation at 1, 2, ... epochs.
        correlation: Correlation between two evaluations one epoch apart.
        shared: Correlation between two arms with the same seed.
        residuals: Standardised deviations that are drawn from.
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
    """Fits curve and noise to the runs of a committed comparison with one evaluation an epoch."""
    table = pd.read_parquet(CARDS / source.folder / "results.parquet")
    validation = table[table["split"] == "validation"]
    wide = validation.pivot_table(index=["arm", "seed"], columns="epoch", values="accuracy")
    # The hybrid has critmom's very runs where its momentum never reaches what it holds: they would count twice.
    arms = [arm for arm in dict.fromkeys(validation["arm"]) if arm != "hybrid"]
    fits = [_fit_arm(wide.loc[arm].to_numpy()) for arm in arms]
    seeds, epochs = fits[0][2].shape
    unbiased = np.sqrt(seeds / (seeds - 1))
    factors, residuals = (np.stack([fit[part] for fit in fits]) * unbiased for part in (1, 2))
    raw = np.log(np.sqrt((residuals**2).mean(axis=(0, 1))))
    deviation = np.exp(np.convolve(np.pad(raw, 1, mode="edge"), np.ones(3) / 3.0, mode="valid"))
    standard = residuals / deviation
    standard /= standard.std()
    correlation = max(float((standard[..., 1:] * standard[..., :-1]).mean()), LEAST_CORRELATION)
    pairs = [(standard[one] * standard[other]).mean() for one in range(len(arms)) for other in range(one)]
    shared = max(float(np.mean(pairs)), 0.0)
    curve = fits[arms.index("constant")][0]
    stretch = float(np.sqrt((factors**2).mean()))
    noise = Noise(source, epochs, curve, stretch, deviation, correlation, shared, standard.ravel())
    committed = {arm: arrivals(table, arm, Metric("accuracy"), source.targets) for arm in arms}
    return _as_scattered(noise, committed)


def _as_scattered(noise: Noise, committed: Mapping[str, Arrivals]) -> Noise:
    """The noise with so large a factor of time that headlines scatter as those of the committed runs do, or more."""
    names = list(committed)
    pairs = [(committed[one], committed[other]) for one in names for other in names[: names.index(one)]]
    scatter = float(np.mean([np.log(one.times / other.times).mean(axis=1).var(ddof=1) for one, other in pairs]))
    for stretch in np.arange(noise.stretch, 0.5, 0.0025):
        raised = replace(noise, stretch=float(stretch))
        values = draw(raised, np.ones(2), 400, 1, np.random.default_rng(0))
        logs = arrivals_of(values, noise.source.targets, 1, smooth=False).logs
        if float((logs[:, 1] - logs[:, 0]).mean(axis=-1).var()) >= scatter:
            return raised
    raise ValueError(f"{noise.source.name}: no factor of time scatters headlines as much as {scatter:.3f} does.")


def _fit_arm(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curve, log factors of time and residuals of the runs of one arm, of shape (seeds, epochs).

    By turns: the curve is the isotonic regression of all evaluations at their stretched times, and the factor of each
    run the one with which the curve fits it best.
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
        curve = np.concatenate([[CHANCE], curve + 1e-6 * at])  # strictly, so that every target has one time
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
        ratios: How many times as long as the curve each arm takes.
        comparisons: How many comparisons are drawn.
        density: Evaluations an epoch.
        rng: Random numbers.
    """
    at = np.arange(1, noise.epochs * density + 1) / density
    step = noise.correlation ** (1.0 / density)
    shape = (comparisons, len(ratios), MOST_SEEDS, len(at))
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
    """Arrivals of many runs, of shape (comparisons, arms, seeds, targets); see `comparison.arrivals`."""

    logs: np.ndarray
    arrived: np.ndarray
    immediate: np.ndarray


def arrivals_of(values: np.ndarray, targets: tuple[float, ...], density: int, *, smooth: bool) -> Times:
    """Arrivals of many runs at once; the time is in evaluations.

    The isotonic regression is never computed: it first is at a target after the evaluation up to which the sum of the
    deviations from the target is least (the switching relation, Groeneboom and Jongbloed, Nonparametric Estimation
    under Shape Constraints (2014), section 3.8), and its values on both sides are a greatest and a least mean.
    """
    last = values.shape[-1]
    places = np.arange(last)
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    found = []
    for target in targets:
        reached = values >= target
        arrived = reached.any(axis=-1)
        if smooth:
            first = (sums - target * np.arange(last + 1)).argmin(axis=-1)
        else:
            first = np.where(arrived, reached.argmax(axis=-1), last)
        at = np.clip(first, 1, last - 1)[..., None]
        if smooth:
            total = np.take_along_axis(sums, at, -1)
            with np.errstate(divide="ignore", invalid="ignore"):
                before = np.where(places < at, (total - sums[..., :-1]) / (at - places), -np.inf)
                after = np.where(places >= at, (sums[..., 1:] - total) / (places + 1 - at), np.inf)
            low, high = before.max(axis=-1), after.min(axis=-1)
        else:
            low, high = (np.take_along_axis(values, at + shift, -1)[..., 0] for shift in (-1, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = at[..., 0] + (target - low) / (high - low)
        time = np.where(first == 0, 1.0, np.where((first < last) & arrived, inside, last))
        found.append((np.log(time / density), arrived, arrived & (first == 0)))
    return Times(*(np.stack(parts, axis=-1) for parts in zip(*found, strict=True)))


@dataclass(frozen=True)
class Evidence:
    """What the first seeds say of every claim, of shape (looks, claims, comparisons)."""

    estimate: np.ndarray
    error: np.ndarray
    different: np.ndarray
    within: np.ndarray


def evidence_of(times: Times, looks: tuple[int, ...]) -> Evidence:
    """Estimates and p-values at each look; arm 0 is the baseline of every claim."""
    rows = []
    for seeds in looks:
        logs, arrived, immediate = (part[:, :, :seeds] for part in (times.logs, times.arrived, times.immediate))
        ratios = logs[:, 1:] - logs[:, :1]
        some, once = arrived.any(axis=2), immediate.all(axis=2)
        told = (some[:, 1:] | some[:, :1]) & ~(once[:, 1:] & once[:, :1])
        known = (arrived & ~immediate).all(axis=2)
        timed = known[:, 1:] & known[:, :1]
        estimate, error = _mean(ratios, told)
        timed_estimate, timed_error = _mean(ratios, timed)
        margin = np.log1p(MARGIN)
        within = np.maximum(
            _within(estimate, error, seeds, margin), _within(timed_estimate, timed_error, seeds, margin)
        )
        with np.errstate(invalid="ignore"):
            different = 2.0 * stats.t.sf(np.abs(estimate) / error, seeds - 1)
        p_values = (np.where(np.isnan(p), 1.0, p) for p in (different, np.minimum(2.0 * within, 1.0)))
        rows.append([part.T for part in (estimate, error, *p_values)])
    return Evidence(*(np.stack(parts) for parts in zip(*rows, strict=True)))


def _mean(ratios: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the targets used and over seeds, and its standard error; NaN where no target is used."""
    number = used.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_seed = np.where(used[:, :, None, :], ratios, 0.0).sum(axis=-1) / number[:, :, None]
    seeds = of_seed.shape[-1]
    return of_seed.mean(axis=-1), of_seed.std(axis=-1, ddof=1) / np.sqrt(seeds)


def _within(estimate: np.ndarray, error: np.ndarray, seeds: int, margin: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.maximum(*(stats.t.sf((margin + side * estimate) / error, seeds - 1) for side in (-1.0, 1.0)))


@dataclass(frozen=True)
class Design:
    """How many seeds a comparison has, and when it is looked at.

    Attributes:
        name: What the table calls it.
        first: Seeds at the first planned look.
        last: Seeds at the last planned look.
        end: Seeds at which growing ends.
    """

    name: str
    first: int
    last: int
    end: int

    @property
    def looks(self) -> Looks:
        """All of its looks."""
        return Looks(self.first, self.last, tuple(range(self.first, self.end + 1)))


DESIGNS = (
    *(Design(f"{seeds} seeds", seeds, seeds, seeds) for seeds in (3, 5, 10)),
    *(Design(f"{first} to 10", first, 10, 10) for first in (3, 5)),
    *(Design(f"{seeds}, by hand", seeds, seeds, 10) for seeds in (3, 5)),
)


@dataclass(frozen=True)
class Outcome:
    """What the comparisons of one design and one true ratio ended with.

    Attributes:
        words: Index of each claim's word in `WORDS`, of shape (claims, comparisons).
        seeds: Seeds at the end.
        covered: Whether the interval held the true ratio, of shape (claims, comparisons).
        held: Whether it held the mean of the estimates with so many seeds.
        ratio: Geometric mean of the estimates with all seeds.
    """

    words: np.ndarray
    seeds: np.ndarray
    covered: np.ndarray
    held: np.ndarray
    ratio: float

    def any(self, *words: str) -> float:
        """Percent of comparisons in which some claim has one of these words."""
        return 100.0 * float(np.isin(self.words, [WORDS.index(word) for word in words]).any(axis=0).mean())

    def each(self, word: str) -> float:
        """Percent of claims that have this word."""
        return 100.0 * float((self.words == WORDS.index(word)).mean())


def outcome_of(evidence: Evidence, design: Design, ratio: float) -> Outcome:
    """The words of every claim, each decided at the first look at which it can be."""
    rows = np.array(design.looks.made) - _LOOKS[0]
    claims = evidence.different.shape[1]
    weights = [1.0 / claims] * claims
    different, _ = decide(evidence.different[rows], weights, design.looks)
    within, _ = decide(evidence.within[rows], weights, design.looks, 2.0 * ALPHA)
    never = len(rows)
    different, within = (np.where(at < 0, never, at) for at in (different, within))
    look = np.minimum(different, within)
    there = np.minimum(look, never - 1)
    estimates = evidence.estimate[rows]
    sign = np.take_along_axis(estimates, there[None], 0)[0]
    told = np.where(different <= within, np.where(sign < 0.0, 1, 2), 3)
    words = np.where(look == never, 0, told)
    end = np.minimum(look.max(axis=0), never - 1)
    made = design.looks.made
    levels = [interval_level(Looks(design.first, design.last, made[: row + 1]), CONFIDENCE) for row in range(never)]
    half = np.array([stats.t.isf((1.0 - level) / 2.0, n - 1) for level, n in zip(levels, made, strict=True)])
    at_end = np.broadcast_to(end, look.shape)[None]
    estimate, error = (np.take_along_axis(part[rows], at_end, 0)[0] for part in (evidence.estimate, evidence.error))
    means = np.nanmean(estimates, axis=(1, 2))
    covered, held = (np.abs(estimate - truth) <= half[end] * error for truth in (np.log(ratio), means[end]))
    return Outcome(words, np.array(made)[end], covered, held, float(np.exp(means[-1])))


_LOOKS = tuple(range(3, MOST_SEEDS + 1))


def simulate(noise: Noise, density: int, ratio: float, claims: int, comparisons: int, seed: int) -> Evidence:
    """Evidence of synthetic comparisons of `claims` arms with one baseline."""
    parts = []
    rng = np.random.default_rng([seed, len(noise.source.name), density, claims, round(1000 * ratio)])
    ratios = np.array([1.0, *[ratio] * claims])
    size = max(2_000_000 // ((claims + 1) * MOST_SEEDS * noise.epochs * density), 1)
    for start in range(0, comparisons, size):
        values = draw(noise, ratios, min(size, comparisons - start), density, rng)
        parts.append(evidence_of(arrivals_of(values, noise.source.targets, density, smooth=density >= 4), _LOOKS))
    names = ("estimate", "error", "different", "within")
    return Evidence(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


def agreement(noise: Noise, density: int, ratio: float, comparisons: int, seed: int) -> tuple[int, int]:
    """How many words of the program's own verdicts on tables of results equal those of this script, and of how many."""
    rng = np.random.default_rng([seed, density, 7])
    values = draw(noise, np.array([1.0, ratio, ratio]), comparisons, density, rng)
    evidence = evidence_of(arrivals_of(values, noise.source.targets, density, smooth=density >= 4), _LOOKS)
    same = total = 0
    for design in DESIGNS:
        words = outcome_of(evidence, design, ratio).words
        for index in range(comparisons):
            table = pd.DataFrame(_rows(values[index, :, : design.end], density))
            rule = Rule(Metric("accuracy"), noise.source.targets, looks=design.looks)
            claims = [Claim("", f"arm{arm}", ("arm0",)) for arm in (1, 2)]
            for place, verdict in enumerate(verdicts(judge(table, rule), claims)):
                same += verdict.word == WORDS[words[place, index]]
                total += 1
    return same, total


def _rows(values: np.ndarray, density: int) -> Iterator[dict[str, object]]:
    """Rows of the results table of one comparison, from curves of shape (arms, seeds, evaluations)."""
    for arm, of_arm in enumerate(values):
        for seed, curve in enumerate(of_arm):
            run = {"arm": f"arm{arm}", "seed": seed, "status": "finished"}
            for place, value in enumerate(curve, start=1):
                yield {**run, "split": "validation", "step": place, "epoch": place / density, "accuracy": value}
            yield {**run, "split": "test", "step": len(curve), "epoch": len(curve) / density, "accuracy": curve[-1]}


@dataclass
class SimulationArguments:
    """What is simulated."""

    comparisons: int = 5000
    """Synthetic comparisons in each cell."""
    seed: int = 0
    """Seed of the random numbers."""
    checked: int = 5
    """Comparisons of each kind whose words are compared with the program's own verdicts."""
    type_one: bool = False
    """Print only the type I error of one claim, with the noise of digits."""


_HEADER = (
    "\n              evaluations                   | true ratio 1   |   ratio 1.1    |  ratio 1.25   |   ratio 1.5   |"
    "       coverage       | at 1.25\n"
    "noise            an epoch      design claims| type I no diff.|no diff. slower | slower faster | slower faster |"
    "     1   1.25 estimand|ratio seeds"
)


def main() -> None:
    """Prints the table."""
    (arguments,) = HfArgumentParser(SimulationArguments).parse_args_into_dataclasses()  # type: ignore[arg-type]
    began = time.perf_counter()
    if arguments.type_one:
        print_type_one(arguments.comparisons, arguments.seed)
        return
    print(f"python scripts/simulate_verdicts.py --comparisons {arguments.comparisons} --seed {arguments.seed}\n")
    noises = [fit_noise(source) for source in SOURCES]
    for noise in noises:
        print(
            f"{noise.source.name}: targets {', '.join(map(str, noise.source.targets))}; {noise.epochs} epochs; "
            f"factor of time of a run {100.0 * noise.stretch:.1f} %; "
            f"deviation of an evaluation {noise.deviation.max():.3f} to {noise.deviation.min():.4f}, correlation at "
            f"one epoch {noise.correlation:.2f}, between arms of a seed {noise.shared:.2f}"
        )
    print(_HEADER)
    for noise in noises:
        for density in (1, 4):
            for claims in (1, 10):
                evidence = {
                    ratio: simulate(noise, density, ratio, claims, arguments.comparisons, arguments.seed)
                    for ratio in RATIOS
                }
                for design in DESIGNS:
                    print(_line(noise, density, design, claims, evidence))
    for noise in noises[:2]:
        for density in (1, 4):
            same, total = agreement(noise, density, 1.1, arguments.checked, arguments.seed)
            print(
                f"\n{noise.source.name}, {density} an epoch: {same} of {total} words equal those of `verdicts`.", end=""
            )
    print(f"\n\n{time.perf_counter() - began:.0f} s")


def print_type_one(comparisons: int, seed: int) -> None:
    """Prints how often one claim was called faster or slower at a true ratio of 1, with the noise of digits."""
    print(f"python scripts/simulate_verdicts.py --type_one --comparisons {comparisons} --seed {seed}\n")
    error = 100.0 * np.sqrt(ALPHA * (1.0 - ALPHA) / comparisons)
    print(f"Type I error in percent, with a simulation error of {error:.2f}\n")
    print("noise            an epoch      design| type I faster slower")
    for source in SOURCES[1:]:
        noise = fit_noise(source)
        for density in (1, 4):
            evidence = simulate(noise, density, 1.0, 1, comparisons, seed)
            for design in DESIGNS:
                found = outcome_of(evidence, design, 1.0)
                rates = f"{found.any(FASTER, SLOWER):>7.2f}{found.any(FASTER):>7.2f}{found.any(SLOWER):>7.2f}"
                print(f"{noise.source.name:15}{density:>10}{design.name:>12}|{rates}", flush=True)


def _line(noise: Noise, density: int, design: Design, claims: int, evidence: dict[float, Evidence]) -> str:
    equal, margin, slower, slowest = (outcome_of(evidence[ratio], design, ratio) for ratio in RATIOS)
    return (
        f"{noise.source.name:15}{density:>10}{design.name:>12}{claims:>7}|"
        f"{equal.any(FASTER, SLOWER):>7.1f}{equal.each(NO_DIFFERENCE):>9.1f}|"
        f"{margin.any(NO_DIFFERENCE):>8.1f}{margin.each(SLOWER):>7.1f} |"
        f"{slower.each(SLOWER):>7.1f}{slower.any(FASTER):>7.1f} |"
        f"{slowest.each(SLOWER):>7.1f}{slowest.any(FASTER):>7.1f} |"
        f"{100 * equal.covered.mean():>6.1f}{100 * slower.covered.mean():>7.1f}{100 * slower.held.mean():>9.1f}|"
        f"{slower.ratio:>5.2f}{slower.seeds.mean():>6.1f}"
    )


if __name__ == "__main__":
    main()
