"""Estimates with confidence intervals and tests, based on Student's t."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""Default confidence level."""

_NO_SPREAD = 1e-12  # smaller standard errors are rounding errors


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: The point estimate; NaN if there is none.
        low: Lower bound; minus infinity (for a ratio: 0) if the data give none.
        high: Upper bound; infinity if the data give none.
        n: Number of seeds.
    """

    estimate: float
    low: float
    high: float
    n: int

    def exp(self) -> "Interval":
        """The interval of a ratio, if this is the interval of its logarithm."""
        return Interval(_exp(self.estimate), _exp(self.low), _exp(self.high), self.n)


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means, with what its interval and its tests need.

    Attributes:
        value: The estimate; NaN if there is none.
        standard_error: Standard error; NaN for a single value.
        dof: Degrees of freedom of Student's t.
        n: Number of seeds.
        paired: Whether it is a mean of differences between runs of the same seed.
    """

    value: float
    standard_error: float
    dof: float
    n: int
    paired: bool = True

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Student's t interval; unbounded if there is no standard error.

        Args:
            confidence: Confidence level.
        """
        if math.isnan(self.standard_error):
            return Interval(self.value, -math.inf, math.inf, self.n)
        # isf of the upper tail, because ppf(0.5 + confidence / 2) loses digits for levels near 1, and is infinite at 1.
        half = float(stats.t.isf((1.0 - confidence) / 2.0, self.dof)) * self.standard_error
        half = 0.0 if self.standard_error == 0.0 else half
        return Interval(self.value, self.value - half, self.value + half, self.n)

    def p_value(self, null: float = 0.0) -> float:
        """p-value of the two-sided t test of the null hypothesis `null`; 1 if there is no standard error."""
        return min(2.0 * min(self.p_below(null), self.p_above(null)), 1.0)

    def p_below(self, null: float = 0.0) -> float:
        """p-value of the one-sided t test whose alternative is a true value below `null`."""
        return self._tail(null, -1.0)

    def p_above(self, null: float = 0.0) -> float:
        """p-value of the one-sided t test whose alternative is a true value above `null`."""
        return self._tail(null, 1.0)

    def p_within(self, margin: float) -> float:
        """p-value of two one-sided tests whose joint alternative is a true value between -`margin` and `margin`.

        Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657: both tests have to reject, each at the full level.
        """
        return max(self.p_above(-margin), self.p_below(margin))

    def _tail(self, null: float, sign: float) -> float:
        if math.isnan(self.standard_error):
            return 1.0
        distance = sign * (self.value - null)
        if self.standard_error <= _NO_SPREAD:
            return 0.0 if distance > _NO_SPREAD else 1.0
        return float(stats.t.sf(distance / self.standard_error, self.dof))


def paired_estimate(differences: np.ndarray) -> Estimate:
    """Mean of independent values, such as differences between runs of the same seed.

    Args:
        differences: One value per seed.
    """
    n = len(differences)
    value = float(np.mean(differences)) if n else math.nan
    error = float(np.std(differences, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(value, 0.0 if error <= _NO_SPREAD else error, max(n - 1.0, 0.0), n)


def welch_estimate(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Difference of the means of two independent samples, whose variances need not be equal.

    Welch, Biometrika 34 (1947) 28, with Satterthwaite's degrees of freedom.

    Args:
        first: Values of the first sample.
        second: Values of the second sample, whose mean is subtracted.
    """
    n = min(len(first), len(second))
    value = float(np.mean(first) - np.mean(second)) if n else math.nan
    if n < 2:
        return Estimate(value, math.nan, 0.0, n, paired=False)
    parts = [float(np.var(sample, ddof=1)) / len(sample) for sample in (first, second)]
    error = math.sqrt(sum(parts))
    if error <= _NO_SPREAD:
        return Estimate(value, 0.0, n - 1.0, n, paired=False)
    shares = [part / sum(parts) for part in parts]
    dof = 1.0 / sum(share**2 / (len(of) - 1) for share, of in zip(shares, (first, second), strict=True))
    return Estimate(value, error, dof, n, paired=False)


def mean_interval(values: np.ndarray, *, confidence: float = CONFIDENCE) -> Interval:
    """Mean with Student's t interval; unbounded for fewer than two values.

    Args:
        values: Independent values.
        confidence: Confidence level.
    """
    return paired_estimate(values).interval(confidence)


def _exp(value: float) -> float:
    """The exponential; infinity on overflow."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
