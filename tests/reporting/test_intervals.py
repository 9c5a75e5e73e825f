"""Claims about estimates, their t intervals and their tests."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_critmom.reporting.intervals import Estimate, Interval, mean_interval, paired_estimate, welch_estimate

few_examples = settings(max_examples=50, deadline=None)
samples = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True).map(lambda of: np.array(of) / 100.0)


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (10, 2.26216), (31, 2.04227)])
def test_the_interval_of_a_mean_is_students(n: int, quantile: float) -> None:
    """Quantiles of t(n - 1) at 0.975, from Student's table."""
    values = np.random.default_rng(n).normal(size=n)
    found = mean_interval(values)
    half = quantile * statistics.stdev(values) / math.sqrt(n)
    assert found.n == n and found.estimate == pytest.approx(statistics.fmean(values))
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half), rel=1e-4)


@few_examples
@given(samples, st.floats(-3.0, 3.0))
def test_paired_p_values_are_those_of_scipys_one_sample_test(values: np.ndarray, null: float) -> None:
    found = paired_estimate(values)
    two, below, above = (
        stats.ttest_1samp(values, null, alternative=side).pvalue for side in ("two-sided", "less", "greater")
    )
    assert found.p_value(null) == pytest.approx(two, rel=1e-6, abs=1e-12)
    assert found.p_below(null) == pytest.approx(below, rel=1e-6, abs=1e-12)
    assert found.p_above(null) == pytest.approx(above, rel=1e-6, abs=1e-12)


@few_examples
@given(samples, samples)
def test_welchs_estimate_is_scipys(first: np.ndarray, second: np.ndarray) -> None:
    found = welch_estimate(first, second)
    twin = stats.ttest_ind(first, second, equal_var=False)
    low, high = twin.confidence_interval(0.95)
    assert not found.paired and found.p_value() == pytest.approx(twin.pvalue, rel=1e-6, abs=1e-12)
    interval = found.interval()
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@few_examples
@given(samples, st.floats(0.5, 0.999))
def test_an_interval_leaves_a_value_out_exactly_if_the_test_of_the_value_rejects(
    values: np.ndarray, confidence: float
) -> None:
    found = paired_estimate(values)
    interval = found.interval(confidence)
    for null in np.linspace(-12.0, 12.0, 7):
        if min(abs(null - interval.low), abs(null - interval.high)) > 1e-9:
            assert (found.p_value(null) < 1.0 - confidence) == (not interval.low <= null <= interval.high)


@few_examples
@given(samples, st.floats(0.1, 20.0))
def test_two_one_sided_tests_reject_exactly_if_the_90_percent_interval_lies_within_the_margin(
    values: np.ndarray, margin: float
) -> None:
    found = paired_estimate(values)
    interval = found.interval(0.9)
    if min(abs(interval.low + margin), abs(interval.high - margin)) > 1e-9:
        assert (found.p_within(margin) < 0.05) == (-margin < interval.low and interval.high < margin)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_bound_nothing_and_prove_nothing(values: list[float]) -> None:
    found = paired_estimate(np.array(values))
    interval = found.interval()
    assert (interval.low, interval.high, interval.n) == (-math.inf, math.inf, len(values))
    assert math.isnan(interval.estimate) == (not values)
    assert found.p_value() == found.p_within(10.0) == 1.0
    assert welch_estimate(np.array(values), np.array([1.0, 2.0])).p_value() == 1.0


def test_values_without_spread_leave_no_doubt() -> None:
    found = paired_estimate(np.array([0.3, 0.3, 0.3]))
    assert found.interval() == Interval(pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3), 3)
    assert (found.p_value(), found.p_above(), found.p_below()) == (0.0, 0.0, 1.0)
    nothing = paired_estimate(np.zeros(3))
    assert (nothing.p_value(), nothing.p_within(0.1)) == (1.0, 0.0)


def test_the_interval_of_a_ratio_never_overflows() -> None:
    found = Estimate(6.9, 900.0, 1.0, 2).interval(0.999).exp()
    assert (found.low, found.high) == (0.0, math.inf) and found.estimate == pytest.approx(math.exp(6.9))


def test_a_level_near_1_has_all_its_digits() -> None:
    """For a level of 1 - 1e-20, 0.5 + level / 2 would be rounded to 1, and the interval infinite."""
    narrow, wide = (Estimate(0.0, 1.0, 9.0, 10).interval(1.0 - level).high for level in (1e-12, 1e-15))
    assert narrow < wide < math.inf
