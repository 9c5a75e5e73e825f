"""Estimates with their intervals."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""Level of every interval that is not said to have another."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: The point estimate; NaN if there is none.
        low: Lower end; minus infinity (of a ratio: 0) where the data give no bound.
        high: Upper end; infinity where the data give no bound.
        n: Number of seeds that it rests on.
    """

    estimate: float
    low: float
    high: float
    n: int


def mean_interval(values: np.ndarray, *, least_std: float = 0.0, confidence: float = CONFIDENCE) -> Interval:
    """Mean with Student's t interval; unbounded for fewer than two values.

    Args:
        values: Independent values.
        least_std: Standard deviation that the values have at the least.
        confidence: Level of the interval.
    """
    n = len(values)
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    std = max(float(np.std(values, ddof=1)), least_std)
    half = float(stats.t.ppf(0.5 + confidence / 2.0, n - 1)) * std / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)
