"""How often verdicts are wrong, and how often they are decided: thousands of comparisons of synthetic runs.

    python scripts/simulate_verdicts.py
    python scripts/simulate_verdicts.py --type_one --comparisons 40000 --seed 12345

The second command prints only the type I error of a single claim with the noise of digits, to tell whether a cell of
the table exceeds 5 % by chance. How synthetic runs are drawn is described in `synthetic_runs.py`.

Designs: `N seeds`: fixed; `F to L`: `--until_decided` from F seeds, with a look after each further one, up to L;
`N, by hand`: a fixed comparison to which seeds are added by hand, one at a time up to ten, as long as anything is
undecided. With ten claims, ten arms are compared with one baseline, and all have the same true ratio.

Columns, in percent: at a true ratio of 1, comparisons with any claim called faster or slower (type I error), and claims
called no difference; at a true ratio at the margin (1.1), comparisons with any claim called no difference (the other
error), and claims called slower; at 1.25 and 1.5, claims called slower (power), and comparisons with any claim called
faster.

Coverage: how often the headline's interval at the last look contains the true ratio, at 1 and 1.25, and how often it
contains its own estimand, at 1.25. The two differ if runs do not reach a target within the budget and count with its
end: then the headline estimates a restricted ratio, which is closer to 1. Its mean at a true ratio of 1.25 is shown,
and the mean number of seeds at the end.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from command_line import check_positive, parse_dataclasses
from scipy import stats
from synthetic_runs import MAX_SEEDS, SOURCES, Noise, Times, arrivals_of, draw, fit_noise

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

RATIOS = (1.0, 1.0 + MARGIN, 1.25, 1.5)
WORDS = (NOT_DECIDED, FASTER, SLOWER, NO_DIFFERENCE)


@dataclass(frozen=True)
class Evidence:
    """Evidence on every claim at each look; arrays of shape (looks, claims, comparisons).

    Attributes:
        estimate: Mean log ratio of times.
        error: Its standard error.
        different: p-value of a difference.
        within: p-value of no difference.
    """

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
        some, at_once = arrived.any(axis=2), immediate.all(axis=2)
        informative = (some[:, 1:] | some[:, :1]) & ~(at_once[:, 1:] & at_once[:, :1])
        known = (arrived & ~immediate).all(axis=2)
        timed = known[:, 1:] & known[:, :1]
        estimate, error = _mean(ratios, informative)
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
    """Mean over used targets and seeds, and its standard error; NaN if no target is used."""
    number = used.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_seed = np.where(used[:, :, None, :], ratios, 0.0).sum(axis=-1) / number[:, :, None]
    seeds = by_seed.shape[-1]
    return by_seed.mean(axis=-1), by_seed.std(axis=-1, ddof=1) / np.sqrt(seeds)


def _within(estimate: np.ndarray, error: np.ndarray, seeds: int, margin: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.maximum(*(stats.t.sf((margin + side * estimate) / error, seeds - 1) for side in (-1.0, 1.0)))


@dataclass(frozen=True)
class Design:
    """The number of seeds of a comparison, and its looks.

    Attributes:
        name: Name in the table.
        first: Number of seeds at the first planned look.
        last: Number of seeds at the last planned look.
        end: Largest number of seeds, with those added by hand.
    """

    name: str
    first: int
    last: int
    end: int

    @property
    def looks(self) -> Looks:
        """All looks, including those added by hand."""
        return Looks(self.first, self.last, tuple(range(self.first, self.end + 1)))


DESIGNS = (
    *(Design(f"{seeds} seeds", seeds, seeds, seeds) for seeds in (3, 5, 10)),
    *(Design(f"{first} to 10", first, 10, 10) for first in (3, 5)),
    *(Design(f"{seeds}, by hand", seeds, seeds, 10) for seeds in (3, 5)),
)


@dataclass(frozen=True)
class Outcome:
    """How the comparisons of one design and one true ratio ended.

    Attributes:
        words: Index of each claim's verdict in `WORDS`; shape (claims, comparisons).
        seeds: Number of seeds at the end; shape (comparisons,).
        covered: Whether the interval contains the true ratio; shape (claims, comparisons).
        own_covered: Whether it contains its estimand, the mean estimate with as many seeds; the same shape.
        ratio: Geometric mean of the estimates with all seeds.
    """

    words: np.ndarray
    seeds: np.ndarray
    covered: np.ndarray
    own_covered: np.ndarray
    ratio: float

    def any(self, *words: str) -> float:
        """Percentage of comparisons in which any claim has one of these verdicts."""
        return 100.0 * float(np.isin(self.words, [WORDS.index(word) for word in words]).any(axis=0).mean())

    def each(self, word: str) -> float:
        """Percentage of claims with this verdict."""
        return 100.0 * float((self.words == WORDS.index(word)).mean())


def outcome_of(evidence: Evidence, design: Design, ratio: float) -> Outcome:
    """Decides every claim at the first look at which that is possible."""
    rows = np.array(design.looks.made) - _LOOKS[0]
    claims = evidence.different.shape[1]
    weights = [1.0 / claims] * claims
    different, _ = decide(evidence.different[rows], weights, design.looks)
    within, _ = decide(evidence.within[rows], weights, design.looks, 2.0 * ALPHA)
    never = len(rows)
    different, within = (np.where(at < 0, never, at) for at in (different, within))
    look = np.minimum(different, within)
    decided_at = np.minimum(look, never - 1)
    estimates = evidence.estimate[rows]
    sign = np.take_along_axis(estimates, decided_at[None], 0)[0]
    decided = np.where(different <= within, np.where(sign < 0.0, 1, 2), 3)
    words = np.where(look == never, 0, decided)
    end = np.minimum(look.max(axis=0), never - 1)
    made = design.looks.made
    levels = [interval_level(Looks(design.first, design.last, made[: row + 1]), CONFIDENCE) for row in range(never)]
    half = np.array([stats.t.isf((1.0 - level) / 2.0, n - 1) for level, n in zip(levels, made, strict=True)])
    at_end = np.broadcast_to(end, look.shape)[None]
    estimate, error = (np.take_along_axis(part[rows], at_end, 0)[0] for part in (evidence.estimate, evidence.error))
    means = np.nanmean(estimates, axis=(1, 2))
    covered, own_covered = (np.abs(estimate - truth) <= half[end] * error for truth in (np.log(ratio), means[end]))
    return Outcome(words, np.array(made)[end], covered, own_covered, float(np.exp(means[-1])))


_LOOKS = tuple(range(3, MAX_SEEDS + 1))


def simulate(noise: Noise, density: int, ratio: float, claims: int, comparisons: int, seed: int) -> Evidence:
    """Evidence from synthetic comparisons of `claims` arms with one baseline."""
    parts = []
    rng = np.random.default_rng([seed, len(noise.source.name), density, claims, round(1000 * ratio)])
    ratios = np.array([1.0, *[ratio] * claims])
    size = max(2_000_000 // ((claims + 1) * MAX_SEEDS * noise.epochs * density), 1)
    for start in range(0, comparisons, size):
        values = draw(noise, ratios, min(size, comparisons - start), density, rng)
        parts.append(evidence_of(arrivals_of(values, noise.source.targets, density, smooth=density >= 4), _LOOKS))
    names = ("estimate", "error", "different", "within")
    return Evidence(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


def agreement(noise: Noise, density: int, ratio: float, comparisons: int, seed: int) -> tuple[int, int]:
    """Compares this script's verdicts with those of the package; returns how many are the same, and of how many."""
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
    """Rows of the results table of a comparison, from curves of shape (arms, seeds, evaluations)."""
    for arm, curves in enumerate(values):
        for seed, curve in enumerate(curves):
            run = {"arm": f"arm{arm}", "seed": seed, "status": "finished"}
            for step, value in enumerate(curve, start=1):
                yield {**run, "split": "validation", "step": step, "epoch": step / density, "accuracy": value}
            yield {**run, "split": "test", "step": len(curve), "epoch": len(curve) / density, "accuracy": curve[-1]}


@dataclass
class SimulationArguments:
    """Flags of the simulation."""

    comparisons: int = field(default=5000, metadata={"help": "Number of synthetic comparisons per cell."})
    seed: int = field(default=0, metadata={"help": "Random seed."})
    checked: int = field(
        default=5, metadata={"help": "Number of comparisons whose verdicts are compared with those of the package."}
    )
    type_one: bool = field(
        default=False, metadata={"help": "Print only the type I error of a single claim with the noise of digits."}
    )

    def __post_init__(self) -> None:
        check_positive(self, "comparisons", "checked")
        if self.seed < 0:
            raise ValueError(f"--seed must be at least 0, got {self.seed}.")


_HEADER = (
    "\n              evaluations                   | true ratio 1   |   ratio 1.1    |  ratio 1.25   |   ratio 1.5   |"
    "       coverage       | at 1.25\n"
    "noise            an epoch      design claims| type I no diff.|no diff. slower | slower faster | slower faster |"
    "     1   1.25 estimand|ratio seeds"
)


def main() -> None:
    """Prints the table."""
    (arguments,) = parse_dataclasses(SimulationArguments, description=__doc__.splitlines()[0])
    began = time.perf_counter()
    if arguments.type_one:
        print_type_one(arguments.comparisons, arguments.seed)
        return
    print(f"python scripts/simulate_verdicts.py --comparisons {arguments.comparisons} --seed {arguments.seed}\n")
    noises = [fit_noise(source) for source in SOURCES]
    for noise in noises:
        print(
            f"{noise.source.name}: targets {', '.join(map(str, noise.source.targets))}; {noise.epochs} epochs; "
            f"time factor of a run {100.0 * noise.stretch:.1f} %; "
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
    print()
    for noise in noises[:2]:
        for density in (1, 4):
            same, total = agreement(noise, density, 1.1, arguments.checked, arguments.seed)
            print(f"{noise.source.name}, {density} per epoch: {same} of {total} verdicts equal the package's.")
    print(f"\n{time.perf_counter() - began:.0f} s")


def print_type_one(comparisons: int, seed: int) -> None:
    """Prints how often a single claim is called faster or slower at a true ratio of 1, with the noise of digits."""
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
        f"{100 * equal.covered.mean():>6.1f}{100 * slower.covered.mean():>7.1f}{100 * slower.own_covered.mean():>9.1f}|"
        f"{slower.ratio:>5.2f}{slower.seeds.mean():>6.1f}"
    )


if __name__ == "__main__":
    main()
