"""Claims about problem groups and about agreement between runs: rules, controls, chance and intervals."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from hf_critmom.attribution import Attribution, AttributionError, GroupGradient, diagnose, measure_agreement
from hf_critmom.attribution.agreement import chance_of_overlap, compare_agreement

SEVEN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


def made(shares, *, error=0.1, units=16, select="misclassified", selected=100, names=SEVEN):
    """An attribution of given shares."""
    shares = np.array(shares, dtype=float) / np.sum(shares)
    groups = {
        name: GroupGradient(math.sqrt(share), share, None, error, 1.0, 10)
        for name, share in zip(names, shares.tolist(), strict=True)
    }
    return Attribution(groups, {}, select, "examples", selected, 1000, 100, 1.0, 16, units)


WRONG = made([1, 1, 5, 10, 40, 33, 10])
SAME = made([2, 1, 4, 12, 35, 36, 10], select="correct")
OTHER = made([20, 5, 30, 25, 8, 6, 6], select="correct")


# ------------------------------------------------------------------------------------------------------ problem groups


def test_the_papers_rule_takes_the_three_of_largest_share():
    diagnosis = diagnose(WRONG)
    assert diagnosis.top == ("layer3", "layer4", "layer2")
    assert diagnose(WRONG, num_top=2).top == ("layer3", "layer4")
    assert diagnosis.problem is None and diagnosis.contrast == {}
    assert any("not compared with correctly classified" in finding for finding in diagnosis.findings())


def test_a_rule_without_number_takes_more_than_an_equal_part():
    assert diagnose(WRONG).dominant == ("layer3", "layer4")  # above 1/7
    assert diagnose(made([1] * 7)).dominant == ()
    assert diagnose(made([6.1, 1, 1, 1, 1, 1, 1])).dominant == ("conv1",)


def test_a_problem_group_has_a_larger_share_than_among_the_correct():
    diagnosis = diagnose(WRONG, correct=OTHER)
    assert diagnosis.problem == ("layer3", "layer4")
    assert diagnosis.contrast["layer3"].ratio == pytest.approx(40 / 8)
    assert not diagnosis.same_groups["correct"]
    assert any("layer3 (5.00 times) and layer4 (5.50 times)" in finding for finding in diagnosis.findings())


def test_where_both_name_the_same_groups_it_is_said():
    diagnosis = diagnose(WRONG, correct=SAME, initial=SAME)
    assert diagnosis.problem == ()
    assert diagnosis.same_groups == {"correct": True, "initial": True}
    said = " ".join(diagnosis.findings())
    assert "Misclassified and correctly classified examples have the same top groups" in said
    assert "The untrained network has the same top groups" in said and "there is no problem group" in said


def test_a_ratio_within_its_error_is_no_problem():
    clear, noisy = made([1, 1, 1, 1, 1, 4, 4], error=0.01), made([1, 1, 1, 1, 1, 4, 4], error=1.0)
    correct = made([1, 1, 1, 1, 1, 3, 5], error=0.01, select="correct")
    assert diagnose(clear, correct=correct).problem == ("layer4",)
    assert diagnose(noisy, correct=correct).problem == ()


def test_the_ratios_interval_is_the_t_interval_of_its_logarithm_for_all_groups_at_once():
    wrong = made([1, 1, 5, 10, 40, 33, 10], error=0.2, units=12)
    correct = made([20, 5, 30, 25, 8, 6, 6], error=0.3, units=9, select="correct")
    quotient = diagnose(wrong, correct=correct, confidence=0.9).contrast["layer3"]
    ours, theirs = wrong.shares["layer3"], correct.shares["layer3"]
    error = math.sqrt((0.2 * (1 - ours)) ** 2 + (0.3 * (1 - theirs)) ** 2)
    reach = stats.t.ppf(1 - 0.1 / 7 / 2, 8) * error
    expected = [math.exp(math.log(ours / theirs) + sign * reach) for sign in (-1, 1)]
    assert quotient.interval == pytest.approx(expected)


def test_without_errors_of_the_shares_nothing_can_be_told():
    diagnosis = diagnose(made([1] * 7, error=None, units=4, selected=4), correct=SAME)
    assert diagnosis.problem is None
    expected = "Whether any group has a larger share among misclassified examples than among correctly classified ones "
    assert f"{expected}cannot be told: there are too few misclassified examples (4)." in diagnosis.findings()


def test_a_share_of_zero_has_no_ratio():
    wrong, correct = made([1, 0, 1, 1, 1, 1, 1]), made([0, 0, 1, 1, 1, 1, 1], select="correct")
    contrast = diagnose(wrong, correct=correct).contrast
    assert contrast["conv1"].ratio is None and contrast["bn1"].ratio is None
    assert contrast["layer1"].interval is not None


def test_fewer_matched_examples_are_said():
    few = made([1, 1, 5, 10, 40, 33, 10], selected=60, select="correct")
    assert any("Only 60 correctly" in finding for finding in diagnose(WRONG, correct=few).findings())
    assert json.loads(json.dumps(diagnose(WRONG, correct=few).to_dict()))["selected"]["correct"] == 60


def test_other_groups_cannot_be_compared():
    three = made([1, 2, 3], names=("a", "b", "c"), select="correct")
    with pytest.raises(AttributionError, match=r"misclassified and correct have different layer groups"):
        diagnose(WRONG, correct=three)
    with pytest.raises(AttributionError, match="at least 1"):
        diagnose(WRONG, num_top=0)
    with pytest.raises(AttributionError, match="at least 1, got 0"):
        measure_agreement(runs(), num_top=0)


# ----------------------------------------------------------------------------------------------------------- agreement


def test_chance_alone_agrees_in_full_once_in_35_times():
    assert chance_of_overlap(3, 3, 7) == pytest.approx(1 / 35)
    assert chance_of_overlap(0, 3, 7) == pytest.approx(1.0)


@pytest.mark.parametrize(("groups", "num_top"), [(7, 3), (7, 1), (5, 4), (14, 3)])
def test_chance_is_that_of_counting_all_choices(groups, num_top):
    first = set(range(num_top))
    overlaps = [len(first & set(other)) for other in itertools.combinations(range(groups), num_top)]
    for overlap in range(num_top + 1):
        expected = sum(found >= overlap for found in overlaps) / len(overlaps)
        assert chance_of_overlap(overlap, num_top, groups) == pytest.approx(expected)


def runs():
    rng = np.random.default_rng(0)
    base = np.array([1, 1, 5, 10, 40, 33, 10], dtype=float)
    return {
        f"{arm}-{seed}": made(base * np.exp(spread * rng.standard_normal(7)))
        for arm, spread in (("sgd", 0.3), ("adamw", 1.0))
        for seed in range(4)
    }


def arms(names):
    return {name: name.split("-")[0] for name in names}


def test_pairs_are_compared_as_scipy_does():
    found = runs()
    agreement = measure_agreement(found, arms(found))
    assert len(agreement.pairs) == 28
    assert agreement.expected == pytest.approx(9 / 7) and agreement.full_by_chance == pytest.approx(1 / 35)
    for pair in agreement.pairs:
        first, second = found[pair.first], found[pair.second]
        assert pair.overlap == len(set(first.ranked()[:3]) & set(second.ranked()[:3]))
        ours, theirs = list(first.shares.values()), list(second.shares.values())
        assert pair.spearman == pytest.approx(stats.spearmanr(ours, theirs).statistic)


def test_arms_are_means_over_their_pairs_with_jackknife_intervals():
    found = runs()
    agreement = measure_agreement(found, arms(found))
    overlap = {frozenset((pair.first, pair.second)): pair.overlap for pair in agreement.pairs}
    by_arm = {(part.first, part.second): part for part in agreement.arms}
    assert list(by_arm) == [("sgd", "sgd"), ("sgd", "adamw"), ("adamw", "adamw")]
    names = {arm: [f"{arm}-{seed}" for seed in range(4)] for arm in ("sgd", "adamw")}

    def mean(left, right):
        pairs = itertools.combinations(left, 2) if left is right else itertools.product(left, right)
        return np.mean([overlap[frozenset(pair)] for pair in pairs])

    def spread(leave_one):
        estimates = np.array([leave_one(place) for place in range(4)])
        return 3 / 4 * np.sum((estimates - estimates.mean()) ** 2)

    def without(values, place):
        return values[:place] + values[place + 1 :]

    quantile = stats.t.ppf(0.975, 3)
    for (first, second), part in by_arm.items():
        left, right = names[first], names[second]
        assert part.pairs == (6 if first == second else 16)
        assert part.overlap.value == pytest.approx(mean(left, right))
        if first == second:

            def leave_one(place, left=left):
                rest = without(left, place)
                return mean(rest, rest)

            variance = spread(leave_one)
        else:
            variance = spread(lambda place, left=left, right=right: mean(without(left, place), right))
            variance += spread(lambda place, left=left, right=right: mean(left, without(right, place)))
        if variance == 0.0:
            assert part.overlap.interval is None
            continue
        low, high = part.overlap.interval
        assert low == pytest.approx(max(0.0, part.overlap.value - quantile * math.sqrt(variance)))
        assert high == pytest.approx(min(3.0, part.overlap.value + quantile * math.sqrt(variance)))
        assert part.full == pytest.approx(
            np.mean([pair.overlap == 3 for pair in agreement.pairs if {pair.first, pair.second} <= {*left, *right}])
            if first == second
            else np.mean([overlap[frozenset(pair)] == 3 for pair in itertools.product(left, right)])
        )


def test_differences_to_a_control_are_means_over_the_same_pairs_with_jackknife_intervals():
    chosen, control = runs(), {name: made(np.roll(list(one.shares.values()), place % 3))
                               for place, (name, one) in enumerate(runs().items())}  # fmt: skip
    one, other = (measure_agreement(found, arms(found)) for found in (chosen, control))
    found = {(part.first, part.second): part for part in compare_agreement(one, other)}
    difference = {frozenset((pair.first, pair.second)): pair.overlap - same.overlap
                  for pair, same in zip(one.pairs, other.pairs, strict=True)}  # fmt: skip
    names = {arm: [f"{arm}-{seed}" for seed in range(4)] for arm in ("sgd", "adamw")}

    def mean(left, right):
        return np.mean([difference[frozenset(pair)] for pair in itertools.product(left, right)])

    left, right = names["sgd"], names["adamw"]
    samples = [
        [mean([name for name in left if name != out], right) for out in left],
        [mean(left, [name for name in right if name != out]) for out in right],
    ]
    variance = sum(3 / 4 * np.sum((np.array(sample) - np.mean(sample)) ** 2) for sample in samples)
    part = found["sgd", "adamw"].overlap
    reach = stats.t.ppf(0.975, 3) * math.sqrt(variance)
    assert part.value == pytest.approx(mean(left, right)) and variance > 0.0
    assert part.interval == pytest.approx((max(-3.0, part.value - reach), min(3.0, part.value + reach)))
    assert all(one.overlap.value == 0.0 and one.overlap.interval is None for one in compare_agreement(one, one))


def test_equal_runs_agree_in_full_and_have_no_interval_to_boast_of():
    found = {f"run {number}": WRONG for number in range(3)}
    (only,) = measure_agreement(found).arms
    assert (only.first, only.second, only.pairs) == ("all", "all", 3)
    assert (only.overlap.value, only.overlap.interval) == (3.0, None)
    assert only.full == 1.0 and only.spearman.value == pytest.approx(1.0)


def test_a_spread_that_is_only_rounding_makes_no_interval():
    found = {f"run {place}": made(np.eye(7)[place // 2] + 1.0) for place in range(6)}  # each run has one equal
    (only,) = measure_agreement(found, num_top=1).arms
    assert (only.overlap.value, only.overlap.interval) == (pytest.approx(0.2), None)


def test_too_few_seeds_have_no_interval():
    two = dict(itertools.islice(runs().items(), 2))
    (part,) = measure_agreement(two).arms
    assert part.pairs == 1 and part.overlap.interval is None
    single = measure_agreement(two, {name: name for name in two}).arms
    assert [(part.first, part.second, part.overlap.interval) for part in single] == [("sgd-0", "sgd-1", None)]


def test_shares_that_are_all_equal_have_no_rank_correlation():
    agreement = measure_agreement({"a": made([1] * 7), "b": WRONG})
    assert agreement.pairs[0].spearman is None and agreement.arms[0].spearman is None
    assert json.loads(json.dumps(agreement.to_dict(), allow_nan=False))["pairs"][0]["spearman"] is None


def test_more_top_groups_than_there_are_is_all_of_them():
    agreement = measure_agreement({"a": WRONG, "b": OTHER}, num_top=9)
    assert (agreement.num_top, agreement.full_by_chance, agreement.pairs[0].overlap) == (7, pytest.approx(1.0), 7)


def test_agreement_takes_two_runs_of_the_same_groups():
    with pytest.raises(AttributionError, match="two runs at least"):
        measure_agreement({"a": WRONG})
    with pytest.raises(AttributionError, match="a and b have different layer groups"):
        measure_agreement({"a": WRONG, "b": made([1, 2, 3], names=("a", "b", "c"))})
