"""Claims about the verdict, on results of each kind made by hand: it never says more than its intervals."""

import math
import re
from typing import Any

import pandas as pd
import pytest
from helpers.tables_by_hand import ACCURACY, Epochs, compared, reaching_at, results_table, run_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.experiments.comparison import verdict as room
from hf_critmom.experiments.comparison.statistics import Metric
from hf_critmom.experiments.comparison.verdict import (
    CLAIMS,
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    UNTESTED,
    Verdict,
    ending,
    sentence,
)

SAME_RATE, MATCHED, TUNED, FIRST, ADAMW, ADAMW_TUNED = (claim.text for claim in CLAIMS)


def verdict_on(claim: str, table: pd.DataFrame, *targets: float, metric: Metric = ACCURACY) -> Verdict:
    found = [one for one in room.verdicts(table, metric, targets or (0.9,)) if one.claim.text == claim]
    assert len(found) == 1
    return found[0]


def said(claim: str, table: pd.DataFrame, *targets: float) -> str:
    """The sentence about a claim, which holds what every one of them has to."""
    found = verdict_on(claim, table, *targets)
    text = sentence(found)
    assert f"**{found.headline}**" in text and text.endswith(".")
    assert not re.search(r"\b(inf|nan|None)\b", text), text
    return text


def to_two_targets(**arms: list[tuple[int | None, int | None]]) -> pd.DataFrame:
    """The table of arms whose seeds first reach 0.5 and 0.9 in these epochs of six."""
    runs = []
    for arm, of in arms.items():
        for seed, (low, high) in enumerate(of):
            curve = [
                0.9 if high is not None and at >= high else 0.5 if low is not None and at >= low else 0.1
                for at in range(1, 7)
            ]
            runs.append(run_of(curve, arm=arm, seed=seed))
    return results_table(runs)


# ------------------------------------------------------------------------------------------------------------ each kind


def test_how_an_arm_ended_stands_beside_how_fast_it_was() -> None:
    """Paired differences of -0.03, -0.02 and -0.04: their mean, and 4.3027 times 0.01 / sqrt(3) around it."""
    curve = [0.1, 0.9]
    runs = [run_of(curve, arm="critmom", seed=seed, test=test) for seed, test in enumerate([0.50, 0.52, 0.51])]
    runs += [run_of(curve, arm="constant", seed=seed, test=test) for seed, test in enumerate([0.53, 0.54, 0.55])]
    found = verdict_on(SAME_RATE, results_table(runs))
    assert ending(found, ACCURACY) == (
        "Test accuracy minus that of `constant`: -0.0300 (-0.0548 to -0.0052), 95 % interval, 3 seeds."
    )
    assert ending(found, Metric("accuracy", greater_is_better=False)).endswith("3 seeds, less is better.")
    alone = verdict_on(SAME_RATE, results_table([runs[0], runs[3]]))
    assert ending(alone, ACCURACY) == "Test accuracy minus that of `constant`: -0.0300, 1 seed."


def test_of_claims_that_were_not_tested_and_of_those_about_all_arms_no_ending_is_told() -> None:
    table = compared(critmom=[3], hybrid=[3])
    for claim in (SAME_RATE, FIRST):
        assert ending(verdict_on(claim, table), ACCURACY) == ""


def test_a_claim_is_supported_where_the_whole_interval_is_below_1() -> None:
    """Half the steps with every seed: 0.5 times exp(-+ 0.26724), which is what the cadence leaves open."""
    table = compared(critmom=[3, 3, 3], constant=[6, 6, 6])
    found = verdict_on(SAME_RATE, table)
    assert (found.status, found.seeds, found.reason) == (SUPPORTED, 3, "")
    assert said(SAME_RATE, table) == (
        "`critmom` is faster than constant momentum at the same learning rate: **supported**. To 0.9 it took 0.50 "
        "times the steps of `constant` (95 % interval 0.38 to 0.65, 3 seeds, supported)."
    )


def test_a_claim_is_contradicted_where_the_whole_interval_is_above_1() -> None:
    table = compared(critmom=[6, 6, 6], constant=[3, 3, 3])
    assert verdict_on(SAME_RATE, table).status == CONTRADICTED
    assert "2.00 times the steps of `constant` (95 % interval 1.53 to 2.61, 3 seeds, contradicted)" in said(
        SAME_RATE, table
    )


def test_a_claim_is_undecided_where_the_interval_crosses_1() -> None:
    table = compared(critmom=[2, 5, 4], constant=[4, 4, 5])
    found = verdict_on(SAME_RATE, table)
    assert (found.status, found.headline) == (UNDECIDED, "undecided with 3 seeds")
    assert "**undecided with 3 seeds**. To 0.9 it took 0.79 times" in said(SAME_RATE, table)


def test_a_difference_within_one_evaluation_is_undecided_however_well_the_seeds_agree() -> None:
    found = verdict_on(SAME_RATE, compared(critmom=[4, 4, 4], constant=[5, 5, 5]))
    assert found.status == UNDECIDED and found.findings[0].steps.ratio.estimate == pytest.approx(0.8)


@pytest.mark.parametrize("pair", [([1], [6]), ([6], [1]), ([1], [None]), ([None], [1]), ([3], [3])])
def test_one_seed_decides_nothing(pair: tuple[Epochs, Epochs]) -> None:
    table = compared(critmom=pair[0], constant=pair[1])
    assert verdict_on(SAME_RATE, table).headline == "undecided with 1 seed"
    assert "no interval, 1 seed" in said(SAME_RATE, table)


def test_a_claim_without_the_arm_that_it_needs_is_not_tested() -> None:
    table = compared(critmom=[3, 3], hybrid=[3, 3])
    assert said(SAME_RATE, table).endswith("**not tested** (it needs the arm constant).")
    assert said(MATCHED, table).endswith("**not tested** (it needs the arm matched).")
    assert said(FIRST, compared(hybrid=[3, 3])).endswith("**not tested** (there is no other arm).")


def test_arms_at_different_learning_rates_do_not_test_a_claim_about_the_same_one() -> None:
    table = compared(critmom=[3, 3, 3], constant=[6, 6, 6], matched=[6, 6, 6])
    table["peak_learning_rate"] = table["arm"].map({"critmom": 0.1, "constant": 0.02, "matched": 0.1})
    assert said(SAME_RATE, table).endswith("**not tested** (the arms have different learning rates).")
    assert verdict_on(MATCHED, table).status == SUPPORTED  # the other claims do not depend on it
    table["peak_learning_rate"] = 0.1
    assert verdict_on(SAME_RATE, table).status == SUPPORTED


def test_results_of_before_learning_rates_were_recorded_are_of_one_learning_rate() -> None:
    table = compared(critmom=[3, 3, 3], constant=[6, 6, 6])
    assert table["peak_learning_rate"].isna().all()
    assert verdict_on(SAME_RATE, table.drop(columns="peak_learning_rate")).status == SUPPORTED


def test_every_claim_about_an_arm_that_was_run_is_answered_and_no_other() -> None:
    def claims(*arms: str) -> list[str]:
        table = compared(**{arm: [3, 3] for arm in arms})
        return [one.claim.text for one in room.verdicts(table, ACCURACY, [0.9])]

    assert claims("constant", "matched", "adamw") == []
    assert claims("constant", "critmom") == [SAME_RATE, MATCHED]
    assert claims("critmom", "hybrid", "critmom_tuned") == [SAME_RATE, MATCHED, TUNED, FIRST]
    assert claims("critmom_adamw", "critmom_adamw_tuned") == [ADAMW, ADAMW_TUNED]


@pytest.mark.parametrize(
    ("claim", "arm", "baseline"),
    [
        (SAME_RATE, "critmom", "constant"),
        (MATCHED, "critmom", "matched"),
        (TUNED, "critmom_tuned", "constant_tuned"),
        (FIRST, "hybrid", "adamw"),
        (ADAMW, "critmom_adamw", "adamw"),
        (ADAMW_TUNED, "critmom_adamw_tuned", "adamw_tuned"),
    ],
)
def test_each_claim_is_about_its_own_pair(claim: str, arm: str, baseline: str) -> None:
    others = {name: [1, 6, 2] for name in ("constant", "matched", "critmom") if claim != FIRST}
    for mine, theirs, status in ((3, 6, SUPPORTED), (6, 3, CONTRADICTED)):
        table = compared(**{**others, arm: [mine] * 3, baseline: [theirs] * 3})
        found = verdict_on(claim, table)
        assert (found.status, [finding.baseline for finding in found.findings]) == (status, [baseline])
        assert f"`{baseline}`" in said(claim, table)


# ------------------------------------------------------------------------------------------------------ several targets


FASTER, SLOWER, OPEN, NEVER = (2, 5), (5, 2), (3, 3), (None, None)


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (FASTER, FASTER, SUPPORTED),
        (SLOWER, SLOWER, CONTRADICTED),
        (FASTER, SLOWER, UNDECIDED),
        (SLOWER, FASTER, UNDECIDED),
        (FASTER, OPEN, UNDECIDED),
        (OPEN, SLOWER, UNDECIDED),
        (FASTER, NEVER, SUPPORTED),
        (SLOWER, NEVER, CONTRADICTED),
        (OPEN, NEVER, UNDECIDED),
        (NEVER, NEVER, UNDECIDED),
    ],
)
def test_a_claim_has_to_hold_at_every_target_that_anybody_reached(
    low: tuple[Any, Any], high: tuple[Any, Any], status: str
) -> None:
    """The later of the two is above the earlier: (2, 5) to 0.5 becomes (3, 6) to 0.9."""
    later = [None if epoch is None else epoch + 1 for epoch in high]
    early = [None if epoch is None else min(epoch, late or epoch) for epoch, late in zip(low, later, strict=True)]
    table = to_two_targets(critmom=[(early[0], later[0])] * 4, constant=[(early[1], later[1])] * 4)
    found = verdict_on(SAME_RATE, table, 0.9, 0.5)
    assert found.status == status, [finding.steps for finding in found.findings]
    assert [finding.steps.target for finding in found.findings] == [0.5, 0.9]
    text = said(SAME_RATE, table, 0.9, 0.5)
    if NEVER not in (low, high):
        assert "To 0.5 " in text and "To 0.9 " in text
    elif low != NEVER:
        assert "To 0.9 neither it nor `constant` arrived." in text


def test_where_nobody_reached_anything_nothing_is_decided() -> None:
    table = compared(critmom=[None] * 3, constant=[None] * 3, hybrid=[None] * 3)
    for claim in (SAME_RATE, FIRST):
        assert verdict_on(claim, table).status == UNDECIDED
        assert said(claim, table).endswith("**undecided with 3 seeds** (none of the arms reached the target).")


def test_arms_that_have_no_seed_in_common_yet_are_not_said_to_have_failed() -> None:
    """As while two machines make them: each arm has reached the target with a seed of its own."""
    runs = [run_of(reaching_at(2), arm="critmom", seed=0), run_of(reaching_at(3), arm="constant", seed=1)]
    runs += [run_of(reaching_at(2), arm="hybrid", seed=0)]
    table = results_table(runs)
    assert said(SAME_RATE, table).endswith("**undecided with 0 seeds** (no seed of theirs is finished in common).")
    text = said(FIRST, table)
    assert "It has no finished seed in common with `constant`." in text and "1.00 times the steps of `critmom`" in text


# ------------------------------------------------------------------------------------------------------------- censored


def test_a_baseline_that_never_arrives_can_support_a_claim() -> None:
    table = compared(critmom=[2, 2, 2], constant=[None, None, None])
    assert verdict_on(SAME_RATE, table).status == SUPPORTED
    text = said(SAME_RATE, table)
    assert "it took at most 0.33 times the steps of `constant` (95 % interval 0.00 to 0.48, 3 seeds, " in text
    assert "`constant` alone did not arrive with 3 of 3 seeds" in text


def test_an_arm_that_never_arrives_can_contradict_a_claim() -> None:
    table = compared(critmom=[None, None, None], constant=[2, 2, 2])
    assert verdict_on(SAME_RATE, table).status == CONTRADICTED
    text = said(SAME_RATE, table)
    assert "it took at least 3.00 times the steps of `constant` (95 % interval from 2.10, 3 seeds, " in text
    assert "it alone did not arrive with 3 of 3 seeds" in text


def test_an_arm_that_sometimes_fails_never_supports_a_claim_however_fast_it_is_else() -> None:
    assert verdict_on(SAME_RATE, compared(critmom=[1, 1, 1, None], constant=[6] * 4)).status == UNDECIDED
    assert verdict_on(SAME_RATE, compared(critmom=[6] * 4, constant=[1, 1, 1, None])).status == UNDECIDED


def test_where_both_fail_with_some_seeds_they_cannot_be_related() -> None:
    table = compared(critmom=[1, 1, None], constant=[6, None, 6])
    assert verdict_on(SAME_RATE, table).status == UNDECIDED
    assert "cannot be related to `constant` (it alone did not arrive with 1 of 3 seeds, `constant` alone" in said(
        SAME_RATE, table
    )
    assert "neither arrived with 1 of 3 seeds" in said(SAME_RATE, compared(critmom=[1, 1, None], constant=[6, 6, None]))


def test_a_run_that_diverged_speaks_against_its_arm() -> None:
    runs = [run_of([0.1], arm="critmom", seed=seed, status="diverged") for seed in range(3)]
    runs += [run_of(reaching_at(2), arm="constant", seed=seed) for seed in range(3)]
    assert verdict_on(SAME_RATE, results_table(runs)).status == CONTRADICTED


# ------------------------------------------------------------------------------------------------- the first of several


def rivals(number: int, epochs: Epochs) -> dict[str, Epochs]:
    return {f"rival{index}": epochs for index in range(number)}


def test_to_be_the_first_of_more_arms_takes_more_evidence() -> None:
    """0.6 times exp(-+ t s / sqrt(3)) with s = 0.11221: t is 4.30 for one rival, 7.65 for three, 8.86 for four."""
    for number, status in ((1, SUPPORTED), (3, SUPPORTED), (4, UNDECIDED)):
        table = compared(hybrid=[3, 3, 3], **rivals(number, [5, 5, 5]))
        found = verdict_on(FIRST, table)
        assert found.status == status and len(found.findings) == number
        assert {finding.steps.confidence for finding in found.findings} == {1.0 - 0.05 / number}
    assert "98.8 % interval" in said(FIRST, table)


def test_one_faster_arm_contradicts_that_another_is_the_first() -> None:
    table = compared(hybrid=[5, 5, 5], slow=[6, 6, 6], fast=[1, 1, 1])
    assert verdict_on(FIRST, table).status == CONTRADICTED


def test_the_first_has_to_beat_every_arm() -> None:
    assert verdict_on(FIRST, compared(hybrid=[2, 2, 2], slow=[6, 6, 6], slower=[None] * 3)).status == SUPPORTED
    assert verdict_on(FIRST, compared(hybrid=[2, 2, 2], slow=[6, 6, 6], close=[2, 3, 2])).status == UNDECIDED
    assert verdict_on(FIRST, compared(hybrid=[None] * 3, never=[None] * 3, reached=[2] * 3)).status == CONTRADICTED


def test_only_the_high_target_counts_for_the_first() -> None:
    table = to_two_targets(hybrid=[(5, 5)] * 3, constant=[(1, None)] * 3)
    found = verdict_on(FIRST, table, 0.5, 0.9)
    assert [finding.steps.target for finding in found.findings] == [0.9]
    table = compared(hybrid=[3] * 3, constant=[6] * 3)
    falling = verdict_on(FIRST, table, 0.9, 0.11, metric=Metric("loss", greater_is_better=False))
    assert [finding.steps.target for finding in falling.findings] == [0.11] and falling.status == SUPPORTED


def test_a_tuned_variant_is_no_rival_of_an_arm_that_is_not_tuned() -> None:
    """It may be the very same run, which nobody can be faster than."""
    same = compared(hybrid=[2, 2, 2], hybrid_tuned=[2, 2, 2], constant=[6, 6, 6], constant_tuned=[1, 1, 1])
    found = verdict_on(FIRST, same)
    assert found.status == SUPPORTED and [finding.baseline for finding in found.findings] == ["constant"]


# ------------------------------------------------------------------------------------------- never more than it may say

either = st.none() | st.integers(1, 6)
some_arms = st.integers(1, 5).flatmap(
    lambda seeds: st.fixed_dictionaries(
        {"constant": st.lists(st.tuples(either, either), min_size=seeds, max_size=seeds)},
        optional={
            name: st.lists(st.tuples(either, either), min_size=1, max_size=seeds)
            for name in ("critmom", "matched", "hybrid", "adamw", "critmom_tuned")
        },
    )
)


@settings(max_examples=60, deadline=None)
@given(some_arms)
def test_a_verdict_is_never_stronger_than_its_intervals(arms: dict[str, list[tuple[Any, Any]]]) -> None:
    for found in room.verdicts(to_two_targets(**arms), ACCURACY, [0.5, 0.9]):
        text = sentence(found)
        assert f"**{found.headline}**" in text and not re.search(r"\b(inf|nan|None)\b", text), text
        assert (found.status == UNDECIDED) == found.headline.startswith(f"undecided with {found.seeds} seed")
        if found.status == UNTESTED:
            assert found.findings == () and found.reason
        if found.status not in (SUPPORTED, CONTRADICTED):
            continue
        assert found.seeds >= 2
        reached = [one.steps for one in found.findings if one.steps.both_censored < one.steps.ratio.n]
        assert reached
        if found.status == SUPPORTED:
            assert all(one.ratio.high < 1.0 and one.bound in ("exact", "at most") for one in reached)
            assert not any(one.arm_censored or one.both_censored for one in reached)
        elif found.claim.highest_only:
            assert any(one.ratio.low > 1.0 and one.bound in ("exact", "at least") for one in reached)
        else:
            assert all(one.ratio.low > 1.0 and one.bound in ("exact", "at least") for one in reached)


@settings(max_examples=40, deadline=None)
@given(some_arms)
def test_a_printed_interval_of_a_finding_that_decides_does_not_touch_1(arms: dict[str, list[tuple[Any, Any]]]) -> None:
    for found in room.verdicts(to_two_targets(**arms), ACCURACY, [0.5, 0.9]):
        for finding in found.findings:
            words = room.interval_in_words(finding.steps)
            ends = [float(end) for end in re.findall(r"\d[\d.]*(?:e[+-]\d+)?(?! %)", words.partition("interval ")[2])]
            if finding.status == SUPPORTED:
                assert len(ends) == 2 and ends[1] < 1.0, words
            if finding.status == CONTRADICTED:
                assert ends and ends[0] > 1.0, words


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(either, either), min_size=1, max_size=4))
def test_what_supports_a_claim_contradicts_its_reverse(pairs: list[tuple[Any, Any]]) -> None:
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    forth = verdict_on(SAME_RATE, compared(critmom=mine, constant=theirs)).status
    back = verdict_on(SAME_RATE, compared(critmom=theirs, constant=mine)).status
    assert back == {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED, UNDECIDED: UNDECIDED}[forth]


def test_no_interval_is_written_with_more_digits_than_it_has() -> None:
    table = compared(critmom=[1, 6], constant=[6, 1])
    assert re.search(r"interval 0\.00 to \de\+\d+, 2 seeds", said(SAME_RATE, table))
    assert math.isfinite(verdict_on(SAME_RATE, table).findings[0].steps.ratio.high)
