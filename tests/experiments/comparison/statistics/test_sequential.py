"""Claims about looks: what may be spent, what level a look has, and what is decided with several claims."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_critmom.experiments.comparison.statistics.sequential import (
    ALPHA,
    RESERVE,
    Looks,
    decide,
    interval_level,
    nominal_levels,
    spent,
)

few_examples = settings(max_examples=30, deadline=None)


def p_values(seeds: int, looks: range, comparisons: int, shift: float = 0.0) -> np.ndarray:
    """Two-sided p-values of paired t tests at each look, of shape (looks, comparisons)."""
    differences = np.random.default_rng(0).normal(shift, 1.0, size=(comparisons, seeds))
    rows = []
    for made in looks:
        part = differences[:, :made]
        rows.append(2.0 * stats.t.sf(np.abs(part.mean(axis=1)) / stats.sem(part, axis=1), made - 1))
    return np.array(rows)


# ------------------------------------------------------------------------------------------------------------- spending


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1e-4, 0.2))
def test_spending_only_rises_and_never_exceeds_alpha(first: int, last: int, alpha: float) -> None:
    amounts = [spent(seeds, last, alpha) for seeds in range(first, first + 60)]
    assert all(low <= high for low, high in itertools.pairwise(amounts))
    assert amounts[0] >= 0.0 and amounts[-1] <= alpha
    assert spent(last, last, alpha) == pytest.approx((1.0 - RESERVE) * alpha)
    assert spent(10**9, last, alpha) == pytest.approx(alpha)


def test_spending_is_lan_and_demets_form_of_obrien_and_fleming() -> None:
    """At half of the seeds 2 - 2 Phi(z / sqrt(1/2)), with z the two-sided quantile of what is planned."""
    quantile = stats.norm.isf((1.0 - RESERVE) * ALPHA / 2.0)
    assert spent(5, 10) == pytest.approx(2.0 * stats.norm.sf(quantile * math.sqrt(2.0)))
    assert spent(5, 10) < 0.006 < 0.03 < spent(9, 10)


@pytest.mark.parametrize("arguments", [(0, 3, ()), (4, 3, ()), (3, 5, (5, 4)), (3, 5, (4, 4))])
def test_looks_have_an_order(arguments: tuple[int, int, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError):
        Looks(*arguments)


# --------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_fixed_comparison_has_one_look_at_all_but_the_reserve(seeds: int) -> None:
    assert nominal_levels((seeds,), seeds) == pytest.approx(((1.0 - RESERVE) * ALPHA,))
    assert interval_level(Looks.fixed(seeds), 0.95) == 0.95


def test_an_unfinished_comparison_decides_nothing_and_spends_nothing() -> None:
    early = Looks(5, 10, (2, 4))
    assert early.counted == () and interval_level(early, 0.95) == 0.95
    assert Looks(5, 10, (2, 4, 5)).counted == (5,)
    assert nominal_levels((1, 2), 2)[0] == 0.0 < nominal_levels((1, 2), 2)[1]


@pytest.mark.parametrize(("first", "last", "end"), [(3, 10, 10), (5, 10, 10), (3, 3, 8), (2, 4, 4), (5, 10, 14)])
def test_growing_keeps_the_error_of_paired_t_tests(first: int, last: int, end: int) -> None:
    """60,000 comparisons without a difference: a standard error of 0.09 % around what is spent."""
    looks = range(first, end + 1)
    levels = np.array(nominal_levels(tuple(looks), last))
    wrong = (p_values(end, looks, 60_000) <= levels[:, None]).any(axis=0).mean()
    assert wrong == pytest.approx(spent(end, last), abs=0.003)


@pytest.mark.parametrize(("first", "last", "claims"), [(1, 40, 1), (2, 40, 1), (2, 15, 16), (3, 1000, 8)])
def test_what_is_less_than_rounding_decides_nothing(first: int, last: int, claims: int) -> None:
    """With few seeds of many, the function spends less than the probabilities are known to."""
    levels = nominal_levels(tuple(range(first, first + 6)), last, ALPHA / claims)
    assert all(0.0 <= level < 1e-3 for level in levels)


def test_looks_that_are_left_out_leave_more_to_the_next() -> None:
    levels = nominal_levels((5, 8, 10), 10)
    assert levels[2] > nominal_levels((5, 6, 7, 8, 9, 10), 10)[5]
    looks = (5, 8, 10)
    rows = np.array([p_values(10, range(made, made + 1), 60_000)[0] for made in looks])
    wrong = (rows <= np.array(levels)[:, None]).any(axis=0).mean()
    assert wrong == pytest.approx(spent(10, 10), abs=0.003)


def test_to_look_again_and_again_at_the_plain_level_goes_wrong() -> None:
    """Why all this: with the same data, 5 % at each look is wrong three times as often."""
    assert (p_values(10, range(3, 11), 20_000) <= 0.05).any(axis=0).mean() > 0.14


@few_examples
@given(st.integers(2, 5), st.integers(0, 4), st.floats(0.001, 0.05))
def test_a_larger_share_gives_a_larger_level_at_every_look(first: int, more: int, alpha: float) -> None:
    """What Maurer and Bretz's procedure asks of a spending function (their condition 7)."""
    made, last = tuple(range(first, first + more + 1)), first + more
    narrow, wide = nominal_levels(made, last, alpha), nominal_levels(made, last, 2.0 * alpha)
    assert all(low < high for low, high in zip(narrow, wide, strict=True))


def test_intervals_of_a_growing_comparison_are_wider_the_earlier_the_look() -> None:
    levels = [interval_level(Looks(5, 10, tuple(range(5, now + 1))), 0.95) for now in range(5, 11)]
    assert levels == sorted(levels, reverse=True) and levels[0] > 0.99 and 0.95 < levels[-1] < 0.98


def test_seeds_added_by_hand_are_spent_for_from_the_reserve() -> None:
    after = Looks(5, 5, (5, 8))
    assert 0.0 < nominal_levels((5, 8), 5)[1] < 0.01 < nominal_levels((5,), 5)[0]
    assert interval_level(after, 0.95) > 0.99 and not after.plain


# ------------------------------------------------------------------------------------------------------- several claims


def holm_twin(p: list[float], weights: list[float], alpha: float) -> list[bool]:
    """Holm's weighted procedure as he wrote it: by rising p / weight, against alpha over the weights that are left."""
    order = sorted(range(len(p)), key=lambda claim: p[claim] / weights[claim])
    rejected = [False] * len(p)
    for place, claim in enumerate(order):
        left = sum(weights[other] for other in order[place:])
        if p[claim] > alpha * weights[claim] / left:
            break
        rejected[claim] = True
    return rejected


tiny = st.floats(0.0, 0.1)
some_claims = st.integers(1, 5).flatmap(
    lambda claims: st.tuples(
        st.lists(tiny, min_size=claims, max_size=claims),
        st.lists(st.floats(0.1, 1.0), min_size=claims, max_size=claims),
    )
)


@few_examples
@given(some_claims)
def test_one_look_is_holms_weighted_procedure(claims: tuple[list[float], list[float]]) -> None:
    p, raw = claims
    weights = [weight / sum(raw) for weight in raw]
    decided, _ = decide(np.array([p]), weights, Looks.fixed(5))
    assert (decided == 0).tolist() == holm_twin(p, weights, (1.0 - RESERVE) * ALPHA)


def maurer_bretz_twin(p: np.ndarray, weights: list[float], looks: Looks, alpha: float) -> list[int]:
    """The graphical procedure one rejection at a time, with its weights passed on as the graph says."""
    left = dict(enumerate(weights))
    decided = [-1] * len(weights)
    for look in range(len(looks.counted)):
        while True:
            found = [
                claim
                for claim, weight in left.items()
                if p[look, claim]
                <= nominal_levels(looks.counted[: look + 1], looks.last, round(alpha * weight, 12))[-1]
            ]
            if not found:
                break
            gone = left.pop(found[0])
            decided[found[0]] = look
            # Transitions in proportion to the first weights of those that are left.
            total = sum(weights[claim] for claim in left)
            left = {claim: weight + gone * weights[claim] / total for claim, weight in left.items()}
    return decided


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.floats(0.0, 0.03), min_size=3, max_size=3), min_size=3, max_size=3))
def test_growing_with_several_claims_is_the_graphical_procedure(rows: list[list[float]]) -> None:
    looks, weights = Looks(3, 5, (3, 4, 5)), [0.5, 0.25, 0.25]
    decided, _ = decide(np.array(rows), weights, looks)
    assert decided.tolist() == maurer_bretz_twin(np.array(rows), weights, looks, ALPHA)


def test_what_is_decided_stays_decided_and_leaves_its_share_to_the_others() -> None:
    """0.03 is too much for half of 5 %, and little enough once the other claim is decided."""
    decided, allowed = decide(np.array([[0.03, 0.001]]), [0.5, 0.5], Looks.fixed(5))
    assert decided.tolist() == [0, 0]
    decided, allowed = decide(np.array([[0.03, 0.04]]), [0.5, 0.5], Looks.fixed(5))
    assert decided.tolist() == [-1, -1] and allowed.tolist() == [ALPHA / 2.0, ALPHA / 2.0]
    decided, allowed = decide(np.array([[1e-9, 1.0], [1.0, 1.0]]), [0.5, 0.5], Looks(3, 4, (3, 4)))
    assert decided.tolist() == [0, -1] and allowed[1] == pytest.approx(ALPHA)


def test_many_comparisons_at_once_are_the_same_as_one_by_one() -> None:
    p = np.random.default_rng(1).uniform(0.0, 0.03, size=(3, 4, 25))
    looks, weights = Looks(3, 5, (3, 4, 5)), [0.25] * 4
    together, allowed = decide(p, weights, looks)
    for index in range(25):
        alone, own = decide(p[:, :, index], weights, looks)
        np.testing.assert_array_equal(together[:, index], alone)
        np.testing.assert_allclose(allowed[:, index], own)


@pytest.mark.parametrize("false", [0, 4])
def test_five_claims_together_are_wrong_in_at_most_5_percent(false: int) -> None:
    """Five arms against one baseline, 5 seeds; `false` of them truly differ, which leaves their share to the others."""
    rng = np.random.default_rng(2)
    comparisons = 20_000
    baseline, arms = rng.normal(size=(comparisons, 1, 5)), rng.normal(size=(comparisons, 5, 5))
    arms[:, :false] += 8.0
    part = arms - baseline
    t = np.abs(part.mean(axis=-1)) / stats.sem(part, axis=-1)
    decided, _ = decide(2.0 * stats.t.sf(t, 4).T[None], [0.2] * 5, Looks.fixed(5))
    assert (decided[false:] >= 0).any(axis=0).mean() < 0.05 + 3.0 * math.sqrt(0.05 * 0.95 / comparisons)
    assert not false or (decided[:false] >= 0).mean() > 0.9
