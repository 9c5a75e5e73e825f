"""Claims about a comparison's table of results and the statistics computed from it, on tables made by hand."""

import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.plans_by_hand import plan_of
from helpers.tables_by_hand import ACCURACY, STEPS_PER_EPOCH, Epochs, compared, reaching_at, results_table, run_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.experiments.comparison import ComparisonError
from hf_critmom.experiments.comparison.plan import Run
from hf_critmom.experiments.comparison.rendering.tables import table_rows
from hf_critmom.experiments.comparison.results import read_runs, write_results
from hf_critmom.experiments.comparison.statistics.summaries import (
    Metric,
    Times,
    first_reaching,
    logrank,
    reach_curve,
    summarise,
    time_to_target,
    times,
)

few_examples = settings(max_examples=30, deadline=None)


def table_of(*curves: list[float]) -> pd.DataFrame:
    """The table of one arm, one curve a seed."""
    return results_table([run_of(curve, seed=seed) for seed, curve in enumerate(curves)])


# ----------------------------------------------------------------------------------------------------- first reaching


def first_step(curve: list[float], target: float) -> int | None:
    table = table_of(curve)
    hit = first_reaching(table[table["split"] == "validation"], ACCURACY, target)
    return None if hit is None else int(hit["step"])


def test_the_first_hit_counts_even_if_the_value_falls_again() -> None:
    assert first_step([0.2, 0.85, 0.4, 0.3], 0.8) == 20
    assert first_step([0.2, 0.85, 0.4, 0.95], 0.8) == 20


def test_a_value_equal_to_the_target_reaches_it() -> None:
    assert first_step([0.5, 0.8, 0.9], 0.8) == 20
    assert first_step([0.5, math.nextafter(0.8, 0.0), 0.9], 0.8) == 30


def test_a_target_that_is_never_met_is_not_reached() -> None:
    assert first_step([0.5, 0.7, 0.79], 0.8) is None


def test_values_that_are_not_numbers_reach_nothing() -> None:
    assert first_step([math.nan, 0.9, math.nan], 0.8) == 20
    assert first_step([math.nan, math.nan], 0.0001) is None
    nothing = table_of([0.5, 0.5]).assign(accuracy=None)
    assert first_reaching(nothing[nothing["split"] == "validation"], ACCURACY, 0.0001) is None


def test_the_first_hit_does_not_depend_on_the_order_of_rows() -> None:
    table = table_of([0.2, 0.85, 0.4, 0.95])
    shuffled = table[table["split"] == "validation"].sample(frac=1.0, random_state=1)
    assert first_reaching(shuffled, ACCURACY, 0.8)["step"] == 20


def test_the_test_split_reaches_no_target() -> None:
    table = results_table([run_of([0.1, 0.2], test=0.99)])
    assert time_to_target(table, ACCURACY, 0.9).reached == 0


# ----------------------------------------------------------------------------------------------------- time to target


@pytest.mark.parametrize(
    ("epochs", "median"),
    [
        ([3], 3.0),
        ([None], math.inf),
        ([2, 5, 3], 3.0),
        ([2, None, 3], 3.0),
        ([None, None, 3], math.inf),
        ([None, None, None], math.inf),
        ([2, 5], 3.5),
        ([2, None], math.inf),
        ([2, 3, 5, None], 4.0),
        ([2, 3, None, None], math.inf),
        ([None, None], math.inf),
    ],
)
def test_a_seed_that_never_arrives_took_infinitely_long(epochs: list[int | None], median: float) -> None:
    time = time_to_target(table_of(*map(reaching_at, epochs)), ACCURACY, 0.9)
    assert (time.epochs, time.steps, time.seconds) == (median, STEPS_PER_EPOCH * median, 2.0 * median)
    assert (time.reached, time.seeds) == (sum(epoch is not None for epoch in epochs), len(epochs))


@few_examples
@given(st.lists(st.none() | st.integers(1, 6), min_size=1, max_size=7))
def test_medians_and_ranges_equal_the_reference_twin(epochs: list[int | None]) -> None:
    time = time_to_target(table_of(*map(reaching_at, epochs)), ACCURACY, 0.9)
    plain = [math.inf if epoch is None else float(epoch) for epoch in epochs]
    assert time.epochs == statistics.median(plain)
    assert time.steps_range == (STEPS_PER_EPOCH * min(plain), STEPS_PER_EPOCH * max(plain))
    assert time.seconds_range == (2.0 * min(plain), 2.0 * max(plain))


@few_examples
@given(st.lists(st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_higher_target_is_never_reached_earlier(curves: list[list[float]]) -> None:
    times = [time_to_target(table_of(*curves), ACCURACY, target) for target in (0.25, 0.5, 0.75)]
    for easier, harder in itertools.pairwise(times):
        assert easier.steps <= harder.steps and easier.reached >= harder.reached


def test_a_run_without_any_evaluation_is_a_seed_that_never_arrived() -> None:
    table = results_table([run_of(reaching_at(2), seed=0), run_of([], seed=1, status="diverged")])
    time = time_to_target(table, ACCURACY, 0.9)
    assert (time.reached, time.seeds, time.steps) == (1, 2, math.inf)
    alone = summarise(results_table([run_of([], status="diverged")]), ["constant"], ACCURACY, [0.9])[0]
    assert (alone.diverged, alone.targets[0].reached, alone.targets[0].seeds) == (1, 0, 1)


# ---------------------------------------------------------------------------------------------------------- summaries


@few_examples
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8))
def test_means_and_sample_deviations_equal_numpys(tests: list[float]) -> None:
    runs = [run_of([0.5], seed=seed, test=test) for seed, test in enumerate(tests)]
    summary = summarise(results_table(runs), ["constant"], ACCURACY, [])[0]
    assert summary.test.estimate == pytest.approx(np.mean(tests), abs=1e-12)
    assert summary.test_std == pytest.approx(np.std(tests, ddof=1), abs=1e-12)


def test_a_test_value_that_is_not_finite_is_left_out_of_the_mean_and_of_its_n() -> None:
    runs = [run_of([0.5], seed=seed, test=test) for seed, test in enumerate([0.5, None, 0.7])]
    found = summarise(results_table(runs), ["constant"], ACCURACY, [])[0].test
    assert (found.estimate, found.n) == (pytest.approx(0.6), 2)


def test_one_seed_has_no_spread() -> None:
    summary = summarise(results_table([run_of([0.5], test=0.7)]), ["constant"], ACCURACY, [])[0]
    assert summary.test.estimate == 0.7 and math.isnan(summary.test_std)


def test_diverged_runs_are_counted_among_the_seeds() -> None:
    runs = [run_of([0.5], seed=0), run_of([0.1], seed=1, status="diverged"), run_of([0.1], seed=2, status="diverged")]
    summary = summarise(results_table(runs), ["constant"], ACCURACY, [0.4])[0]
    assert (summary.seeds, summary.diverged, summary.targets[0].reached) == (3, 2, 1)


def test_arms_are_summarised_apart_in_the_order_asked_for() -> None:
    runs = [run_of(reaching_at(2), arm="hybrid", test=0.9), run_of(reaching_at(4), arm="constant", test=0.8)]
    summaries = summarise(results_table(runs), ["constant", "critmom", "hybrid"], ACCURACY, [0.9])
    assert [(summary.arm, summary.test.estimate, summary.targets[0].epochs) for summary in summaries] == [
        ("constant", 0.8, 4.0),
        ("hybrid", 0.9, 2.0),
    ]


def test_every_target_is_timed_in_the_order_asked_for() -> None:
    table = table_of([0.3, 0.6, 0.9])
    summary = summarise(table, ["constant"], ACCURACY, [0.5, 0.9, 0.2])[0]
    assert [(time.target, time.steps) for time in summary.targets] == [(0.5, 20.0), (0.9, 30.0), (0.2, 10.0)]


# ------------------------------------------------------------------------------------------- times, some of them bounds


def as_lists(found: Times) -> tuple[Any, ...]:
    return found.seeds, found.times.tolist(), found.reached.tolist()


def test_a_time_is_that_of_the_first_evaluation_at_the_target() -> None:
    table = compared(constant=[3, 1])
    assert as_lists(times(table, "constant", ACCURACY, 0.9)) == ((0, 1), [30.0, 10.0], [True, True])
    assert as_lists(times(table, "constant", ACCURACY, 0.9, "epoch"))[1:] == ([3.0, 1.0], [True, True])
    assert as_lists(times(table, "constant", ACCURACY, 0.9, "seconds"))[1:] == ([6.0, 2.0], [True, True])


def test_a_run_that_never_arrives_outlasts_its_budget() -> None:
    found = times(compared(constant=[None, 2]), "constant", ACCURACY, 0.9)
    assert (found.times.tolist(), found.reached.tolist()) == ([60.0, 20.0], [False, True])


def test_a_run_that_diverged_outlasts_the_longest_run_of_all_arms() -> None:
    """Its own end would flatter it: censored early, it would count as one that nobody waited for."""
    runs = [
        run_of([0.1, 0.1], arm="exploding", seed=0, status="diverged"),
        run_of([], arm="exploding", seed=1, status="diverged"),
        run_of([0.1, 0.95], arm="exploding", seed=2, status="diverged"),  # it had arrived before
        run_of([0.1] * 6, arm="constant", seed=0),
    ]
    found = times(results_table(runs), "exploding", ACCURACY, 0.9)
    assert (found.times.tolist(), found.reached.tolist()) == ([60.0, 60.0, 20.0], [False, False, True])
    seconds = times(results_table(runs), "exploding", ACCURACY, 0.9, "seconds")
    assert seconds.times.tolist() == [12.0, 12.0, 4.0]


def test_an_arm_without_runs_has_no_times() -> None:
    assert as_lists(times(compared(constant=[2]), "critmom", ACCURACY, 0.9)) == ((), [], [])


@few_examples
@given(st.lists(st.none() | st.integers(1, 6), min_size=1, max_size=6), st.randoms())
def test_times_do_not_depend_on_the_order_of_rows(epochs: Epochs, random: Any) -> None:
    table = compared(constant=epochs)
    order = list(range(len(table)))
    random.shuffle(order)
    mine, theirs = (times(rows, "constant", ACCURACY, 0.9) for rows in (table, table.iloc[order]))
    assert mine.seeds == theirs.seeds
    np.testing.assert_array_equal(mine.times, theirs.times)


# ------------------------------------------------------------------------------------------- metrics that should fall

LOSS = Metric("loss", greater_is_better=False)


def test_a_loss_reaches_its_target_from_above() -> None:
    table = table_of([0.2, 0.85, 0.4, 0.9])  # losses 0.8, 0.15, 0.6, 0.1
    validation = table[table["split"] == "validation"]
    assert first_reaching(validation, LOSS, 0.2)["step"] == 20
    assert first_reaching(validation, LOSS, validation["loss"].min())["step"] == 40
    assert first_reaching(validation, LOSS, 0.05) is None


@few_examples
@given(st.lists(st.none() | st.integers(1, 6), min_size=1, max_size=4))
def test_a_loss_is_timed_as_the_accuracy_that_mirrors_it(epochs: Epochs) -> None:
    table = compared(constant=epochs, critmom=epochs[::-1])
    mine, mirrored = (time_to_target(table[table["arm"] == "critmom"], *by) for by in ((ACCURACY, 0.9), (LOSS, 0.11)))
    assert (mine.steps, mine.steps_range, mine.reached) == (mirrored.steps, mirrored.steps_range, mirrored.reached)


# ----------------------------------------------------------------------------------------------- Kaplan-Meier, log-rank

# Freireich et al. (Blood 21, 1963), weeks of remission under 6-mercaptopurine and placebo; "+" is censored. Its
# Kaplan-Meier estimates and log-rank test stand in Kleinbaum and Klein, Survival Analysis (2012), chapter 2.
MERCAPTOPURINE = "6 6 6 7 10 13 16 22 23 6+ 9+ 10+ 11+ 17+ 19+ 20+ 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"
SURVIVAL = {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}
CHI_SQUARED = 16.79


def observed(words: str) -> Times:
    """Times in words; "+" is censored."""
    found = words.split()
    reached = np.array([not word.endswith("+") for word in found])
    values = np.array([float(word.rstrip("+")) for word in found])
    return Times(tuple(range(len(found))), values, reached)


def share_at(curve: Any, time: float) -> float:
    """The height of a curve's step at a time."""
    return float(curve.share[np.searchsorted(curve.times, time, side="right") - 1])


def test_the_reach_curve_is_the_textbooks() -> None:
    curve = reach_curve(observed(MERCAPTOPURINE))
    assert curve.times[0] == curve.share[0] == 0.0
    for week, survival in SURVIVAL.items():
        assert share_at(curve, week) == pytest.approx(1.0 - survival, abs=5e-5)
    assert share_at(curve, 5.9) == 0.0 and share_at(curve, 100.0) == pytest.approx(1.0 - 0.4482, abs=5e-5)


def test_the_log_rank_test_is_the_textbooks() -> None:
    p = logrank(observed(MERCAPTOPURINE), observed(PLACEBO))
    assert p == pytest.approx(math.erfc(math.sqrt(CHI_SQUARED / 2.0)), rel=5e-3)
    assert p == pytest.approx(4.17e-5, rel=5e-3)


some_times = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=8).map(
    lambda pairs: observed(" ".join(f"{time}{'' if reached else '+'}" for time, reached in pairs))
)


@given(some_times)
def test_the_reach_curve_equals_the_naive_product_limit(found: Times) -> None:
    curve, survival = reach_curve(found), 1.0
    for time in range(1, 8):
        at_risk = int((found.times >= time).sum())
        arrived = int(((found.times == time) & found.reached).sum())
        survival *= 1.0 - arrived / at_risk if at_risk else 1.0
        assert share_at(curve, time) == pytest.approx(1.0 - survival, abs=1e-12)
    assert all(low <= high for low, high in itertools.pairwise(curve.share))


@pytest.mark.filterwarnings("error")
@given(some_times, some_times)
def test_the_log_rank_test_equals_the_naive_one_and_is_always_a_number(first: Times, second: Times) -> None:
    difference = variance = 0.0
    for time in range(1, 7):
        at_risk = [int((one.times >= time).sum()) for one in (first, second)]
        arrived = [int(((one.times == time) & one.reached).sum()) for one in (first, second)]
        left, hits = sum(at_risk), sum(arrived)
        difference += arrived[0] - at_risk[0] * hits / left if left else 0.0
        if left > 1:
            variance += at_risk[0] * at_risk[1] * hits * (left - hits) / (left**2 * (left - 1))
    p = logrank(first, second)
    expected = math.erfc(abs(difference) / math.sqrt(2.0 * variance)) if variance else 1.0
    assert p == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert 0.0 <= p <= 1.0 and p == pytest.approx(logrank(second, first), rel=1e-9)


def test_arms_that_arrive_at_the_same_evaluation_are_not_told_apart() -> None:
    table = compared(constant=[3, 3], critmom=[3, 3])
    assert logrank(*(times(table, arm, ACCURACY, 0.9) for arm in ("constant", "critmom"))) == 1.0


# ------------------------------------------------------------------------------------------------- the shown rows


def cells(*epochs: int | None, targets: tuple[float, ...] = (0.9,)) -> list[str]:
    table = table_of(*map(reaching_at, epochs))
    return table_rows(summarise(table, ["constant"], ACCURACY, list(targets)), "accuracy")[1][0]


def test_a_cell_says_how_many_seeds_arrived_where_not_all_did() -> None:
    assert cells(None, None)[1] == "not reached"
    assert cells(2, None)[1] == "reached by 1 of 2"
    assert cells(2, 3, None)[1] == "30\n6.0 s\nreached by 2 of 3"
    assert cells(2)[1] == "20\n4.0 s"
    assert cells(2, 5)[1] == "35 (20-50)\n7.0 (4.0-10.0) s"


def test_no_cell_ever_shows_an_infinity_or_a_nan() -> None:
    for epochs in ([None], [2, None], [2, None, None], [1, 2, None], [3]):
        assert not any(word in cell for cell in cells(*epochs) for word in ("inf", "nan"))


def test_the_header_names_every_target_and_the_metric() -> None:
    table = table_of([0.3, 0.6])
    header, rows = table_rows(summarise(table, ["constant"], ACCURACY, [0.25, 0.5]), "accuracy")
    assert header == ["arm", "steps, seconds to 0.25", "steps, seconds to 0.5", "test accuracy", "seeds"]
    assert rows[0][0] == "constant" and all(len(row) == len(header) for row in rows)


def test_the_last_column_counts_what_diverged() -> None:
    runs = [run_of([0.5], seed=0), run_of([0.1], seed=1, status="diverged")]
    _, rows = table_rows(summarise(results_table(runs), ["constant"], ACCURACY, [0.4]), "accuracy")
    assert rows[0][-1] == "2, 1 diverged"


# ---------------------------------------------------------------------------------------------------- table of results


def test_the_table_has_a_row_per_evaluation_and_one_for_the_test() -> None:
    runs = [run_of([0.1, 0.2, 0.3], seed=seed, arm=arm) for arm in ("constant", "critmom") for seed in (0, 1)]
    table = results_table(runs)
    assert len(table) == 4 * (3 + 1)
    assert (table.groupby(["arm", "seed", "split"]).size().unstack() == [1, 3]).all(axis=None)
    assert list(table.columns) == [
        *("arm", "seed", "status", "budget", "split", "step", "epoch", "seconds", "loss", "accuracy"),
        *("learning_rate", "momentum", "damping_ratio", "peak_learning_rate", "weight_decay"),
    ]


def test_rows_hold_what_the_runs_recorded() -> None:
    run = run_of([0.1, 0.2], test=0.7)
    table = results_table([run])
    validation = table[table["split"] == "validation"]
    for row, evaluation in zip(validation.to_dict("records"), run["evaluations"], strict=True):
        assert {name: row[name] for name in evaluation} == evaluation
    last = table.iloc[-1]
    assert (last["split"], last["step"], last["epoch"], last["seconds"]) == ("test", 20, 2.0, 4.0)
    assert (last["accuracy"], last["loss"]) == (0.7, 0.7)


def write_run(folder: Path, run: dict[str, Any]) -> Path:
    file = folder / Run(run["arm"], run["seed"]).folder / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"training_log": [], **run}))
    return file


def test_finished_runs_are_read_in_the_plans_order_and_others_left_out(tmp_path: Path) -> None:
    for arm, seed in (("critmom", 1), ("constant", 0), ("critmom", 0)):
        write_run(tmp_path, run_of([0.5], arm=arm, seed=seed))
    write_run(tmp_path, run_of([0.5], arm="constant", seed=7))  # not in the plan
    runs = read_runs(tmp_path, plan := plan_of(["critmom", "constant"], [0, 1]), plan.runs())
    assert [(run.arm, run.seed) for run in runs] == [("critmom", 0), ("constant", 0), ("critmom", 1)]
    assert all((run.arm, run.seed) == (result.arm, result.seed) for run, result in runs.items())


def test_the_parquet_file_is_the_table(tmp_path: Path) -> None:
    diverged = run_of([0.1], seed=1, status="diverged")
    diverged["evaluations"][0]["loss"] = None  # as JSON holds what is not finite
    diverged["test"]["loss"] = None
    for run in (run_of([0.5, 0.6], seed=0), diverged):
        write_run(tmp_path, run)
    table = write_results(tmp_path, plan_of(["constant"], [0, 1]))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), table)
    assert table["loss"].isna().sum() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.parquet", "runs"]


@pytest.mark.parametrize("content", ["", '{"arm": "constant", "se', "\x00\x00\x00", "[]", "null"])
def test_a_corrupt_result_is_named(tmp_path: Path, content: str) -> None:
    file = write_run(tmp_path, run_of([0.5]))
    file.write_text(content)
    with pytest.raises(ComparisonError, match="corrupt") as caught:
        read_runs(tmp_path, plan := plan_of(["constant"], [0]), plan.runs())
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "title", "slug"),
    [
        ("accuracy", "accuracy", "accuracy"),
        ("bits_per_byte", "bits per byte", "bits_per_byte"),
        ("rewards/accuracies", "rewards/accuracies", "rewards-accuracies"),
        ("sts-dev_pearson_cosine", "sts-dev pearson cosine", "sts-dev_pearson_cosine"),
        ("$x_{<b>|", "x b", "x_-b"),
        ("speed", "speed", "metric-speed"),
        ("../../x", "../../x", "x"),
        ("\u202e$", "metric", "metric"),
    ],
)
def test_a_metric_that_a_script_has_named_is_harmless_in_text_and_names_of_files(
    name: str, title: str, slug: str
) -> None:
    assert (Metric(name).title, Metric(name).slug) == (title, slug)
