"""Claims about shares without noise: they are the population's, and a rule that rests on them holds its level."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.attributions import loader_of
from scipy import stats

from hf_critmom.attribution import Attribution, AttributionError, GroupGradient, attribute_gradients, diagnose, predict
from hf_critmom.attribution import gradients as gradients_module
from hf_critmom.attribution.bootstrap import share_intervals
from hf_critmom.attribution.signal import signal_shares

SIZES = (20, 20, 60, 100, 150, 200, 50)
PARTS = [slice(stop - size, stop) for size, stop in zip(SIZES, np.cumsum(SIZES), strict=True)]
NOISE = np.concatenate([np.full(n, c / math.sqrt(n)) for n, c in zip(SIZES, (1, 1, 1, 2, 3, 4, 1), strict=True)])


def population(rng):
    """A mean gradient whose groups have different shares."""
    lengths = (1.0, 1.2, 0.8, 0.7, 0.9, 1.1, 1.0)
    return np.concatenate([rng.normal(size=n) / math.sqrt(n) * a for n, a in zip(SIZES, lengths, strict=True)])


def drawn(rng, mean, count=100, noise=1.0, units=16):
    """Units of examples of a population."""
    sizes = [len(part) for part in np.array_split(np.arange(count), units)]
    return [(n, n * mean + math.sqrt(n) * noise * NOISE * rng.normal(size=mean.size)) for n in sizes]


def attributed(units, bootstrap=False):
    whole = sum(vector for _, vector in units)
    norms = np.array([np.linalg.norm(whole[part]) for part in PARTS])
    shares = (norms**2 / (norms**2).sum()).tolist()
    intervals, errors = [None] * len(PARTS), [None] * len(PARTS)
    if bootstrap:
        intervals, errors = share_intervals(units, PARTS, shares, confidence=0.95, seed=0)
    groups = {}
    for place, signal in enumerate(signal_shares(units, PARTS, norms)):
        groups[f"g{place}"] = GroupGradient(
            float(norms[place]), shares[place], intervals[place], errors[place], None, SIZES[place], *(signal or ())
        )
    count = sum(number for number, _ in units)
    return Attribution(
        groups, {}, "given", "examples", count, 10 * count, None, 1.0, len(units), len(units), signal_shares=True
    )


def without_estimates(attribution):
    """As an earlier version stored it."""
    groups = {name: replace(group, signal_share=None, signal_error=None) for name, group in attribution.groups.items()}
    return replace(attribution, groups=groups, signal_shares=False)


def test_the_estimate_of_a_squared_norm_is_without_bias():
    """The reference twin: products of the gradients of any two different units."""
    rng = np.random.default_rng(0)
    units = drawn(rng, population(rng), 37, units=5)
    norms = [np.linalg.norm(sum(vector for _, vector in units)[part]) for part in PARTS]
    found = signal_shares(units, PARTS, np.array(norms))

    def squares(left_out=None):
        kept = [unit for place, unit in enumerate(units) if place != left_out]
        pairs = [(one, other) for one in range(len(kept)) for other in range(len(kept)) if one != other]
        weight = sum(kept[one][0] * kept[other][0] for one, other in pairs)
        return np.array(
            [sum(kept[one][1][part] @ kept[other][1][part] for one, other in pairs) / weight for part in PARTS]
        )

    expected = squares() / squares().sum()
    logs = np.array([np.log(squares(place) / squares(place).sum()) for place in range(5)])
    errors = np.sqrt(4 / 5 * ((logs - logs.mean(axis=0)) ** 2).sum(axis=0))
    assert [share for share, _ in found] == pytest.approx(expected.tolist())
    assert [error for _, error in found] == pytest.approx(errors.tolist())


@pytest.mark.parametrize("units", [5, 16])
@pytest.mark.parametrize(
    ("signal", "noise", "count"), [(1.0, 1.0, 100), (0.5, 1.0, 100), (0.25, 0.5, 100), (0.2, 1.0, 100), (1.0, 1.0, 30)]
)
def test_a_group_is_named_beyond_its_level_by_shares_with_noise_only(signal, noise, count, units):
    """Both populations have the same shares, while the correct ones have less gradient, or there are fewer of them."""
    rng = np.random.default_rng(3)
    mean, rounds = population(rng), 100
    named = missed = 0
    for _ in range(rounds):
        wrong = attributed(drawn(rng, mean, units=units))
        diagnosis = diagnose(wrong, correct=attributed(drawn(rng, signal * mean, count, noise, units)))
        named += bool(diagnosis.problem)
        intervals = [one.interval for one in diagnosis.contrast.values() if one.interval is not None]
        missed += any(not low <= 1.0 <= high for low, high in intervals)
    limit = stats.binom.ppf(0.999, rounds, 0.05)
    assert missed <= limit and named <= limit


def test_shares_with_noise_name_groups_that_are_none():
    """Why they are not used: what earlier versions did, on the same populations."""
    rng = np.random.default_rng(3)
    mean = population(rng)
    stored = []
    for _ in range(20):
        wrong, right = drawn(rng, mean), drawn(rng, 0.2 * mean)
        wrong, right = (without_estimates(attributed(units, bootstrap=True)) for units in (wrong, right))
        stored.append(diagnose(wrong, correct=right))
    missed = [any(not c.interval[0] <= 1.0 <= c.interval[1] for c in one.contrast.values()) for one in stored]
    assert sum(missed) > 10
    said = " ".join(stored[0].findings())
    assert not stored[0].without_noise and "By shares that hold the noise of finitely many examples, " in said
    assert "Beyond chance" not in said


def test_a_true_difference_is_found():
    rng = np.random.default_rng(0)
    mean = population(rng)
    other = mean.copy()
    other[PARTS[5]] *= 0.3
    diagnosis = diagnose(attributed(drawn(rng, mean, 400)), correct=attributed(drawn(rng, other, 400)))
    assert diagnosis.without_noise and "g5" in diagnosis.problem and diagnosis.reason is None
    low, high = diagnosis.contrast["g5"].interval
    shares = [np.sum(vector[PARTS[5]] ** 2) / np.sum(vector**2) for vector in (mean, other)]
    assert low < shares[0] / shares[1] < high
    assert "Beyond chance, misclassified examples put more" in diagnosis.findings()[-1]


def test_where_noise_hides_the_gradient_it_cannot_be_told():
    rng = np.random.default_rng(1)
    mean = population(rng)
    right = hidden(attributed(drawn(rng, 0.0 * mean)), *(f"g{place}" for place in range(7)))
    assert sum(one.signal_share is None for one in attributed(drawn(rng, 0.0 * mean)).groups.values()) >= 3
    diagnosis = diagnose(attributed(drawn(rng, mean)), correct=right)
    assert diagnosis.problem is None and diagnosis.undecided == diagnosis.dominant
    assert diagnosis.findings()[-1].endswith(
        "cannot be told: the noise of finitely many examples hides the gradient there, and more of them may show it."
    )
    assert json.loads(json.dumps(diagnosis.to_dict()))["reason"] == diagnosis.reason


def hidden(attribution, *names):
    """Without estimates for some groups, as where noise hides their gradient."""
    groups = {
        name: replace(group, signal_share=None, signal_error=None) if name in names else group
        for name, group in attribution.groups.items()
    }
    return replace(attribution, groups=groups)


def test_what_was_decided_and_what_was_not_are_both_said():
    rng = np.random.default_rng(0)
    mean = population(rng)
    other = mean.copy()
    other[PARTS[5]] *= 0.3
    wrong, right = attributed(drawn(rng, mean, 400)), attributed(drawn(rng, other, 400))
    unknown = next(name for name in diagnose(wrong).dominant if name != "g5")
    right = hidden(right, unknown)
    diagnosis = diagnose(wrong, correct=right)
    assert diagnosis.problem == ("g5",) and diagnosis.undecided == (unknown,)
    assert diagnosis.contrast[unknown].ratio is None and diagnosis.contrast[unknown].interval is None
    assert diagnosis.findings()[-1].startswith(f"Of {unknown}, that cannot be told: the noise")
    diagnosis = diagnose(hidden(right, "g5"), correct=hidden(right, "g5"))
    assert diagnosis.problem is None and "there is no problem group" not in " ".join(diagnosis.findings())


def test_why_it_cannot_be_told_is_said_as_it_is(model, task):
    loader = loader_of(task, 160)
    wrong = predict(model, loader).wrong
    one_batch = attribute_gradients(model, loader, select=wrong, batch_size=500)
    few = attribute_gradients(model, loader, select=wrong & (np.cumsum(wrong) <= 3))
    right = attribute_gradients(model, loader, select=~wrong)
    said = diagnose(one_batch, correct=right).findings()[-1]
    assert f"the gradients of {wrong.sum()} misclassified examples were summed in 1 batch, and" in said
    assert "choose a smaller gradient batch size" in said
    assert "there are too few misclassified examples (3)" in diagnose(few, correct=right).findings()[-1]
    whole = [attribute_gradients(model, loader, groups={"all": "."}, select=mask) for mask in (wrong, ~wrong)]
    diagnosis = diagnose(whole[0], correct=whole[1])
    assert diagnosis.problem is None and "there is a single layer group" in diagnosis.findings()[-1]


def test_where_all_groups_are_top_groups_their_agreement_is_left_out(model, loader):
    groups = ["body=layer", "ends=."]
    wrong, right = (
        attribute_gradients(model, loader, groups=groups, select=name) for name in ("misclassified", "correct")
    )
    diagnosis = diagnose(wrong, correct=right, initial=right)
    assert diagnosis.same_groups == {} and set(diagnosis.controls) == {"correct", "initial"}
    said = " ".join(diagnosis.findings())
    assert "same top groups" not in said and "the largest first" in said
    assert diagnose(wrong, correct=right, initial=right, num_top=1).same_groups.keys() == {"correct", "initial"}


def test_sketched_groups_have_nearly_the_estimates_of_whole_ones(model, loader, monkeypatch):
    exact = attribute_gradients(model, loader, batch_size=6)
    monkeypatch.setattr(gradients_module, "SKETCH_SIZE", 1024)
    sketched = attribute_gradients(model, loader, batch_size=6)
    found = 0
    for name, group in exact.groups.items():
        other = sketched.groups[name]
        if group.signal_share is not None and other.signal_share is not None:
            assert other.signal_share == pytest.approx(group.signal_share, rel=0.25)
            assert other.signal_error == pytest.approx(group.signal_error, rel=0.5)
            found += 1
    assert found >= 4
    assert Attribution.from_dict(exact.to_dict()) == exact
    stored = exact.to_dict()
    stored["groups"]["fc"]["signal_error"] = None
    with pytest.raises(AttributionError, match="signal_share"):
        Attribution.from_dict(stored)
