"""Claims about the sentences of a verdict: the headline as it is meant to read, and no infinity or NaN anywhere."""

import math
import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from helpers.tables_by_hand import ACCURACY, reaching_at, results_table, rising_to, run_of, timed, two_speeds
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.experiments.comparison.findings.sentences import (
    ending,
    explanations,
    format_difference,
    format_level,
    format_ratio,
    format_ratio_interval,
    headline_sentence,
    targets_sentence,
)
from hf_critmom.experiments.comparison.statistics.claims import CLAIMS, Claim, claims_of, parse_claim
from hf_critmom.experiments.comparison.statistics.sequential import Looks
from hf_critmom.experiments.comparison.statistics.verdict import Headline, Rule, Verdict, judge, verdicts
from hf_critmom.reporting.intervals import Interval

SAME_RATE, MATCHED, FIRST = CLAIMS[0], CLAIMS[1], CLAIMS[3]


OUTCOME = "test accuracy"


def verdict_on(claim: Claim, table: pd.DataFrame, *targets: float, **rule: Any) -> Verdict:
    return verdicts(judge(table, Rule(ACCURACY, targets or (0.9,), **rule)), [claim])[0]


def with_endings(mine: dict[float, float], theirs: dict[float, float]) -> pd.DataFrame:
    """Runs by the epoch at which they arrive and their test accuracy."""
    return results_table(
        [
            run_of(rising_to(epoch), arm=arm, seed=seed, test=test)
            for arm, of in (("critmom", mine), ("constant", theirs))
            for seed, (epoch, test) in enumerate(of.items())
        ]
    )


# ------------------------------------------------------------------------------------------------------------- rounding


@pytest.mark.parametrize(
    ("estimate", "low", "high", "said"),
    [
        (1.2, 0.9953, 1.44, "1.20 (1.00 to 1.44)"),
        (0.9982, 0.71, 1.4, "1.00 (0.71 to 1.40)"),
        (1.2, 1.0012, 1.44, "1.200 (1.001 to 1.440)"),
        (0.9, 0.81, 0.9996, "0.9000 (0.8100 to 0.9996)"),
        (1.65, 0.93, math.inf, "1.65 (from 0.93)"),
        (0.5, 0.0, 0.9953, "0.500 (up to 0.995)"),
    ],
)
def test_a_ratio_and_its_interval_have_as_many_decimals(estimate: float, low: float, high: float, said: str) -> None:
    assert format_ratio(Interval(estimate, low, high, 5)) == said


@given(st.floats(-1.0, 1.0), st.floats(1e-5, 1.0))
def test_rounding_never_changes_whether_an_interval_excludes_1(middle: float, half: float) -> None:
    ratio = Interval(middle, middle - half, middle + half, 5).exp()
    low, high = map(float, re.findall(r"[\d.]+", format_ratio(ratio))[1:])
    if ratio.low > 1.0 + 1e-6 or ratio.high < 1.0 - 1e-6:  # what needs more digits is itself rounding
        assert (low > 1.0) == (ratio.low > 1.0) and (high < 1.0) == (ratio.high < 1.0)
    elif ratio.low <= 1.0 <= ratio.high:
        assert low <= 1.0 <= high


# --------------------------------------------------------------------------------------------------------- the headline


def test_the_headline_says_the_ratio_and_in_the_same_line_how_the_arm_ended() -> None:
    """Logs of 1.10, 1.15, 1.23 around 0.1474, half a width 0.1395; differences -0.03, -0.02, -0.04."""
    table = with_endings({3.3: 0.50, 3.45: 0.52, 3.69: 0.51}, {3.0: 0.53, 3.0001: 0.54, 3.0002: 0.55})
    assert headline_sentence(verdict_on(SAME_RATE, table), OUTCOME) == (
        "critmom is slower than constant: 1.16 times the steps (1.01 to 1.33, 3 seeds), and ends 0.03 lower in "
        "test accuracy (0.01 to 0.05)"
    )


def test_an_ending_says_of_how_many_seeds_it_is_where_others_diverged() -> None:
    table = with_endings({3.3: 0.50, 3.45: 0.52, 3.69: 0.51}, {3.0: 0.53, 3.0001: 0.54, 3.0002: 0.55})
    table.loc[(table["arm"] == "critmom") & (table["seed"] == 1), "status"] = "diverged"
    found = verdict_on(SAME_RATE, table)
    text = headline_sentence(found, OUTCOME)
    assert "3 seeds), and ends 0.04 lower" in text and text.endswith(" in the 2 seeds without a diverged run"), text
    said = "In 1 of 3 seeds a run of the two diverged: these have no value at the end."
    assert said in explanations(found, ACCURACY)


def test_runs_that_all_diverged_are_not_said_to_need_other_targets() -> None:
    table = timed(critmom=[None] * 2, constant=[None] * 2).assign(status="diverged")
    assert verdict_on(SAME_RATE, table).reason == "every run diverged, which a lower learning rate may prevent"


@pytest.mark.parametrize(
    ("mine", "theirs", "opening"),
    [
        ([2.0, 2.02, 2.01], [4.0, 4.1, 4.0], "critmom is faster than constant: 0.50 times the steps ("),
        ([3.0, 3.01, 3.02], [3.0, 3.02, 3.01], "critmom and constant show no difference beyond ±10 %: 1."),
        ([2.5, 4.4, 3.9], [4.0, 4.5, 5.0], "critmom against constant is not decided yet: 0.78 times the steps ("),
    ],
)
def test_each_word_opens_the_headline_in_its_own_way(mine: Any, theirs: Any, opening: str) -> None:
    text = headline_sentence(verdict_on(SAME_RATE, timed(critmom=mine, constant=theirs)), OUTCOME)
    assert text.startswith(opening) and "3 seeds" in text, text


def test_what_is_not_decided_says_how_many_seeds_would_probably_do() -> None:
    found = verdict_on(SAME_RATE, timed(critmom=[2.5, 4.4, 3.9], constant=[4.0, 4.5, 5.0]))
    assert headline_sentence(found, OUTCOME).endswith(f"; about {found.needed} seeds would probably decide")
    assert "would probably" not in headline_sentence(replace(found, needed=None), OUTCOME)


def test_what_is_not_tested_says_what_is_missing() -> None:
    found = verdict_on(MATCHED, timed(critmom=[3.0, 3.1]))
    assert headline_sentence(found, OUTCOME) == (
        "critmom is faster than its matched control: not tested (it needs the arm matched)"
    )
    assert explanations(found, ACCURACY) == []


def test_arms_are_written_as_the_page_or_card_writes_names() -> None:
    found = verdict_on(SAME_RATE, timed(critmom=[2.0, 2.02, 2.01], constant=[4.0, 4.1, 4.0]))
    assert headline_sentence(found, OUTCOME, name="`{}`".format).startswith("`critmom` is faster than `constant`: ")


def test_the_first_of_several_is_related_to_the_arm_that_is_hardest_to_beat() -> None:
    table = timed(hybrid=[2.0, 2.02, 2.01], near=[3.0, 3.1, 3.0], far=[5.0, 5.1, 5.0])
    assert re.match(
        r"hybrid is the first to reach 0\.9: 0\.66 times the steps of near \(.*, 3 seeds\), the next$",
        headline_sentence(verdict_on(FIRST, table), OUTCOME),
    )
    table = timed(hybrid=[5.0, 5.02, 5.01], near=[3.0, 3.1, 3.0], far=[2.0, 2.02, 2.03])
    text = headline_sentence(verdict_on(FIRST, table), OUTCOME)
    assert text.startswith("hybrid is not the first to reach 0.9: 2.48 times the steps of far (")
    unknown = headline_sentence(verdict_on(FIRST, timed(hybrid=[None] * 2, near=[None] * 2, far=[None] * 2)), OUTCOME)
    assert unknown == "Whether hybrid is the first is not decided yet"
    same = timed(a=[3.0, 3.01, 3.02], b=[3.0, 3.02, 3.01], c=[3.01, 3.0, 3.02])
    equal = headline_sentence(verdict_on(parse_claim("a < all", "abc"), same), OUTCOME)
    assert equal.startswith(
        "a is not the first, and shows no difference beyond ±10 % from b and c: 1.00 times the steps of b ("
    )


# ---------------------------------------------------------------------------------------------------------- differences


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(-0.0345, -0.0366, -0.0324, 3), "ends 0.035 lower in test accuracy (0.032 to 0.037)"),
        (Interval(0.0345, 0.0324, 0.0366, 3), "ends 0.035 higher in test accuracy (0.032 to 0.037)"),
        (Interval(0.004, -0.006, 0.014, 3), "ends 0.004 higher in test accuracy (0.006 lower to 0.014 higher)"),
        (Interval(-0.004, -0.014, 0.006, 3), "ends 0.004 lower in test accuracy (0.006 higher to 0.014 lower)"),
        (Interval(1.5, 0.5, 2.5, 3), "ends 1.5 higher in test accuracy (0.5 to 2.5)"),
        (Interval(-0.0425, -math.inf, math.inf, 1), "ends 0.043 lower in test accuracy"),
        (Interval(0.0, 0.0, 0.0, 3), "ends equal in test accuracy"),
        (Interval(-1e-9, -2e-9, 1e-9, 3), "ends equal in test accuracy"),
        (Interval(-1e-9, -0.003, 0.003, 3), "ends equal in test accuracy (0.003 higher to 0.003 lower)"),
        (Interval(1e-9, -math.inf, math.inf, 1), "ends equal in test accuracy"),
        (Interval(math.nan, -math.inf, math.inf, 0), ""),
        (Interval(0.05, 0.0001, 0.0999, 3), "ends 0.0500 higher in test accuracy (0.0001 to 0.0999)"),
    ],
)
def test_an_ending_has_as_many_digits_as_it_is_known_to(interval: Interval, text: str) -> None:
    assert ending(interval, OUTCOME) == text


def test_a_difference_in_a_table_has_its_interval_if_it_has_one() -> None:
    assert format_difference(Interval(-0.0345, -0.0366, -0.0324, 3)) == "-0.0345 (-0.0366 to -0.0324)"
    assert format_difference(Interval(0.01, -math.inf, math.inf, 1)) == "+0.0100"
    assert format_difference(Interval(math.nan, -math.inf, math.inf, 0)) == "-"


# --------------------------------------------------------------------------------------------------------- explanations


def said(claim: Claim, table: pd.DataFrame, *targets: float, **rule: Any) -> str:
    return " ".join(explanations(verdict_on(claim, table, *targets, **rule), ACCURACY))


def test_runs_that_did_not_arrive_are_counted_in_words() -> None:
    text = said(SAME_RATE, timed(critmom=[None, None, 3.0], constant=[3.0, 3.1, None]), 0.9, 0.5)
    assert (
        "Of 6 cases (2 targets with 3 seeds), critmom missed 4 and constant missed 2: these count as reached at the end"
        in text
    )


def test_targets_that_tell_nothing_are_named_with_the_reason() -> None:
    text = said(SAME_RATE, timed(critmom=[2.0, 3.0], constant=[4.0, 5.0]), 0.1, 0.9, 3.0)
    assert "Left out: 3, which no run of either arm reached." in text
    assert "Left out: 0.1, which every run had reached by its first evaluation." in text


def test_each_target_is_told_with_its_bounds_and_what_was_decided() -> None:
    found = verdict_on(SAME_RATE, timed(critmom=[2.5, 2.52, 2.51], constant=[4.5, 4.6, 4.5]), 0.5, 0.9, 3.0)
    text = targets_sentence(found.headlines[0])
    assert re.search(r"0\.5: 0\.55 \(0\.5\d to 0\.5\d; between evaluations 0\.\d\d to 1\.00; decided\)", text), text
    assert "3: reached by neither." in text and "Holm's correction" in text
    censored = verdict_on(SAME_RATE, timed(critmom=[None, None, 3.0], constant=[3.0, 3.1, 2.0]))
    assert "0.9: at least 1.80 (from " in targets_sentence(censored.headlines[0])
    open_side = verdict_on(SAME_RATE, timed(critmom=[None, 3.0], constant=[3.0, None]))
    assert targets_sentence(open_side.headlines[0]).endswith("0.9: open.")


def test_a_second_stronger_word_says_that_it_holds_at_every_target() -> None:
    table = timed(critmom=[2.0, 2.02, 2.01], constant=[4.0, 4.1, 4.0])
    assert "It is faster at every target." in said(SAME_RATE, table, 0.5, 0.9)
    assert "It is faster at every target that tells the two apart." in said(SAME_RATE, table, 0.5, 0.9, 3.0)
    assert "every target." not in said(SAME_RATE, table, 0.9)  # the headline says it of a single one


def test_the_area_between_the_curves_stands_beside_the_headline() -> None:
    runs = [run_of([0.2, 0.4, 0.6], arm="constant", seed=seed) for seed in (0, 1, 2)]
    runs += [run_of([0.3 + seed / 50, 0.5, 0.7], arm="critmom", seed=seed) for seed in (0, 1, 2)]
    assert "On average over the training, critmom is 0.105 higher (0.093 to 0.117) in validation accuracy." in said(
        SAME_RATE, results_table(runs), 0.5
    )


def test_what_prevents_a_decision_is_stated() -> None:
    unpaired = [run_of(rising_to(2.0 + seed / 10), arm="critmom", seed=seed) for seed in range(3)]
    unpaired += [run_of(rising_to(3.0 + seed / 10), arm="constant", seed=9 + seed) for seed in range(3)]
    assert "not paired" in said(SAME_RATE, results_table(unpaired))
    apart = [run_of(reaching_at(2), arm="critmom", seed=0), run_of(reaching_at(3), arm="constant", seed=1)]
    assert said(SAME_RATE, results_table(apart)) == "They have no finished seed in common."
    assert said(SAME_RATE, timed(critmom=[2.0], constant=[3.0])).startswith("One seed has no spread.")


def test_a_decided_small_difference_is_called_small() -> None:
    table = timed(critmom=[3.15, 3.151, 3.149, 3.15], constant=[3.0, 3.001, 3.0, 2.999])
    assert "The difference is smaller than 10 %." in said(SAME_RATE, table)


def test_a_decision_of_an_earlier_look_is_dated() -> None:
    mine = [4.0, 4.05, 3.95, 4.02, 3.98, 1.5]
    table = timed(critmom=mine, constant=[2.0, 2.01, 2.0, 2.01, 2.02, 2.0])
    text = said(SAME_RATE, table, looks=Looks(5, 10, (5, 6)))
    assert text.startswith("Decided at the interim analysis with 5 seeds.")


# ---------------------------------------------------------------------------------------------------- whatever came out

either = st.none() | st.floats(0.6, 6.5)
some_arms = st.integers(1, 4).flatmap(
    lambda seeds: st.fixed_dictionaries(
        {name: st.lists(either, min_size=1, max_size=seeds) for name in ("constant", "critmom", "hybrid")}
    )
)


def headline_of(verdict: Verdict) -> Headline | None:
    return verdict.headlines[0] if len(verdict.headlines) == 1 else None


@settings(max_examples=25, deadline=None)
@given(some_arms)
def test_no_sentence_shows_an_infinity_or_a_nan_or_a_bound_that_reads_1_without_being_it(arms: dict[str, Any]) -> None:
    judged = judge(timed(**arms), Rule(ACCURACY, (0.5, 0.9)))
    for found in verdicts(judged, claims_of(list(arms), "constant")):
        told = [headline_sentence(found, OUTCOME), *explanations(found, ACCURACY)]
        assert all(told) and not any(re.search(r"\b(inf|nan)\b|  ", text) for text in told), told
        assert all((text[0].isupper() or text[0].isdigit()) and text.endswith(".") for text in told[1:]), told
        one = headline_of(found)
        if one is not None and found.word in ("faster", "slower") and len(one.targets):
            ends = re.search(r"\(([\d.e+]+) to ([\d.e+]+), ", told[0])
            assert ends is not None
            low, high = map(float, ends.groups())
            assert (high < 1.0) if found.word == "faster" else (low > 1.0), told
        for at in one.at if one else ():
            assert not re.search(r"\b(inf|nan)\b", format_ratio_interval(at))


# --------------------------------------------------------------------------------- early to one target, late to another


def test_a_mean_over_targets_does_not_hide_that_curves_cross() -> None:
    """As with a smaller step: early targets sooner, late ones later."""
    found = verdict_on(SAME_RATE, two_speeds((2.0, 10.5), (4.0, 7.0)), 0.4, 0.8)
    assert "(" in headline_sentence(found, OUTCOME) and "seeds; faster to 0.4, slower to 0.8)" in headline_sentence(
        found, OUTCOME
    )
    (said,) = [one for one in explanations(found, ACCURACY) if "hides" in one]
    assert said == (
        "It is faster to 0.4, slower to 0.8: the mean over the targets hides that, so choose by the target that counts."
    )


@pytest.mark.parametrize(
    ("arm", "baseline", "seeds"),
    [((2.0, 6.0), (4.0, 7.0), 5), ((4.0, 10.5), (4.0, 7.0), 5), ((2.0, 10.5), (4.0, 7.0), 1)],
    ids=["faster to both", "equal to one", "one seed"],
)
def test_where_not_both_directions_are_decided_no_crossing_is_told(
    arm: tuple[float, float], baseline: tuple[float, float], seeds: int
) -> None:
    found = verdict_on(SAME_RATE, two_speeds(arm, baseline, seeds), 0.4, 0.8)
    assert "faster to" not in headline_sentence(found, OUTCOME) and "slower to" not in headline_sentence(found, OUTCOME)
    assert not [one for one in explanations(found, ACCURACY) if "hides" in one]


# -------------------------------------------------------------------------------------------------- levels in percent


@pytest.mark.parametrize(
    ("confidence", "shown"),
    [(0.95, "95 %"), (0.9875, "98.8 %"), (0.999, "99.9 %"), (0.99998, "99.998 %"), (0.9999962, "99.9996 %")],
)
def test_no_interval_is_one_of_100_percent(confidence: float, shown: str) -> None:
    assert format_level(confidence) == shown
