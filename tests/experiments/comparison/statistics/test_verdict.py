"""Claims about the verdict, on results of each kind made by hand: five words, and never more than was measured."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.tables_by_hand import ACCURACY, compared, reaching_at, results_table, rising_to, run_of, timed
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.experiments.comparison.findings.sentences import headline_sentence
from hf_critmom.experiments.comparison.statistics.claims import CLAIMS, Claim, claims_of, parse_claim
from hf_critmom.experiments.comparison.statistics.sequential import RESERVE, Looks
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.statistics.verdict import (
    FASTER,
    NO_DIFFERENCE,
    NOT_DECIDED,
    NOT_TESTED,
    SLOWER,
    Rule,
    Verdict,
    judge,
    verdicts,
)

SAME_RATE, MATCHED, TUNED, FIRST, ADAMW, ADAMW_TUNED = CLAIMS
NEVER = None


def verdict_on(
    claim: Claim, table: pd.DataFrame, *targets: float, metric: Metric = ACCURACY, among: Any = None, **rule: Any
) -> Verdict:
    """The verdict on one claim, alone or among others."""
    claims = [claim] if among is None else among
    judged = judge(table, Rule(metric, targets or (0.9,), **rule))
    return verdicts(judged, claims)[list(claims).index(claim)]


def spread(around: float, seeds: int = 5, by: float = 0.02) -> list[float | None]:
    """Epochs of so many seeds close around a number."""
    return [around * (1.0 + by * (seed - (seeds - 1) / 2.0)) for seed in range(seeds)]


def wobbly(around: float, seeds: int = 5) -> list[float | None]:
    """The same for an arm that is compared with `spread`: each ratio has a spread of its own."""
    factors = [1.0, 1.01, 0.985, 1.015, 0.99, 1.005, 0.98, 1.02, 0.995, 1.0]
    return [epoch and epoch * factor for epoch, factor in zip(spread(around, seeds), factors, strict=False)]


# ------------------------------------------------------------------------------------------------------- the five words


@pytest.mark.parametrize(
    ("mine", "theirs", "word"),
    [
        (wobbly(2.0), spread(4.0), FASTER),
        (wobbly(4.0), spread(2.0), SLOWER),
        (wobbly(3.0), spread(3.0), NO_DIFFERENCE),
        ([2.0, 5.0, 4.0], [4.0, 4.5, 5.0], NOT_DECIDED),
    ],
)
def test_a_claim_has_the_word_that_its_interval_has(mine: Any, theirs: Any, word: str) -> None:
    found = verdict_on(SAME_RATE, timed(critmom=mine, constant=theirs))
    (one,) = found.headlines
    assert found.word == word and found.seeds == len(mine) and found.reason == ""
    assert (one.ratio.high < 1.0) == (word == FASTER) and (one.ratio.low > 1.0) == (word == SLOWER)
    if word == NO_DIFFERENCE:
        assert one.ratio.low > 1.0 / 1.1 and one.ratio.high < 1.1
    assert (found.decided_at is None) == (word == NOT_DECIDED) == (not found.decided)


def test_a_claim_without_the_arm_that_it_needs_is_not_tested() -> None:
    found = verdict_on(MATCHED, timed(critmom=[3.0, 3.1], constant=[3.0, 3.2]))
    assert (found.word, found.headlines, found.reason) == (NOT_TESTED, (), "it needs the arm matched")


def test_what_is_not_decided_yet_says_how_many_seeds_would_probably_do() -> None:
    table = timed(critmom=[2.5, 4.4, 3.9, 3.0], constant=[4.0, 4.5, 5.0, 4.2])
    found = verdict_on(SAME_RATE, table)
    assert found.word == NOT_DECIDED and found.needed is not None and 4 < found.needed < 40


def test_one_seed_decides_nothing() -> None:
    for mine, theirs in (([1.5], [6.0]), ([6.0], [1.5]), ([1.5], [NEVER]), ([3.0], [3.0])):
        found = verdict_on(SAME_RATE, timed(critmom=mine, constant=theirs))
        assert (found.word, found.reason, found.needed) == (NOT_DECIDED, "one seed has no spread", None)


def test_the_margin_is_the_plans() -> None:
    table = timed(critmom=wobbly(3.3), constant=spread(3.0))
    assert verdict_on(SAME_RATE, timed(critmom=[2.9, 3.2, 3.1], constant=[3.0, 3.0, 3.0])).word == NOT_DECIDED
    wide = verdict_on(SAME_RATE, timed(critmom=[2.9, 3.2, 3.1], constant=[3.0, 3.0, 3.0]), margin=0.5)
    assert (wide.word, wide.margin) == (NO_DIFFERENCE, 0.5)
    # A difference that is there is told even where it is small.
    assert verdict_on(SAME_RATE, table, margin=0.5).word == SLOWER


def test_every_claim_is_answered_in_order() -> None:
    arms = ["constant", "matched", "critmom", "hybrid"]
    table = timed(**{arm: wobbly(2.0 + place) for place, arm in enumerate(arms)})
    claims = claims_of(arms, "constant")
    found = verdicts(judge(table, Rule(ACCURACY, (0.9,))), claims)
    assert [one.claim for one in found] == list(claims)
    assert verdicts(judge(table, Rule(ACCURACY, (0.9,))), []) == []


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
def test_each_claim_is_about_its_own_pair(claim: Claim, arm: str, baseline: str) -> None:
    others = {name: [1.5, 5.9, 2.0] for name in ("constant", "matched", "critmom") if claim != FIRST}
    for mine, theirs, word in ((3.0, 6.0, FASTER), (6.0, 3.0, SLOWER)):
        found = verdict_on(claim, timed(**{**others, arm: wobbly(mine, 3), baseline: spread(theirs, 3)}))
        assert (found.word, [one.baseline for one in found.headlines]) == (word, [baseline])


# ------------------------------------------------------------------------------------------------------ several targets


def test_the_headline_is_over_all_planned_targets_and_says_which_tell_nothing() -> None:
    table = timed(critmom=wobbly(2.0), constant=spread(4.0))
    (one,) = verdict_on(SAME_RATE, table, 3.0, 0.9, 0.6).headlines
    assert (one.targets, one.unreached, one.at_once) == ((0.6, 0.9), (3.0,), ())
    assert [at.target for at in one.at] == [0.6, 0.9, 3.0] and one.everywhere == -1


def test_where_the_targets_disagree_the_mean_speaks_and_not_at_every_target() -> None:
    """Twice as fast to 0.5 and half as fast from there to 0.9."""
    runs = []
    for seed in range(5):
        at = 0.01 * seed
        runs.append(run_of([0.3, 0.6 + at, 0.65, 0.7, 0.8 + at, 0.95], arm="critmom", seed=seed))
        runs.append(run_of([0.1, 0.2, 0.4, 0.55 - at, 0.98, 0.99], arm="constant", seed=seed))
    (one,) = verdict_on(SAME_RATE, results_table(runs), 0.5, 0.9).headlines
    ratios = [at.ratio.estimate for at in one.at]
    assert ratios[0] < 1.0 < ratios[1] and one.everywhere == 0
    assert one.ratio.estimate == pytest.approx(math.sqrt(ratios[0] * ratios[1]))


def test_exploratory_targets_never_enter_the_headline() -> None:
    table = timed(critmom=wobbly(2.0), constant=spread(4.0))
    plain = verdict_on(SAME_RATE, table, 0.9)
    more = verdict_on(SAME_RATE, table, 0.9, exploratory=(0.5, 3.0))
    assert more.headlines[0].ratio == plain.headlines[0].ratio and more.word == plain.word
    assert [at.exploratory for at in more.headlines[0].at] == [False, True, True]


def test_where_nobody_reached_anything_nothing_is_decided() -> None:
    table = timed(critmom=[NEVER] * 3, constant=[NEVER] * 3, hybrid=[NEVER] * 3)
    for claim in (SAME_RATE, FIRST):
        found = verdict_on(claim, table)
        assert (found.word, found.reason) == (NOT_DECIDED, "none of the arms reached a target")


def test_arms_that_are_there_at_once_are_not_said_to_be_equal() -> None:
    found = verdict_on(SAME_RATE, timed(critmom=[0.3, 0.5, 0.7], constant=[0.6, 0.8, 0.9]))
    assert (found.word, found.headlines[0].at_once) == (NOT_DECIDED, (0.9,))
    assert found.reason == "every run was at a target when it was first evaluated"


# ---------------------------------------------------------------------------------------------- runs that do not arrive


def test_a_baseline_that_never_arrives_can_uphold_a_claim() -> None:
    found = verdict_on(SAME_RATE, timed(critmom=wobbly(2.0), constant=[NEVER] * 5))
    (one,) = found.headlines
    assert found.word == FASTER and (one.arm_missed, one.baseline_missed, one.arrivals) == (0, 5, 5)
    assert one.at[0].bound == "at most"


def test_an_arm_that_never_arrives_can_contradict_a_claim() -> None:
    found = verdict_on(SAME_RATE, timed(critmom=[NEVER] * 5, constant=wobbly(2.0)))
    assert found.word == SLOWER and found.headlines[0].at[0].bound == "at least"


def test_a_run_that_diverged_speaks_against_its_arm() -> None:
    runs = [run_of([0.1], arm="critmom", seed=seed, status="diverged") for seed in range(3)]
    runs += [run_of(rising_to(2.0 + seed / 10), arm="constant", seed=seed) for seed in range(3)]
    assert verdict_on(SAME_RATE, results_table(runs)).word == SLOWER


def test_runs_that_count_with_the_end_of_the_budget_do_not_prove_that_arms_are_equal() -> None:
    """To 0.9 all but one run of each miss, and count alike; 0.5 both reach, the one twice as fast as the other."""
    mine, theirs = spread(5.8, 5, by=0.002), spread(11.6, 5, by=0.002)
    table = timed(critmom=mine, constant=theirs)
    (one,) = verdict_on(SAME_RATE, table, 0.45, 0.9, 1.2).headlines
    assert one.baseline_missed
    almost = timed(critmom=[NEVER, NEVER, NEVER, NEVER, 5.9], constant=[NEVER, NEVER, NEVER, NEVER, 5.8])
    assert verdict_on(SAME_RATE, almost, 0.9).headlines[0].ratio.high < 1.1
    assert verdict_on(SAME_RATE, almost, 0.9).word == NOT_DECIDED


# ------------------------------------------------------------------------------------------------- the first of several


def rivals(number: int, around: float) -> dict[str, list[float | None]]:
    return {f"rival{index}": wobbly(around + 0.01 * index) for index in range(number)}


def test_to_be_first_needs_no_correction_for_the_number_of_rivals() -> None:
    """Every one of them has to be beaten: with more rivals the claim is harder already."""
    for number in (1, 3, 9):
        found = verdict_on(FIRST, timed(hybrid=spread(3.0), **rivals(number, 3.3)))
        assert found.word == FASTER and len(found.headlines) == number


def test_one_faster_arm_contradicts_that_another_is_the_first_and_takes_more_evidence_among_more() -> None:
    logs = [0.028, 0.114, 0.2, 0.286, 0.372]  # p = 0.030, two-sided, and far beyond the margin
    fast = {"fast": [epoch and epoch * math.exp(-log) for epoch, log in zip(spread(3.0), logs, strict=True)]}
    words = [
        verdict_on(FIRST, timed(hybrid=spread(3.0), **fast, **rivals(number, 3.3))).word for number in (0, 1, 2, 30)
    ]
    assert words[0] == SLOWER and words[-1] == NOT_DECIDED
    assert words == sorted(words, key=[SLOWER, NOT_DECIDED].index)


def test_the_first_has_to_beat_every_arm() -> None:
    assert verdict_on(FIRST, timed(hybrid=wobbly(2.0), slow=spread(6.0), slower=[NEVER] * 5)).word == FASTER
    close = [2.1, 1.9, 2.2, 1.8, 2.0]
    assert verdict_on(FIRST, timed(hybrid=wobbly(2.0), slow=spread(6.0), close=close)).word == NOT_DECIDED
    assert verdict_on(FIRST, timed(hybrid=[NEVER] * 3, never=[NEVER] * 3, fast=spread(2.0, 3))).word == SLOWER


def test_an_arm_within_the_margin_answers_that_another_is_the_first_with_no_difference() -> None:
    """Otherwise an arm with a near twin among its rivals would stay undecided with any number of seeds."""
    mine = wobbly(3.0)
    found = verdict_on(FIRST, timed(hybrid=mine, slow=spread(6.0), twin=mine))
    assert found.word == NO_DIFFERENCE
    assert headline_sentence(found, "test accuracy").startswith(
        "hybrid is not the first to reach 0.9, and shows no difference beyond ±10 % from twin: 1.00 times the steps"
    )
    assert verdict_on(FIRST, timed(hybrid=mine, slow=spread(6.0), other=[2.2, 3.4, 2.8, 3.9, 2.5])).word == NOT_DECIDED


def test_only_the_highest_target_counts_for_the_papers_first() -> None:
    table = timed(hybrid=wobbly(3.0), constant=spread(6.0))
    found = verdict_on(FIRST, table, 0.5, 0.9)
    assert [at.target for at in found.headlines[0].at] == [0.9]
    falling = verdict_on(FIRST, table, 0.9, 0.11, metric=Metric("loss", greater_is_better=False))
    assert [at.target for at in falling.headlines[0].at] == [0.11] and falling.word == FASTER
    every = verdict_on(parse_claim("hybrid < all", ["hybrid", "constant"]), table, 0.5, 0.9)
    assert [at.target for at in every.headlines[0].at] == [0.5, 0.9]


def test_a_tuned_variant_is_no_rival_of_an_arm_that_is_not_tuned() -> None:
    """It may be the very same run, which nobody can be faster than."""
    mine = wobbly(2.0)
    same = timed(hybrid=mine, hybrid_tuned=mine, constant=spread(6.0), constant_tuned=spread(1.5))
    found = verdict_on(FIRST, same)
    assert found.word == FASTER and [one.baseline for one in found.headlines] == ["constant"]


# ------------------------------------------------------------------------------------------------------- several claims


def test_with_more_claims_the_same_data_decide_less_and_that_is_said() -> None:
    """p = 0.019: enough alone and for the primary one of many, too much for one of five."""
    mine, theirs = [3.36, 3.49, 3.61], [3.0, 3.0, 3.0]
    arms = {"constant": theirs, "critmom": mine, **{f"other{place}": [3.0, 3.3, 2.8] for place in range(4)}}
    table = timed(**arms)
    plain = Claim("", "critmom", ("constant",))
    others = [Claim("", f"other{place}", ("constant",)) for place in range(4)]
    assert verdict_on(plain, table).word == SLOWER
    assert verdict_on(SAME_RATE, table, among=[SAME_RATE, *others]).word == SLOWER
    found = verdict_on(plain, table, among=[plain, *others])
    assert found.word == NOT_DECIDED and found.headlines[0].ratio.low > 1.0
    assert found.reason == "the correction for 5 claims leaves it open"


def test_claims_that_cannot_be_tested_take_nothing_from_the_others() -> None:
    table = timed(critmom=[3.36, 3.49, 3.61], constant=[3.0, 3.0, 3.0])
    alone, among = verdict_on(SAME_RATE, table), verdict_on(SAME_RATE, table, among=[MATCHED, TUNED, SAME_RATE])
    assert alone == among


def test_several_budgets_share_the_error() -> None:
    table = timed(critmom=[3.36, 3.49, 3.61], constant=[3.0, 3.0, 3.0])
    assert verdict_on(SAME_RATE, table, alpha=0.05).word == SLOWER
    assert verdict_on(SAME_RATE, table, alpha=0.01).word == NOT_DECIDED


# -------------------------------------------------------------------------------------------------------------- growing


def test_a_growing_comparison_needs_more_evidence_at_an_early_look() -> None:
    mine, theirs = [3.36, 3.49, 3.61], [3.0, 3.0, 3.0]
    table = timed(critmom=mine, constant=theirs)
    early = verdict_on(SAME_RATE, table, looks=Looks(3, 10, (3,)))
    assert verdict_on(SAME_RATE, table).word == SLOWER and early.word == NOT_DECIDED
    assert early.headlines[0].confidence > 0.999 and early.needed is not None and early.needed <= 10


def test_what_a_look_decided_stays_decided() -> None:
    """Five seeds in a row agree; then one does not."""
    mine = [*wobbly(4.0), 1.5]
    table = timed(critmom=mine, constant=spread(2.0, 6))
    looks = Looks(5, 10, (5, 6))
    found = verdict_on(SAME_RATE, table, looks=looks)
    assert (found.word, found.decided_at, found.seeds) == (SLOWER, 5, 6)
    assert found.headlines[0].ratio.low < 1.0  # the present interval is of all six
    assert verdict_on(SAME_RATE, table, looks=Looks(6, 10, (6,))).word == NOT_DECIDED


def test_looks_take_the_seeds_in_the_order_in_which_they_were_planned() -> None:
    mine = [1.5, *wobbly(4.0)]
    table = timed(critmom=mine, constant=[2.0, *spread(2.0)])
    looks = Looks(5, 10, (5, 6))
    assert verdict_on(SAME_RATE, table, looks=looks, seeds=(1, 2, 3, 4, 5, 0)).decided_at == 5
    assert verdict_on(SAME_RATE, table, looks=looks, seeds=(0, 1, 2, 3, 4, 5)).word == NOT_DECIDED


def test_an_unfinished_comparison_decides_nothing_and_says_how_far_it_is() -> None:
    table = timed(critmom=wobbly(4.0, 3), constant=spread(2.0, 3))
    found = verdict_on(SAME_RATE, table, looks=Looks.fixed(5), seeds=(0, 1, 2, 3, 4))
    assert (found.word, found.reason) == (NOT_DECIDED, "3 of the 5 seeds of the first analysis are finished")
    # One arm lacks the last seed of the extension: the earlier look stands, the new one is not made yet.
    table = timed(critmom=wobbly(4.0, 6), constant=spread(2.0, 5))
    found = verdict_on(SAME_RATE, table, looks=Looks(5, 10, (5, 6)), seeds=tuple(range(6)))
    assert (found.word, found.decided_at) == (SLOWER, 5)


def test_each_claim_is_looked_at_with_the_seeds_of_its_own_arms() -> None:
    """Seeds that only other arms have change neither its verdict nor its interval."""
    few = {"critmom": [3.0, 3.4, 3.1], "matched": spread(3.0, 3)}
    alone = verdict_on(MATCHED, timed(**few), looks=Looks.fixed(3), seeds=(0, 1, 2))
    more = timed(**few, constant=spread(2.0, 6), nesterov=wobbly(2.0, 6))
    beside = verdict_on(MATCHED, more, looks=Looks(3, 3, (3, 4, 5, 6)), seeds=tuple(range(6)))
    assert (beside.word, beside.seeds, beside.headlines) == (alone.word, 3, alone.headlines)
    assert beside.headlines[0].confidence == 0.95 and beside.needed == alone.needed is not None


def test_seeds_count_in_the_order_of_the_plan_and_a_missing_one_is_named() -> None:
    """Else an arm could be run with those seeds that are known to be the others' worst."""
    table = timed(critmom=wobbly(3.0, 6), matched=spread(2.0, 6))
    looks, rule = Looks(3, 3, (3, 4, 5, 6)), {"seeds": tuple(range(6))}
    assert verdict_on(MATCHED, table, looks=looks, **rule).word == SLOWER
    lacking = table[(table["arm"] != "critmom") | (table["seed"] != 2)]
    found = verdict_on(MATCHED, lacking, looks=looks, **rule)
    assert (found.word, found.seeds) == (NOT_DECIDED, 5)
    assert found.reason == "seeds count in the order of the plan, and the arms do not all have seed 2"
    assert found.needed is not None and 3 <= found.needed <= 5  # of the first seeds, of which they have two


def test_seeds_added_by_hand_to_a_complete_comparison_can_still_decide() -> None:
    """Nothing at five seeds; with ten more the difference is beyond doubt."""
    rng = np.random.default_rng(3)
    mine = [2.5, 3.9, 2.9, 3.6, 3.1, *(3.3 + 0.05 * rng.normal(size=10))]
    table = timed(critmom=mine, constant=[3.0 + 0.01 * seed for seed in range(15)])
    fixed = timed(critmom=mine[:5], constant=[3.0 + 0.01 * seed for seed in range(5)])
    assert verdict_on(SAME_RATE, fixed).word == NOT_DECIDED
    at_ten = verdict_on(SAME_RATE, table, looks=Looks(5, 5, (5, 15)))
    assert at_ten.headlines[0].confidence > 0.99 and 0.0 < RESERVE < 0.1
    clear = timed(
        critmom=[*mine[:5], *(6.0 + 0.05 * rng.normal(size=10))], constant=[3.0 + 0.01 * s for s in range(15)]
    )
    found = verdict_on(SAME_RATE, clear, looks=Looks(5, 5, (5, 15)))
    assert (found.word, found.decided_at) == (SLOWER, 15)


# ---------------------------------------------------------------------------------------------------- seeds and pairing


def test_arms_that_have_no_seed_in_common_yet_are_not_said_to_have_failed() -> None:
    """As while two machines make them: each arm has reached the target with a seed of its own."""
    runs = [run_of(reaching_at(2), arm="critmom", seed=0), run_of(reaching_at(3), arm="constant", seed=1)]
    found = verdict_on(SAME_RATE, results_table(runs))
    assert (found.word, found.reason) == (NOT_DECIDED, "they have no finished seed in common")


def test_arms_with_other_seeds_are_compared_unpaired() -> None:
    runs = [run_of(rising_to(epoch), arm="critmom", seed=seed) for seed, epoch in enumerate(wobbly(2.0, 4))]
    runs += [run_of(rising_to(epoch), arm="constant", seed=9 + seed) for seed, epoch in enumerate(spread(4.0, 4))]
    found = verdict_on(SAME_RATE, results_table(runs))
    assert found.word == FASTER and not found.headlines[0].paired and found.seeds == 4


def test_seeds_are_not_promised_to_show_no_difference_where_an_arm_misses_every_target() -> None:
    """Else a user follows the proposed command again and again: only common arrivals can show it."""
    epochs = [5.0, 5.1, 4.9, 5.0, 5.1, 4.9]
    twins = verdict_on(SAME_RATE, timed(critmom=epochs[::-1], constant=epochs))
    assert twins.word == NO_DIFFERENCE
    found = verdict_on(SAME_RATE, timed(critmom=[None, *epochs[:0:-1]], constant=[None, *epochs[1:]]))
    assert found.word == NOT_DECIDED and found.needed is None
    assert "no target was reached by every run of both" in found.reason


def test_where_the_seed_does_not_reach_the_training_its_agreement_is_no_evidence() -> None:
    """A script that ignores --seed: three times the same run."""
    table = compared(critmom=[3, 3, 3], constant=[6, 6, 6])
    assert verdict_on(SAME_RATE, table).word == FASTER
    table["loss"] = 1.0 - table["accuracy"].astype(float)
    found = verdict_on(SAME_RATE, table)
    assert found.word == NOT_DECIDED and found.needed is None
    assert found.reason.startswith("seeds 0, 1 and 2 of critmom have the very same curve")


# ------------------------------------------------------------------------------------------- never more than it may say

either = st.none() | st.floats(0.6, 6.5)
some_arms = st.integers(1, 5).flatmap(
    lambda seeds: st.fixed_dictionaries(
        {"constant": st.lists(either, min_size=seeds, max_size=seeds)},
        optional={
            name: st.lists(either, min_size=1, max_size=seeds)
            for name in ("critmom", "matched", "hybrid", "adamw", "critmom_tuned")
        },
    )
)


@settings(max_examples=25, deadline=None)
@given(some_arms)
def test_a_word_is_never_stronger_than_the_interval(arms: dict[str, list[Any]]) -> None:
    judged = judge(timed(**arms), Rule(ACCURACY, (0.5, 0.9)))
    for found in verdicts(judged, claims_of(list(arms), "constant")):
        if found.word == NOT_TESTED:
            assert found.headlines == () and found.reason
            continue
        assert found.headlines
        if found.word in (FASTER, SLOWER):
            assert found.seeds >= 2
            sides = [one.ratio.high < 1.0 if found.word == FASTER else one.ratio.low > 1.0 for one in found.headlines]
            assert all(sides) if found.word == FASTER or not found.claim.first else any(sides)
        if found.word == NO_DIFFERENCE:
            assert any(one.ratio.low > 1.0 / 1.1 and one.ratio.high < 1.1 for one in found.headlines)
            assert found.claim.first or len(found.headlines) == 1
        for one in found.headlines:
            if one.everywhere and len(one.targets) > 1:
                assert (one.ratio.estimate < 1.0) == (one.everywhere < 0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(either, either), min_size=1, max_size=5))
def test_what_is_faster_than_another_makes_the_other_slower(pairs: list[tuple[Any, Any]]) -> None:
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    forth, back = (
        verdict_on(SAME_RATE, timed(critmom=one, constant=other), 0.5, 0.9)
        for one, other in ((mine, theirs), (theirs, mine))
    )
    mirror = {FASTER: SLOWER, SLOWER: FASTER}
    assert back.word == mirror.get(forth.word, forth.word) and back.needed == forth.needed


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(either, either), min_size=2, max_size=5), st.randoms())
def test_a_word_does_not_depend_on_the_order_of_rows(pairs: list[tuple[Any, Any]], random: Any) -> None:
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    table = timed(critmom=mine, constant=theirs)
    order = list(range(len(table)))
    random.shuffle(order)
    assert repr(verdict_on(SAME_RATE, table)) == repr(verdict_on(SAME_RATE, table.iloc[order]))
