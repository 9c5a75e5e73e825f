"""Claims about ratios of times to target: pairs, the headline over targets, each target with Holm's correction."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.tables_by_hand import ACCURACY, Epochs, compared, reaching_at, results_table, rising_to, run_of, timed
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.experiments.comparison.statistics.arrivals import arrivals
from hf_critmom.experiments.comparison.statistics.ratios import (
    Pair,
    PairedRatio,
    area_difference,
    decided_everywhere,
    ending_difference,
    pair,
    paired_ratio,
    target_ratios,
)
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.reporting.intervals import Estimate, mean_interval, welch_estimate

few_examples = settings(max_examples=30, deadline=None)
INF = math.inf
LOSS = Metric("loss", greater_is_better=False)
Times = list[float | None]


def runs_of(table: pd.DataFrame, *targets: float, metric: Metric = ACCURACY, **options: Any) -> Pair:
    sides = [arrivals(table, arm, metric, targets or (0.9,)) for arm in ("mine", "theirs")]
    return pair(*sides, **options)


def ratio(mine: Epochs, theirs: Epochs, **options: Any) -> PairedRatio:
    return paired_ratio(runs_of(compared(mine=mine, theirs=theirs)), 0.9, **options)


def headline(mine: Times, theirs: Times, *targets: float, **options: Any) -> Estimate:
    runs = runs_of(timed(mine=mine, theirs=theirs), *targets, **options)
    return runs.at(runs.informative).estimate()


# -------------------------------------------------------------------------------------------------------- to one target


def test_the_paired_ratio_is_the_one_computed_by_hand() -> None:
    """Logs of 2/4, 3/6, 4/4: mean -0.46210, deviation 0.40019; t(0.975, 2) = 4.30265, so half a width is 0.99412."""
    found = ratio([2, 3, 4], [4, 6, 4])
    assert (found.bound, found.ratio.n, found.confidence) == ("exact", 3, 0.95)
    assert found.ratio.estimate == pytest.approx(0.62996, abs=1e-5)
    assert (found.ratio.low, found.ratio.high) == (pytest.approx(0.23312, abs=2e-5), pytest.approx(1.70236, abs=2e-4))


def test_the_interval_is_as_wide_as_the_seeds_differ_and_no_wider_by_the_cadence() -> None:
    """Interpolated times carry no rounding; what the cadence leaves open stands apart, as bounds."""
    found = ratio([3, 3, 3], [6, 6, 6])
    assert (found.ratio.estimate, found.ratio.low, found.ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.outer == pytest.approx((2.0 / 6.0, 3.0 / 5.0))


def test_a_run_that_did_not_arrive_leaves_the_side_open_that_it_could_flatter() -> None:
    slower = ratio([None, None, 6], [2, 2, 3])
    assert (slower.bound, slower.arm_censored, slower.ratio.high) == ("at least", 2, INF)
    assert slower.ratio.estimate == pytest.approx((3.0 * 3.0 * 2.0) ** (1 / 3)) and slower.ratio.low > 0.0
    faster = ratio([2, 2, 3], [None, None, 6])
    assert (faster.bound, faster.baseline_censored, faster.ratio.low) == ("at most", 2, 0.0)
    assert faster.ratio.high < INF


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [([None, 2], [2, None]), ([None, 2], [None, 3]), ([None, None, 2], [None, 2, 3])],
)
def test_nothing_bounds_a_ratio_where_both_sides_are_censored(mine: Epochs, theirs: Epochs) -> None:
    found = ratio(mine, theirs)
    assert (found.bound, found.ratio.high, found.p) == ("unknown", INF, 1.0)
    assert found.ratio.low == 0.0 or found.both_censored == 0


def test_where_nobody_ever_arrives_there_is_no_ratio() -> None:
    found = ratio([None, None], [None, None])
    assert (found.bound, found.both_censored, found.p) == ("unknown", 2, 1.0)
    assert math.isnan(found.ratio.estimate) and (found.ratio.low, found.ratio.high) == (0.0, INF)


def test_one_pair_has_an_estimate_but_no_interval() -> None:
    found = ratio([2], [4])
    assert (found.ratio.estimate, found.ratio.low, found.ratio.high) == (pytest.approx(0.5), 0.0, INF)


def test_a_run_that_diverged_did_not_arrive() -> None:
    runs = [run_of([0.1], arm="mine", seed=0, status="diverged"), run_of(reaching_at(2), arm="theirs", seed=0)]
    found = paired_ratio(runs_of(results_table(runs)), 0.9)
    assert (found.bound, found.ratio.estimate) == ("at least", pytest.approx(3.0))


def test_where_every_run_diverged_at_once_the_ratio_is_1_and_unknown() -> None:
    runs = [run_of([], arm=arm, seed=seed, status="diverged") for arm in ("mine", "theirs") for seed in (0, 1)]
    sides = [arrivals(results_table(runs), arm, ACCURACY, [0.9], "seconds") for arm in ("mine", "theirs")]
    found = paired_ratio(pair(*sides), 0.9)
    assert found.bound == "unknown" and math.isnan(found.ratio.estimate)


def test_a_higher_level_gives_a_wider_interval() -> None:
    narrow, wide = (ratio([2, 3, 4], [4, 6, 4], confidence=level).ratio for level in (0.95, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high and wide.estimate == narrow.estimate


several = st.lists(st.tuples(st.floats(1.1, 5.9), st.floats(1.1, 5.9)), min_size=2, max_size=6)


@few_examples
@given(several)
def test_the_paired_ratio_equals_the_reference_twin(pairs: list[tuple[float, float]]) -> None:
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    found = paired_ratio(runs_of(timed(mine=mine, theirs=theirs)), 0.9)
    expected = mean_interval(np.log(np.array(mine) / np.array(theirs)))
    assert math.log(found.ratio.estimate) == pytest.approx(expected.estimate, abs=1e-9)
    assert (math.log(found.ratio.low), math.log(found.ratio.high)) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )
    assert found.outer[0] - 1e-9 <= found.ratio.estimate <= found.outer[1] + 1e-9


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.3], ids=lambda spread: f"spread-{spread}")
@pytest.mark.parametrize("true_ratio", [1.0, 0.7])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(true_ratio: float, spread: float) -> None:
    """Ten seeds, log-normal times around ten evaluations: between them the curve bends, and interpolation does not.

    The rounding floor that intervals once had was divided by the root of the number of seeds, and with ten covered two
    thirds.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        shared = rng.normal(0.0, 0.3, 10)  # a hard seed is hard for both
        times = [10.0 * by * np.exp(shared + rng.normal(0.0, spread, 10)) for by in (true_ratio, 1.0)]
        seen = []
        for time in times:
            before, after = np.floor(time), np.floor(time) + 1.0
            low, high = (1.0 - np.exp(-2.3 * at / time) for at in (before, after))  # at 0.9 when it arrives
            seen.append(before + (0.9 - low) / (high - low))
        found = mean_interval(np.log(seen[0] / seen[1]))
        covered += found.low <= math.log(true_ratio) <= found.high
    assert covered / 1000 >= 0.93


either = st.lists(st.tuples(st.none() | st.floats(0.6, 5.9), st.none() | st.floats(0.6, 5.9)), min_size=1, max_size=5)


@few_examples
@given(either)
def test_to_swap_the_arms_inverts_the_ratio_and_its_interval(pairs: list[tuple[float | None, float | None]]) -> None:
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    found, swapped = (
        paired_ratio(runs_of(timed(mine=one, theirs=other)), 0.9) for one, other in ((mine, theirs), (theirs, mine))
    )
    assert (found.arm_censored, found.baseline_censored) == (swapped.baseline_censored, swapped.arm_censored)
    assert found.both_censored == swapped.both_censored and found.p == pytest.approx(swapped.p, rel=1e-6, abs=1e-12)
    mirror = {"exact": "exact", "at least": "at most", "at most": "at least", "unknown": "unknown"}
    assert swapped.bound == mirror[found.bound]
    if found.both_censored < len(pairs):
        assert swapped.ratio.estimate == pytest.approx(1.0 / found.ratio.estimate, rel=1e-9)
    with np.errstate(divide="ignore"):
        assert swapped.ratio.low == pytest.approx(1.0 / np.float64(found.ratio.high), rel=1e-9)
        assert swapped.ratio.high == pytest.approx(1.0 / np.float64(found.ratio.low), rel=1e-9)
        assert swapped.outer[0] == pytest.approx(1.0 / np.float64(found.outer[1]), rel=1e-9)


@few_examples
@given(either, st.permutations(range(5)), st.floats(1e-3, 1e3))
def test_neither_the_names_of_seeds_nor_the_unit_of_time_matter(
    pairs: list[tuple[float | None, float | None]], names: list[int], unit: float
) -> None:
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    table = timed(mine=mine, theirs=theirs)
    other = table.assign(seed=table["seed"].map(dict(enumerate(names))), seconds=table["seconds"] * unit)
    found, same = (
        paired_ratio(pair(*(arrivals(rows, arm, ACCURACY, [0.9], "seconds") for arm in ("mine", "theirs"))), 0.9)
        for rows in (table, other)
    )
    np.testing.assert_allclose(
        [same.ratio.estimate, same.ratio.low, same.ratio.high],
        [found.ratio.estimate, found.ratio.low, found.ratio.high],
        rtol=1e-9,
    )
    assert same.bound == found.bound


@few_examples
@given(either)
def test_a_loss_is_compared_as_the_accuracy_that_mirrors_it(pairs: list[tuple[float | None, float | None]]) -> None:
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    table = timed(mine=mine, theirs=theirs)
    table["loss"] = -table["accuracy"].astype(float)
    found, mirrored = (runs_of(table, target, metric=by).estimate() for target, by in ((0.9, ACCURACY), (-0.9, LOSS)))
    np.testing.assert_equal(vars(found), vars(mirrored))


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_only_seeds_that_both_arms_have_are_paired() -> None:
    runs = [run_of(reaching_at(2), arm="mine", seed=seed) for seed in (0, 1, 2)]
    runs += [run_of(reaching_at(4), arm="theirs", seed=seed) for seed in (1, 2, 3)]
    found = runs_of(results_table(runs))
    assert found.paired and found.arm.seeds == found.baseline.seeds == (1, 2)
    apart = paired_ratio(runs_of(results_table(runs[:1] + runs[5:])), 0.9)
    assert (apart.ratio.n, apart.bound) == (0, "unknown") and math.isnan(apart.ratio.estimate)


def test_arms_with_other_seeds_are_compared_by_welch() -> None:
    mine, theirs = [1.5, 2.5, 1.9], [4.5, 5.5, 3.2, 4.1]
    runs = [run_of(rising_to(epoch), arm="mine", seed=seed) for seed, epoch in enumerate(mine)]
    runs += [run_of(rising_to(epoch), arm="theirs", seed=10 + seed) for seed, epoch in enumerate(theirs)]
    found = runs_of(results_table(runs))
    assert not found.paired and found.n == 3
    expected = welch_estimate(np.log(mine), np.log(theirs))
    assert vars(found.estimate()) == pytest.approx(vars(expected))


def test_seeds_that_do_not_mean_the_same_start_are_not_paired() -> None:
    found = headline([1.5, 2.5], [3.0, 5.0], paired=False)
    assert not found.paired and found.value == pytest.approx(math.log(0.5))
    assert found.standard_error > headline([1.5, 2.5], [3.0, 5.0]).standard_error


# --------------------------------------------------------------------------------------------------------- the headline


def test_the_headline_is_the_mean_over_targets_of_the_log_ratios() -> None:
    """Straight curves: the ratio is the same at every target, and so is its mean."""
    found = headline([2.0, 3.0, 4.0], [4.0, 6.0, 4.0], 0.5, 0.7, 0.9)
    assert found.n == 3 and math.exp(found.value) == pytest.approx(0.62996, abs=1e-5)
    assert found.standard_error * math.sqrt(3) == pytest.approx(0.40019, abs=1e-4)


@few_examples
@given(either)
def test_the_headline_equals_the_reference_twin(pairs: list[tuple[float | None, float | None]]) -> None:
    """Seed by seed in plain Python; a straight curve arrives at target * epochs / 0.9, or counts with 6 epochs."""
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    targets = (0.45, 0.9)

    def arrived(epoch: float | None, target: float) -> bool:
        return epoch is not None

    def time(epoch: float | None, target: float) -> float:
        if epoch is None:
            return 6.0
        return max(target / 0.9 * epoch, 1.0)  # one that is there at its first evaluation counts with it

    used = [
        target
        for target in targets
        if any(arrived(one, target) for one in (*mine, *theirs))
        and not all(one is not None and target / 0.9 * one <= 1.0 for one in (*mine, *theirs))
    ]
    found = headline(mine, theirs, *targets)
    if not used:
        assert math.isnan(found.value)
        return
    logs = [
        float(np.mean([math.log(time(one, target) / time(other, target)) for target in used])) for one, other in pairs
    ]
    assert found.value == pytest.approx(float(np.mean(logs)), abs=1e-9)
    if len(logs) > 1:
        assert found.standard_error == pytest.approx(float(np.std(logs, ddof=1)) / math.sqrt(len(logs)), abs=1e-9)


def test_targets_that_tell_nothing_are_left_out() -> None:
    """No run of either arm gets to 2.0, and every one is at 0.1 when it is first evaluated."""
    runs = runs_of(timed(mine=[2.0, 3.0], theirs=[4.0, 5.0]), 0.1, 0.9, 3.0)
    assert runs.informative == (0.9,)
    assert runs_of(timed(mine=[None, None], theirs=[None, 5.0]), 0.9).informative == (0.9,)
    assert runs_of(timed(mine=[None, None], theirs=[None, None]), 0.9).informative == ()


def test_a_run_that_did_not_arrive_counts_with_the_end_of_the_budget() -> None:
    found = headline([None, 3.0], [2.0, 3.0])
    assert math.exp(2.0 * found.value) == pytest.approx(6.0 / 2.0)
    runs = runs_of(timed(mine=[None, 3.0], theirs=[2.0, None]), 0.9)
    assert runs.missed() == (1, 1, 0)
    assert runs_of(timed(mine=[None, None], theirs=[2.0, None])).missed() == (1, 0, 1)


# ------------------------------------------------------------------------------------------------ Holm over the targets


def holm_twin(p: list[float], level: float) -> list[bool]:
    order = sorted(range(len(p)), key=lambda place: p[place])
    found = [False] * len(p)
    for step, place in enumerate(order):
        if p[place] > level / (len(p) - step):
            break
        found[place] = True
    return found


curves = st.lists(st.lists(st.floats(0.05, 0.3), min_size=6, max_size=6), min_size=4, max_size=6)


@few_examples
@given(curves)
def test_targets_are_decided_by_holms_correction_and_their_intervals_say_the_same(steps: list[list[float]]) -> None:
    """Rising curves at random; half of the runs are the arm's."""
    runs = [
        run_of(list(np.cumsum(step)), arm=("mine", "theirs")[place % 2], seed=place // 2)
        for place, step in enumerate(steps)
    ]
    targets = (0.35, 0.5, 0.65, 0.8)
    pairs = runs_of(results_table(runs), *targets)
    found = target_ratios(pairs, targets)
    assert [one.target for one in found] == list(targets)
    assert [one.decided for one in found] == holm_twin([paired_ratio(pairs, target).p for target in targets], 0.05)
    for one in found:
        assert one.decided == (one.ratio.low > 1.0 or one.ratio.high < 1.0)
        assert 0.95 - 1e-12 <= one.confidence <= 1.0 - 0.05 / 4 + 1e-12


def test_exploratory_targets_are_corrected_for_by_nothing_and_correct_nothing() -> None:
    table = timed(mine=[2.0, 3.1, 4.2], theirs=[4.0, 6.0, 4.4])
    pairs = runs_of(table, 0.9, 0.5)
    alone, with_more = target_ratios(pairs, [0.9]), target_ratios(pairs, [0.9], exploratory=[0.5])
    assert with_more[0] == alone[0]
    assert with_more[1].exploratory and not with_more[1].decided and with_more[1].confidence == 0.95


def test_at_every_target_means_at_every_one_that_tells_the_arms_apart() -> None:
    faster = timed(mine=[2.0, 2.1, 2.2], theirs=[4.0, 4.3, 4.5])
    assert decided_everywhere(runs_of(faster, 0.5, 0.9)) == -1
    assert decided_everywhere(runs_of(faster, 0.5, 0.9, 5.0)) == -1
    swapped = timed(mine=[4.0, 4.3, 4.5], theirs=[2.0, 2.1, 2.2])
    assert decided_everywhere(runs_of(swapped, 0.5, 0.9)) == 1
    assert decided_everywhere(runs_of(timed(mine=[None] * 3, theirs=[None] * 3))) == 0
    runs = [run_of([0.2, 0.5, 0.55, 0.6, 0.7, 0.9 + seed / 100], arm="mine", seed=seed) for seed in range(3)]
    runs += [run_of([0.1, 0.2, 0.3, 0.52 + seed / 100, 0.9, 0.95], arm="theirs", seed=seed) for seed in range(3)]
    assert decided_everywhere(runs_of(results_table(runs), 0.5, 0.9)) == 0  # first at one, last at the other


# -------------------------------------------------------------------------------------------- area, ending, differences


def test_the_area_is_the_mean_difference_of_the_curves() -> None:
    """Curves 0.1 apart, and one seed 0.3 apart, from the first evaluation to the last."""
    runs = [run_of([0.2, 0.4, 0.6], arm="theirs", seed=seed) for seed in (0, 1)]
    runs += [run_of([0.3, 0.5, 0.7], arm="mine", seed=0), run_of([0.5, 0.7, 0.9], arm="mine", seed=1)]
    table = results_table(runs)
    found = area_difference(table, runs_of(table), ACCURACY)
    assert (found.n, found.value) == (2, pytest.approx(0.2))
    backwards = area_difference(
        table, pair(*(arrivals(table, arm, ACCURACY, [0.9]) for arm in ("theirs", "mine"))), ACCURACY
    )
    assert backwards.value == pytest.approx(-0.2) and backwards.standard_error == pytest.approx(found.standard_error)


def test_areas_lie_over_the_steps_that_both_runs_have() -> None:
    """One arm is evaluated twice as often: the areas of two straight lines are the same."""
    rare, often = run_of([0.2, 0.4, 0.6], arm="theirs"), run_of([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], arm="mine")
    for record in often["evaluations"]:
        record["step"] //= 2
    table = results_table([rare, often])
    assert area_difference(table, runs_of(table), ACCURACY).value == pytest.approx(0.0, abs=1e-12)


def test_a_run_that_diverged_has_no_area() -> None:
    runs = [run_of([0.2, 0.4], arm=arm, seed=seed) for arm in ("mine", "theirs") for seed in (0, 1)]
    runs[0]["status"] = "diverged"
    table = results_table(runs)
    assert area_difference(table, runs_of(table), ACCURACY).n == 1
    single = results_table([run_of([0.2], arm=arm) for arm in ("mine", "theirs")])
    assert area_difference(single, runs_of(single), ACCURACY).n == 0


def ending(table: pd.DataFrame, one: str, other: str) -> Estimate:
    return ending_difference(table, pair(*(arrivals(table, arm, ACCURACY, [0.9]) for arm in (one, other))), ACCURACY)


def test_the_difference_of_the_tests_is_paired() -> None:
    """Differences 0.02, 0.03, 0.04: mean 0.03, deviation 0.01, half a width 4.30265 x 0.01 / sqrt(3) = 0.024841."""
    tests = {"mine": [0.52, 0.93, 0.74], "theirs": [0.5, 0.9, 0.7]}
    table = results_table(
        [run_of([0.5], arm=arm, seed=seed, test=test) for arm, of in tests.items() for seed, test in enumerate(of)]
    )
    found = ending(table, "mine", "theirs").interval()
    assert found.n == 3 and found.estimate == pytest.approx(0.03)
    assert (found.low, found.high) == (pytest.approx(0.005159, abs=1e-6), pytest.approx(0.054841, abs=1e-6))
    swapped = ending(table, "theirs", "mine").interval()
    assert (swapped.low, swapped.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_a_run_that_diverged_has_no_difference() -> None:
    runs = [run_of([0.5], arm=arm, seed=seed, test=0.5) for arm in ("mine", "theirs") for seed in (0, 1)]
    runs[1]["status"] = "diverged"
    found = ending(results_table(runs), "mine", "theirs").interval()
    assert (found.n, found.estimate, found.low, found.high) == (1, 0.0, -INF, INF)
    runs[0]["status"] = "diverged"
    assert math.isnan(ending(results_table(runs), "mine", "theirs").value)


def test_a_test_value_that_is_not_finite_has_no_difference() -> None:
    runs = [run_of([0.5], arm=arm, seed=seed, test=0.5) for arm in ("mine", "theirs") for seed in (0, 1)]
    runs[1]["test"]["accuracy"] = None
    assert ending(results_table(runs), "mine", "theirs").n == 1


# ------------------------------------------------------------------------------------------------- immediate arrivals


def test_a_target_that_an_arm_had_reached_at_its_first_evaluation_gives_a_bound() -> None:
    """Its true time is earlier by an unknown amount, so that the ratio may be smaller, and is not decided upwards."""
    table = results_table(
        [
            run_of(values, arm=arm, seed=seed)
            for seed in range(4)
            for arm, values in (("mine", [0.9, 0.95, 0.96]), ("theirs", [0.1, 0.5, 0.85 + 0.01 * seed]))
        ]
    )
    (one,) = target_ratios(runs_of(table, 0.8), [0.8])
    assert one.bound == "at most" and one.ratio.low == 0.0 and one.ratio.high < 1.0 and one.decided
    reverse = paired_ratio(pair(*(arrivals(table, arm, ACCURACY, [0.8]) for arm in ("theirs", "mine"))), 0.8)
    assert reverse.bound == "at least" and math.isinf(reverse.ratio.high)
    assert reverse.ratio.estimate == pytest.approx(1.0 / one.ratio.estimate)
