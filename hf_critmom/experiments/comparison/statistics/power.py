"""How many seeds would probably decide a claim, if the estimate and the spread stay what they are."""

import math

from scipy import stats

from hf_critmom.experiments.comparison.statistics.sequential import Looks, spent
from hf_critmom.reporting.intervals import Estimate

POWER = 0.8
"""Probability with which that many seeds decide."""

MOST_SEEDS = 100
"""More seeds than this are not proposed: the difference is too small to be decided."""


def seeds_needed(estimate: Estimate, looks: Looks, margin: float, alpha: float, alpha_within: float) -> int | None:
    """The least number of seeds with which a claim is probably decided, as a difference or as none.

    The present estimate and spread stand for the true ones, which they need not be, least with few seeds: a guide for
    what to run next, not a promise. The look at that many seeds is taken as the next one, with no more to spend than
    it adds.

    Args:
        estimate: Mean log ratio of times.
        looks: The looks made so far.
        margin: Half the width of what counts as no difference, as a logarithm.
        alpha: What the claim may spend on a difference, two-sided.
        alpha_within: What it may spend on no difference, two-sided.

    Returns:
        The number of seeds in all; None if there is no spread to judge by, or more than `MOST_SEEDS` would be needed.
    """
    if math.isnan(estimate.standard_error) or estimate.n < 2:
        return None
    spread = estimate.standard_error * math.sqrt(estimate.n)

    def power(seeds: int) -> float:
        error, dof = spread / math.sqrt(seeds), seeds - 1.0
        # What the look may spend, which its level is not below: the looks before it have spent some of it already.
        level, level_within = (spent(seeds, looks.last, of) - before(of) for of in (alpha, alpha_within))
        different = power_of_difference(estimate.value, error, dof, level)
        within = power_of_equivalence(estimate.value, error, dof, level_within, margin)
        return max(different, within)

    def before(alpha: float) -> float:
        return spent(looks.counted[-1], looks.last, alpha) if looks.counted else 0.0

    low = max(estimate.n, *looks.made, looks.first - 1)
    high = low + 1
    while power(high) < POWER:
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(low + 2 * (high - low), MOST_SEEDS)
    while high - low > 1:  # more seeds decide more, so the least number lies between
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def power_of_difference(true: float, error: float, dof: float, level: float) -> float:
    """Probability that a two-sided t test at a level finds a difference.

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
    if shift > 1e3:  # beyond what the noncentral distribution is computed for
        return float(shift > critical)
    return float(stats.nct.sf(critical, dof, shift))


def power_of_equivalence(true: float, error: float, dof: float, level: float, margin: float) -> float:
    """Probability that two one-sided t tests find a difference within a margin; slightly understated.

    It is the sum of the two tests' powers less 1, which is what both of them reject with at the least (exact as soon as
    at most one of them can fail).

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
