"""Claims about the verification of a repair: its counts and its test."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.attribution.predictions import Predictions
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.verification import Verification, changed_items, mcnemar, verify

# -------------------------------------------------------------------------------------------------------------- verify


def naive_mcnemar(fixed: int, broken: int) -> float:
    n, low = fixed + broken, min(fixed, broken)
    return min(1.0, 2.0 * sum(math.comb(n, k) for k in range(low + 1)) / 2.0**n)


@pytest.mark.parametrize(
    ("fixed", "broken", "pvalue"),
    [(6, 16, 0.0525), (1, 0, 1.0), (0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (62, 40, 0.0368)],
)
def test_mcnemar_on_known_tables(fixed: int, broken: int, pvalue: float) -> None:
    assert mcnemar(fixed, broken) == pytest.approx(pvalue, abs=6e-4)
    assert mcnemar(fixed, broken) == pytest.approx(naive_mcnemar(fixed, broken), rel=1e-9)


def predictions_of(labels: list[int], predicted: list[int]) -> Predictions:
    return Predictions(np.array(labels), np.array(predicted))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=60))
def test_every_example_is_counted_once_and_where_it_belongs(items: list[tuple[int, int, int]]) -> None:
    labels, first, second = (list(column) for column in zip(*items, strict=True))
    before, after = predictions_of(labels, first), predictions_of(labels, second)
    found = verify(before, after)
    assert found.items == len(items)
    assert found.fixed == sum(one != label and two == label for label, one, two in items)
    assert found.broken == sum(one == label and two != label for label, one, two in items)
    assert found.accuracy_before == before.accuracy and found.accuracy_after == pytest.approx(after.accuracy)
    assert found.pvalue == pytest.approx(naive_mcnemar(found.fixed, found.broken), rel=1e-9)
    for name in ("items", "right_before", "fixed", "broken"):
        assert sum(getattr(change, name) for change in found.classes) == getattr(found, name)
    changed = changed_items(before, after)
    assert [item["change"] for item in changed].count("fixed") == found.fixed
    assert [item["change"] for item in changed].count("broken") == found.broken
    for item in changed:
        assert items[item["index"]] == (item["label"], item["before"], item["after"])
    assert Verification.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    undone = verify(after, before)
    assert (undone.fixed, undone.broken, undone.pvalue) == (found.broken, found.fixed, pytest.approx(found.pvalue))


def test_tokens_are_counted_where_they_have_labels_and_tested_by_text() -> None:
    labels = np.array([[-100, 1, 2, 3], [-100, 1, 2, -100], [-100, 3, 3, 3]])
    before = Predictions(labels, np.array([[0, 1, 0, 0], [9, 1, 0, 7], [0, 3, 3, 0]]))
    after = Predictions(labels, np.array([[5, 1, 2, 3], [5, 1, 2, 3], [0, 0, 3, 3]]))
    found = verify(before, after)
    assert (found.items, found.right_before, found.fixed, found.broken) == (8, 4, 4, 1)
    nets = np.array([2.0, 1.0, 0.0])
    t = nets.mean() / (nets.std(ddof=1) / math.sqrt(3))
    assert found.test == "paired t test over texts"
    assert found.pvalue == pytest.approx(1.0 - t / math.sqrt(2.0 + t * t))  # Student's t of two degrees of freedom
    assert {"index": 2, "token": 1, "label": 3, "before": 3, "after": 0, "change": "broken"} in changed_items(
        before, after
    )


def test_what_many_short_texts_gain_does_not_decide_against_what_a_long_one_loses() -> None:
    labels = np.full((11, 41), -100)
    labels[:10, 1], labels[10, 1:] = 1, 1  # ten texts of a token, and one of forty
    predicted = np.ones_like(labels)
    predicted[:10] = 0
    broken = np.ones_like(labels)
    broken[0, 1], broken[10, 1:31] = 0, 0
    found = verify(Predictions(labels, predicted), Predictions(labels, broken))
    assert (found.fixed, found.broken, found.net) == (9, 30, -21)
    assert found.pvalue > 0.05  # the mean over texts of their accuracies rises, and would have a p-value below
    undone = verify(Predictions(labels, broken), Predictions(labels, predicted))
    assert (undone.net, undone.pvalue) == (21, pytest.approx(found.pvalue))


def test_predictions_of_other_items_cannot_verify() -> None:
    with pytest.raises(RepairError, match="not of the same items"):
        verify(predictions_of([0, 1], [0, 1]), predictions_of([1, 0], [0, 1]))
