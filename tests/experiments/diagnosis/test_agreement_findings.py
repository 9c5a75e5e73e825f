"""Claims about what is said of agreement: only what the intervals of the differences to all controls decide."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hf_critmom.attribution import Attribution, GroupGradient, measure_agreement
from hf_critmom.experiments.diagnosis.tables import AgreementFinding, agreement_by_chance, agreement_findings

COMMITTED = Path(__file__).parents[3] / "model_cards" / "attribution-cifar10-ten-pairs"
GROUPS = ("a", "b", "c", "d", "e", "f", "g")
RUNS = [f"{arm}-{seed}" for arm in ("sgd", "adamw") for seed in range(6)]


def attributions(*, same: float, seed: int = 0) -> dict[str, Attribution]:
    """One for each run: with this probability the first three groups are its largest, else any three."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in RUNS:
        top = np.array([0, 1, 2]) if rng.random() < same else rng.choice(7, 3, replace=False)
        shares = rng.uniform(0.5, 1.0, 7)
        shares[top] += 10.0
        shares /= shares.sum()
        groups = {group: GroupGradient(math.sqrt(share), share, None, 0.1, 1.0, 10)
                  for group, share in zip(GROUPS, shares.tolist(), strict=True)}  # fmt: skip
        found[name] = Attribution(groups, {}, "misclassified", "examples", 100, 1000, 100, 1.0, 16, 16)
    return found


def finding(chosen: float, correct: float, initial: float, arms: dict[str, str] | None = None) -> AgreementFinding:
    arms = {name: name.split("-")[0] for name in RUNS} if arms is None else arms
    levels = {"misclassified": chosen, "correct": correct, "initial": initial}
    (found,) = agreement_findings(
        {
            name: measure_agreement(attributions(same=level, seed=place), arms)
            for place, (name, level) in enumerate(levels.items())
        }
    )
    return found


def test_more_than_every_control_is_agreement() -> None:
    found = finding(0.9, 0.1, 0.1)
    assert found.word == "agreement" and found.statement == "The runs' mistakes agree more than their controls do."
    assert found.sentence.startswith("Between sgd and adamw (36 pairs), ")
    assert "So the runs' mistakes lie in the same layers" in found.sentence


@pytest.mark.parametrize(("correct", "initial", "named"), [(1.0, 0.1, "on correctly"), (0.1, 1.0, "in untrained")])
def test_less_than_one_control_is_no_evidence(correct: float, initial: float, named: str) -> None:
    found = finding(0.3, correct, initial)
    assert found.word == "no evidence" and "There is no evidence that the runs' mistakes" in found.sentence
    assert f"agreement is no greater than {named}" in found.sentence


def test_what_the_intervals_leave_open_is_not_decided() -> None:
    found = finding(0.6, 0.6, 0.1)
    assert found.word == "cannot be told"
    assert found.statement == "Whether the runs' mistakes agree more than their controls do is not decided."
    assert "cannot be told from that on correctly classified examples" in found.sentence


def test_the_runs_of_one_arm_are_compared_with_one_another() -> None:
    found = finding(0.9, 0.1, 0.1, arms={})
    assert found.sentence.startswith("Among the runs (66 pairs), ") and found.word == "agreement"


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_too_few_runs_decide_nothing(level: float) -> None:
    two = ("sgd-0", "adamw-0")
    agreements = {}
    for place, (name, same) in enumerate({"misclassified": 1.0, "correct": level}.items()):
        found = attributions(same=same, seed=place)
        agreements[name] = measure_agreement({run: found[run] for run in two}, {run: run for run in two})
    assert agreements["correct"].pairs[0].overlap in ((3,) if level else (0, 1, 2))
    (said,) = agreement_findings(agreements)
    assert said.word == "cannot be told" and said.sentence.startswith("Between sgd-0 and adamw-0 (1 pair), 3.00 of 3 ")
    assert agreement_findings({"misclassified": agreements["misclassified"]}) == []


def test_where_every_group_is_a_top_group_nothing_can_be_told_apart() -> None:
    agreements = {
        name: measure_agreement(attributions(same=same), num_top=7)
        for name, same in {"misclassified": 1.0, "correct": 0.0}.items()
    }
    (said,) = agreement_findings(agreements)
    assert said.word == "cannot be told"
    assert agreement_by_chance(agreements).startswith("All 7 groups count as top groups, ")


def test_the_committed_figures_of_ten_pairs_follow_from_the_shares() -> None:
    checkpoints = json.loads((COMMITTED / "attribution.json").read_text())["checkpoints"]
    top: dict[str, dict[str, list[set[str]]]] = {}
    for one in checkpoints:
        for kind in ("attribution", "correct", "initial"):
            groups = one["studies"][0][kind]["groups"]
            shares = {name: group["share"] for name, group in groups.items()}
            chosen = set(sorted(shares, key=lambda name: -shares[name])[:3])
            top.setdefault(kind, {}).setdefault(one["arm"], []).append(chosen)
    shared = {kind: np.array([[len(one & other) for other in arms["adamw"]] for one in arms["constant"]])
              for kind, arms in top.items()}  # fmt: skip
    chosen, correct, initial = (shared[kind] for kind in ("attribution", "correct", "initial"))
    assert chosen.shape == (10, 10) and chosen.mean().round(2) == 1.80 and chosen.max() < 3
    for difference, expected in ((chosen - correct, (0.10, -0.13, 0.33)), (chosen - initial, (-0.78, -1.18, -0.38))):
        variance = 0.0
        for axis in (0, 1):
            left_out = [np.delete(difference, place, axis).mean() for place in range(10)]
            variance += 9 / 10 * np.sum((left_out - np.mean(left_out)) ** 2)
        reach = stats.t.ppf(0.975, 9) * math.sqrt(variance)
        middle = difference.mean()
        assert [round(value, 2) for value in (middle, middle - reach, middle + reach)] == list(expected)
