"""Claims about when runs arrive at a target: between two evaluations, within the budget, on smoothed curves."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.tables_by_hand import ACCURACY, results_table, rising_to, run_of, timed
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.experiments.comparison.statistics.arrivals import Arrivals, arrivals, repeated_seeds, smooths
from hf_critmom.experiments.comparison.statistics.summaries import Metric

few_examples = settings(max_examples=50, deadline=None)
LOSS = Metric("loss", greater_is_better=False)
INF = math.inf


def of(*curves: list[float], target: float = 0.8, **options: Any) -> Arrivals:
    """Arrivals of one arm at one target, one curve a seed."""
    table = results_table([run_of(curve, seed=seed) for seed, curve in enumerate(curves)])
    return arrivals(table, "constant", ACCURACY, [target], **options)


def only(found: Arrivals) -> tuple[float, float, float, bool, bool]:
    parts = (found.times, found.earliest, found.latest, found.arrived, found.immediate)
    return tuple(part.item() for part in parts)  # type: ignore[return-value]


# -------------------------------------------------------------------------------------------------------- interpolation


def test_between_two_evaluations_the_curve_is_a_straight_line() -> None:
    """From 0.6 at step 10 to 0.9 at step 20: 0.8 lies at two thirds of the way."""
    assert only(of([0.6, 0.9])) == (pytest.approx(10.0 + 20.0 / 3.0), 10.0, 20.0, True, False)


@pytest.mark.parametrize("epoch", [1.25, 2.0, 3.7, 5.99])
def test_a_straight_curve_arrives_when_it_arrives(epoch: float) -> None:
    assert only(of(rising_to(epoch), target=0.9))[0] == pytest.approx(10.0 * epoch)
    for column, unit in (("seconds", 2.0), ("epoch", 1.0)):
        assert only(of(rising_to(epoch), target=0.9, column=column))[0] == pytest.approx(unit * epoch)


def test_a_value_equal_to_the_target_is_there() -> None:
    assert only(of([0.6, 0.8, 0.9]))[:3] == (20.0, 10.0, 20.0)


def test_the_first_crossing_counts_even_if_the_value_falls_again() -> None:
    assert only(of([0.6, 0.9, 0.3, 0.95]))[0] == pytest.approx(10.0 + 20.0 / 3.0)


def test_evaluations_that_are_not_finite_are_left_out() -> None:
    """Between 0.6 at step 10 and 0.9 at step 30."""
    assert only(of([0.6, math.nan, 0.9, math.inf]))[:3] == (pytest.approx(10.0 + 40.0 / 3.0), 10.0, 30.0)
    assert only(of([math.nan, math.nan]))[3] is False
    nothing = results_table([run_of([0.5, 0.9])]).assign(accuracy=None)
    assert only(arrivals(nothing, "constant", ACCURACY, [0.8]))[3] is False


@few_examples
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=7), st.floats(0.1, 0.9))
def test_interpolated_times_equal_the_reference_twin(curve: list[float], target: float) -> None:
    time, earliest, latest, arrived, immediate = only(of(curve, target=target))
    before: tuple[float, float] | None = None
    expected = (10.0 * len(curve), 10.0 * len(curve), INF, False, False)
    for epoch, value in enumerate(curve, start=1):
        if value >= target:
            if before is None:
                expected = (10.0 * epoch, 0.0, 10.0 * epoch, True, True)
            else:
                at = before[0] + (target - before[1]) / (value - before[1]) * (10.0 * epoch - before[0])
                expected = (at, before[0], 10.0 * epoch, True, False)
            break
        before = (10.0 * epoch, value)
    assert (time, earliest, latest) == pytest.approx(expected[:3]) and (arrived, immediate) == expected[3:]
    assert earliest <= time <= latest and time > 0.0


@few_examples
@given(st.lists(st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5), min_size=1, max_size=4), st.booleans())
def test_a_higher_target_is_never_reached_earlier(curves: list[list[float]], smooth: bool) -> None:
    table = results_table([run_of(curve, seed=seed) for seed, curve in enumerate(curves)])
    found = arrivals(table, "constant", ACCURACY, [0.25, 0.5, 0.75], smooth=smooth)
    assert (np.diff(found.times, axis=1) >= -1e-9).all()
    assert (np.diff(found.arrived.astype(int), axis=1) <= 0).all()


@few_examples
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=7), st.floats(0.1, 0.9), st.booleans())
def test_a_loss_arrives_as_the_accuracy_that_mirrors_it(curve: list[float], target: float, smooth: bool) -> None:
    table = results_table([run_of(curve)])
    table["loss"] = -table["accuracy"].astype(float)
    mine, mirrored = (
        arrivals(table, "constant", metric, [goal], smooth=smooth)
        for metric, goal in ((ACCURACY, target), (LOSS, -target))
    )
    assert only(mine) == only(mirrored)


@few_examples
@given(st.lists(st.none() | st.floats(0.5, 5.9), min_size=1, max_size=5), st.randoms())
def test_neither_the_order_of_rows_nor_the_names_of_seeds_matter(epochs: list[float | None], random: Any) -> None:
    table = timed(constant=epochs)
    order = list(range(len(table)))
    random.shuffle(order)
    other = table.iloc[order].assign(seed=lambda rows: 100 - rows["seed"])
    found, same = (arrivals(rows, "constant", ACCURACY, [0.5, 0.9]) for rows in (table, other))
    np.testing.assert_array_equal(found.times, same.times[::-1])
    assert same.seeds == tuple(sorted(100 - seed for seed in found.seeds))


# ------------------------------------------------------------------------------------------------ first and no arrivals


def test_a_run_that_does_not_arrive_counts_with_the_end_of_its_budget() -> None:
    assert only(of([0.1, 0.2, 0.3])) == (30.0, 30.0, INF, False, False)


def test_a_run_that_diverged_counts_with_the_longest_run_of_any_arm() -> None:
    runs = [
        run_of([0.1, 0.1], arm="exploding", seed=0, status="diverged"),
        run_of([], arm="exploding", seed=1, status="diverged"),
        run_of([0.1, 0.9], arm="exploding", seed=2, status="diverged"),  # it had arrived before
        run_of([0.1] * 6, arm="constant", seed=0),
    ]
    found = arrivals(results_table(runs), "exploding", ACCURACY, [0.9])
    assert found.times.ravel().tolist() == [60.0, 60.0, 20.0]
    assert found.arrived.ravel().tolist() == [False, False, True]


def test_a_run_that_was_there_when_it_was_first_evaluated_counts_with_that_evaluation() -> None:
    assert only(of([0.9, 0.95])) == (10.0, 0.0, 10.0, True, True)


def test_an_untrained_network_that_is_there_has_a_time_all_the_same() -> None:
    """`--eval_on_start`: an evaluation at step 0."""
    table = results_table([run_of([0.9, 0.95])])
    table.loc[table["step"] == 10, "step"] = 0
    assert only(arrivals(table, "constant", ACCURACY, [0.8]))[0] == 20.0
    table = results_table([run_of([0.2, 0.9])])
    table.loc[table["step"] == 10, "step"] = 0
    assert only(arrivals(table, "constant", ACCURACY, [0.9]))[:3] == (20.0, 0.0, 20.0)


def test_an_arm_without_runs_has_no_arrivals() -> None:
    found = arrivals(timed(constant=[2.0]), "critmom", ACCURACY, [0.5, 0.9])
    assert found.seeds == () and found.times.shape == (0, 2)


# ------------------------------------------------------------------------------------------------------------ smoothing


def monotone_twin(values: list[float]) -> list[float]:
    """Isotonic regression by its min-max formula, Robertson, Wright and Dykstra (1988), theorem 1.4.4."""
    n = len(values)
    return [
        max(min(float(np.mean(values[low : high + 1])) for high in range(at, n)) for low in range(at + 1))
        for at in range(n)
    ]


@few_examples
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=7), st.floats(0.1, 0.9))
def test_smoothed_times_are_those_of_the_isotonic_regression(curve: list[float], target: float) -> None:
    threes = [sum(curve[at : at + 3]) for at in range(len(curve) - 2)]
    if len(threes) > 1 and sorted(threes)[-1] - sorted(threes)[-2] < 1e-9:
        return  # a tie that rounding decides
    rise = curve[: threes.index(max(threes)) + 3] if threes else curve
    smoothed = monotone_twin(rise)
    smoothed += smoothed[-1:] * (len(curve) - len(rise))
    if any(abs(value - target) < 1e-9 for value in (*smoothed, *curve)):
        return  # a tie that rounding decides
    found, plain = only(of(curve, target=target, smooth=True)), only(of(smoothed, target=target))
    assert found[3] == plain[3]
    assert found[0] == pytest.approx(plain[0])
    if plain[3]:
        assert found[1:3] == pytest.approx(plain[1:3]) and found[4] == plain[4]


def test_a_lucky_evaluation_is_no_arrival_of_a_smoothed_curve() -> None:
    curve = [0.5, 0.6, 0.85, 0.6, 0.7, 0.75, 0.82, 0.9]
    assert only(of(curve))[0] < 30.0
    assert 60.0 < only(of(curve, smooth=True))[0] < 70.0


def test_a_curve_that_was_there_once_but_not_on_the_whole_has_not_arrived() -> None:
    """A noise spike is no arrival, so that the run's time is a bound, and no evidence of equality."""
    assert only(of([0.5, 0.85, 0.5, 0.5], smooth=True)) == (40.0, 10.0, INF, False, False)


def test_overfitting_does_not_take_back_what_was_reached() -> None:
    """As a validation loss that rises for most of a fine-tuning: later evaluations say nothing about the rise."""
    rising, falling = [0.2, 0.45, 0.7, 0.9, 0.9, 0.9], [0.8 - 0.03 * at for at in range(20)]
    found = only(of([*rising, *falling], target=0.85, smooth=True))
    assert found == pytest.approx(only(of([*rising], target=0.85)))
    assert found[3]


def test_a_run_that_ended_early_without_the_target_is_not_fast() -> None:
    """Its own budget was cut, as by early stopping: it counts with the end of the longest run."""
    table = results_table([run_of([0.1, 0.3], arm="early"), run_of([0.1, 0.3, 0.6, 0.9])])
    assert only(arrivals(table, "early", ACCURACY, [0.8]))[:4] == (40.0, 20.0, INF, False)
    assert only(arrivals(table, "early", ACCURACY, [0.2]))[0] == 15.0


@few_examples
@given(st.floats(0.5, 5.9))
def test_a_curve_that_only_rises_is_not_changed(epoch: float) -> None:
    assert only(of(rising_to(epoch), target=0.9, smooth=True)) == only(of(rising_to(epoch), target=0.9))


def dense(per_epoch: int, epochs: int) -> pd.DataFrame:
    table = results_table([run_of([0.1 * at for at in range(per_epoch * epochs)], seed=seed) for seed in (0, 1)])
    return table.assign(epoch=table["epoch"] / per_epoch)


@pytest.mark.parametrize(
    ("per_epoch", "epochs", "smoothed"), [(1, 15, False), (3, 4, False), (4, 2, True), (5, 3, True), (20, 1, False)]
)
def test_curves_are_smoothed_from_four_evaluations_an_epoch(per_epoch: int, epochs: int, smoothed: bool) -> None:
    assert smooths(dense(per_epoch, epochs)) == smoothed


def test_where_epochs_are_unknown_nothing_is_smoothed() -> None:
    assert not smooths(dense(4, 3).assign(epoch=None))
    assert not smooths(results_table([run_of([], status="diverged")]))


# -------------------------------------------------------------------------------------------------------- repeated runs


def test_seeds_with_the_very_same_curve_are_found() -> None:
    runs = [run_of([0.1, 0.2, 0.3], arm=arm, seed=seed) for arm in ("constant", "critmom") for seed in (0, 1, 2)]
    table = results_table(runs)
    assert repeated_seeds(table, ACCURACY) == {}  # their losses differ in the last digits
    table.loc[table["seed"] == 2, "loss"] = table.loc[table["seed"] == 1, "loss"].to_numpy()
    assert repeated_seeds(table, ACCURACY) == {"constant": (1, 2), "critmom": (1, 2)}
    assert repeated_seeds(table.assign(status="diverged"), ACCURACY) == {}


def test_selections_keep_rows_and_columns_together() -> None:
    table = timed(constant=[1.5, 2.5, 3.5])
    found = arrivals(table, "constant", ACCURACY, [0.3, 0.6, 0.9])
    part = found.of([2, 0, 9]).at([0.9, 0.3])
    assert part.seeds == (0, 2) and part.targets == (0.9, 0.3)
    for (row, seed), (column, target) in itertools.product(enumerate(part.seeds), enumerate(part.targets)):
        assert part.times[row, column] == found.times[seed, found.targets.index(target)]
