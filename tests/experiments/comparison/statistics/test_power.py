"""Claims about how many seeds would probably decide a claim."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_critmom.experiments.comparison.statistics.power import (
    MAX_SEEDS,
    POWER,
    power_of_difference,
    power_of_equivalence,
    seeds_needed,
)
from hf_critmom.experiments.comparison.statistics.sequential import ALPHA, Looks, spent
from hf_critmom.reporting.intervals import Estimate, paired_estimate

MARGIN = math.log(1.1)


def needed(value: float, spread: float, looks: Looks, n: int = 3) -> int | None:
    estimate = Estimate(value, spread / math.sqrt(n), n - 1.0, n)
    return seeds_needed(estimate, looks, MARGIN, ALPHA, 2.0 * ALPHA)


@pytest.mark.parametrize(("true", "spread", "seeds"), [(0.1, 0.1, 5), (0.05, 0.03, 4), (0.3, 0.2, 8)])
def test_powers_are_what_simulation_finds(true: float, spread: float, seeds: int) -> None:
    draws = np.random.default_rng(0).normal(true, spread, size=(20_000, seeds))
    error = stats.sem(draws, axis=1)
    t = draws.mean(axis=1) / error
    level = 0.04
    found = (2.0 * stats.t.sf(np.abs(t), seeds - 1) <= level).mean()
    args = (true, spread / math.sqrt(seeds), seeds - 1.0, level)
    assert power_of_difference(*args) == pytest.approx(found, abs=0.015)
    sides = [stats.t.sf((MARGIN + sign * draws.mean(axis=1)) / error, seeds - 1) for sign in (-1.0, 1.0)]
    within = (2.0 * np.maximum(*sides) <= level).mean()
    assert within - 0.12 <= power_of_equivalence(*args, MARGIN) <= within + 0.015


def test_a_large_difference_needs_few_seeds_and_a_small_one_many() -> None:
    looks = Looks.fixed(3)
    counts = [needed(value, 0.1, looks) for value in (1.0, 0.4, 0.2)]
    assert all(count is not None for count in counts) and counts == sorted(counts)
    assert counts[0] == 5 and 8 < (counts[-1] or 0) < 60


def test_no_difference_needs_few_seeds_where_the_spread_is_small() -> None:
    small, large = (needed(0.0, spread, Looks.fixed(3)) or 0 for spread in (0.02, 0.06))
    assert 3 < small < large


def test_a_difference_at_the_margin_is_neither_and_one_that_is_too_small_is_given_up() -> None:
    assert needed(1e-4, 2.0, Looks.fixed(3)) is None


def test_no_difference_is_foretold_only_where_it_can_be_shown_at_all_targets() -> None:
    small, wide = (Estimate(0.0, spread / math.sqrt(3), 2.0, 3) for spread in (0.02, 0.06))
    counts = [
        seeds_needed(small, Looks.fixed(3), MARGIN, ALPHA, 2.0 * ALPHA, within)
        for within in (None, [small], [small, wide], [wide], [])
    ]
    assert counts[0] == counts[1] and counts[2] == counts[3] and counts[4] is None
    assert (counts[1] or 0) < (counts[2] or 0)


@pytest.mark.parametrize("values", [[], [0.1]])
def test_without_a_spread_nothing_is_foretold(values: list[float]) -> None:
    assert seeds_needed(paired_estimate(np.array(values)), Looks.fixed(1), MARGIN, ALPHA, 2 * ALPHA) is None


@settings(max_examples=40, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(0.01, 0.5), st.integers(3, 6), st.integers(0, 6))
def test_the_number_is_the_least_that_has_the_power(value: float, spread: float, first: int, more: int) -> None:
    """Found by bisection; here by trying every one."""
    looks = Looks(first, first + more, (first,))
    found = needed(value, spread, looks, first)

    def power(seeds: int) -> float:
        error = spread / math.sqrt(seeds)
        levels = [spent(seeds, looks.last, total) - spent(first, looks.last, total) for total in (ALPHA, 2 * ALPHA)]
        return max(
            power_of_difference(value, error, seeds - 1.0, levels[0]),
            power_of_equivalence(value, error, seeds - 1.0, levels[1], MARGIN),
        )

    expected = next((seeds for seeds in range(first + 1, MAX_SEEDS + 1) if power(seeds) >= POWER), None)
    assert found == expected


def test_a_comparison_that_was_meant_to_grow_needs_fewer_seeds_than_one_extended_by_hand() -> None:
    growing, by_hand = (needed(0.12, 0.12, looks, 5) or 0 for looks in (Looks(5, 20, (5,)), Looks.fixed(5)))
    assert 5 < growing < by_hand
