"""The number of seeds that would probably decide a claim, if estimate and spread stay the same."""

import math
from collections.abc import Sequence

from scipy import stats

from hf_critmom.experiments.comparison.statistics.sequential import Looks, spent
from hf_critmom.reporting.intervals import Estimate

POWER = 0.8
"""Probability with which the number of seeds decides the claim."""

MAX_SEEDS = 100
"""Largest number of seeds that is proposed; a claim that needs more has too small a difference."""


def seeds_needed(
    estimate: Estimate,
    looks: Looks,
    margin: float,
    alpha: float,
    alpha_within: float,
    within: Sequence[Estimate] | None = None,
) -> int | None:
    """The smallest number of seeds that probably decides a claim, as a difference or as no difference.

    The present estimate and spread are taken for the true ones, which they may not be, especially with few seeds: the
    number is a guide to what to run next, not a promise. The look at that number of seeds is taken as the next one,
    which may spend what all looks until then add to the error probability. They spend it bit by bit instead, which
    decides about as often: with 70 to 90 % where this says 80 %.

    Args:
        estimate: Mean log ratio of times.
        looks: The looks that the claim has had.
        margin: Log ratio up to which a difference counts as none.
        alpha: Error probability that the claim may spend on a difference, two-sided.
        alpha_within: Error probability that the claim may spend on no difference, two-sided.
        within: The mean log ratios that must all be shown to lie within the margin; empty if none can be. Default: the
            estimate.

    Returns:
        The total number of seeds; None if the spread is not known, or more than `MAX_SEEDS` would be needed.
    """
    if math.isnan(estimate.standard_error) or estimate.n < 2:
        return None

    def power(seeds: int) -> float:
        level, level_within = (spent(seeds, looks.last, of) - before(of) for of in (alpha, alpha_within))
        different = power_of_difference(estimate.value, error(estimate, seeds), seeds - 1.0, level)
        equal = [
            power_of_equivalence(one.value, error(one, seeds), seeds - 1.0, level_within, margin)
            for one in ([estimate] if within is None else within)
        ]
        return max(different, min(equal, default=0.0))

    def error(one: Estimate, seeds: int) -> float:
        return one.standard_error * math.sqrt(one.n / seeds)

    def before(alpha: float) -> float:
        return spent(looks.counted[-1], looks.last, alpha) if looks.counted else 0.0

    low = max((1, looks.first - 1, *looks.made))  # a single seed has no spread
    high = low + 1
    while power(high) < POWER:
        if high >= MAX_SEEDS:
            return None
        low, high = high, min(low + 2 * (high - low), MAX_SEEDS)
    while high - low > 1:  # power grows with the number of seeds, so the smallest number lies in between
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def power_of_difference(true: float, error: float, dof: float, level: float) -> float:
    """Probability that a two-sided t test finds a difference.

    Args:
        true: The true difference.
        error: Standard error of its estimate.
        dof: Degrees of freedom.
        level: Level of the test.
    """
    if level <= 0.0:
        return 0.0
    if error == 0.0:
        return float(true != 0.0)
    critical, shift = float(stats.t.isf(level / 2.0, dof)), abs(true) / error
    if shift > 1e3:  # beyond the range in which SciPy computes the noncentral t distribution
        return float(shift > critical)
    return float(stats.nct.sf(critical, dof, shift))


def power_of_equivalence(true: float, error: float, dof: float, level: float, margin: float) -> float:
    """Probability that two one-sided t tests show a difference to lie within a margin, or slightly less.

    It is the sum of the two tests' powers minus 1, a lower bound of the probability that both reject (exact if at most
    one of them can fail).

    Args:
        true: The true difference.
        error: Standard error of its estimate.
        dof: Degrees of freedom.
        level: Twice the level of each of the tests.
        margin: The margin.
    """
    if level <= 0.0:
        return 0.0
    if error == 0.0:
        return float(abs(true) < margin)
    critical = float(stats.t.isf(min(level, 1.0) / 2.0, dof))
    powers = []
    for distance in (margin - true, margin + true):
        shift = distance / error
        powers.append(float(shift > critical) if abs(shift) > 1e3 else float(stats.nct.sf(critical, dof, shift)))
    return max(sum(powers) - 1.0, 0.0)
