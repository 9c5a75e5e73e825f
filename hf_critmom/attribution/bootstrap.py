"""Intervals for the shares of the groups, from the gradients of a few units of examples."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEAST_UNITS = 5
"""With fewer units no interval is given: they are too few to estimate a spread."""

RESAMPLES = 2000


def share_intervals(
    units: Sequence[tuple[int, np.ndarray]],
    parts: Sequence[slice],
    shares: Sequence[float],
    *,
    confidence: float,
    seed: int,
) -> tuple[list[tuple[float, float] | None], list[float | None]]:
    """Bootstrap intervals for the shares of groups in the squared norm of a mean gradient.

    Units of examples are drawn with replacement. A mean over fewer distinct examples is noisier, which adds to the
    share of the noisiest groups just as much as the finite number of examples did in the first place; so the interval
    is the basic (reverse percentile) one, which takes that off, on the scale of log odds, which keeps it within 0 and
    1. Its levels are widened for few units as in T. C. Hesterberg, *What Teachers Should Know About the Bootstrap*
    (The American Statistician 69, 2015), section 3.3: the level of a t interval instead of a normal one.

    Args:
        units: Number of items of each unit, and the sum of their gradients (or a sketch of it), (values,).
        parts: Which of the values belong to each group.
        shares: The groups' shares, as computed from the whole gradient.
        confidence: Such as 0.95.
        seed: Seed for resampling.

    Returns:
        Interval and standard error of the log odds of each group; None where there are fewer than `LEAST_UNITS` units,
        or the share is 0 or 1.
    """
    count = len(units)
    if count < LEAST_UNITS:
        return [None] * len(parts), [None] * len(parts)
    items = np.array([number for number, _ in units], dtype=float)
    vectors = np.stack([vector for _, vector in units])
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES)
    weights = np.vstack([np.ones(count), drawn])  # the first row is the data as they are
    weights = weights / (weights @ items)[:, None]
    squares = np.stack([_squared_norms(weights, vectors[:, part]) for part in parts], axis=1)
    level = stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf(0.5 + confidence / 2.0, count - 1))
    intervals: list[tuple[float, float] | None] = []
    errors: list[float | None] = []
    for group, share in enumerate(shares):
        own, rest = squares[:, group], np.delete(squares, group, axis=1).sum(axis=1)
        if not 0.0 < share < 1.0 or not (own > 0.0).all() or not (rest > 0.0).all():
            intervals.append(None)
            errors.append(None)
            continue
        odds = np.log(own) - np.log(rest)
        low, high = np.quantile(odds[1:] - odds[0], [level, 1.0 - level])
        centre = math.log(share / (1.0 - share))
        intervals.append((_logistic(centre - high), _logistic(centre - low)))
        errors.append(float(odds[1:].std() * math.sqrt(count / (count - 1))))
    return intervals, errors


def _squared_norms(weights: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Squared norms of weighted sums: weights (sums, units), vectors (units, values)."""
    return np.einsum("ru,uv,rv->r", weights, vectors @ vectors.T, weights, optimize=True)


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value > -700.0 else 0.0
