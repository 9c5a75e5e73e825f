"""Claims about the comparison of the chosen groups with the controls: what decides, and what does not."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from hf_critmom.attribution.doubtful_labels import DoubtfulLabel
from hf_critmom.experiments.repair.advantages import BETTER, UNDECIDED, WORSE, judge_advantages
from hf_critmom.experiments.repair.page import write_repair_page
from hf_critmom.experiments.repair.report import write_repair_report
from hf_critmom.experiments.repair.results import DoubtfulLabels, Repair, read_repair
from hf_critmom.experiments.repair.sentences import (
    budget_finding,
    control_findings,
    label_findings,
    outcome,
    reading_findings,
)
from hf_critmom.experiments.repair.tables import treatment_table
from hf_critmom.experiments.repair.targets import targets_by_role
from hf_critmom.experiments.repair.verification import MCNEMAR, Verification, mcnemar

COMMITTED = Path(__file__).parents[3] / "model_cards" / "repair-cifar10-30epochs"


def with_nets(repair: Repair, role: str, nets: list[int]) -> Repair:
    """The repair as if a role's treatments had broken nothing, and fixed as many items as given."""
    treatments = [
        replace(one, verification=replace(one.verification, fixed=net, broken=0, pvalue=1.0, test="", classes=()),
                changed=({"index": 0, "label": 0, "before": 0, "after": 0, "change": "fixed"},) * net)
        for one, net in zip(repair.roles[role], nets, strict=True)
    ]  # fmt: skip
    return replace(repair, roles={**repair.roles, role: treatments})


def test_seeds_without_spread_decide_nothing() -> None:
    found = judge_advantages({"a": [3, 3], "b": [-3, -3, -3], "c": [0, 0], "d": [5], "e": []})
    assert {one.status for one in found.values()} == {UNDECIDED}
    assert "same difference" in found["a"].reason and "same difference" in found["b"].reason
    repair = with_nets(with_nets(read_repair(COMMITTED), "chosen", [9, 8, 7]), "last_layer", [6, 5, 4])
    (said,) = (one for one in control_findings(repair) if one.startswith("Against last_layer"))
    assert "undecided with 3 seeds; net +3.0 items on average; every seed gave the same difference" in said
    assert "interval" not in said


def test_a_control_of_another_size_is_told_from_one_of_the_same_size() -> None:
    repair = read_repair(COMMITTED)
    counts = {name: group.parameters for name, group in repair.choice.attribution.groups.items()}
    assert repair.num_trained(repair.roles["whole"][0]) == sum(counts.values())
    rows = {row[0]: row[2] for row in treatment_table(repair).rows}
    drawn = [sum(counts[name] for name in one.groups) for one in repair.roles["random"]]
    assert rows["random"] == f"{min(drawn):,} to {max(drawn):,}" and rows["last_layer"] == f"{counts['fc']:,}"
    assert rows["chosen"] == rows["parameters"] == f"{repair.num_trained(repair.roles['parameters'][0]):,}"
    *_, said = reading_findings(repair)
    assert "fewer in random, relative_norm and last_layer and more in whole: a difference" in said
    alike = replace(repair, roles={role: repair.roles[role] for role in ("chosen", "parameters")})
    assert reading_findings(alike) == []


def test_every_further_control_makes_a_decision_harder() -> None:
    clear, close = [100, 101, 102], [10, 14, 20]
    assert judge_advantages({"a": close})["a"].status == BETTER
    found = judge_advantages({"a": close, "b": [-5, 6, 1], "c": [3, -4, 2]})
    assert found["a"].interval == judge_advantages({"a": close})["a"].interval and found["a"].interval.low > 0.0
    assert found["a"].status == UNDECIDED and found["a"].reason == "the correction for 3 controls leaves it open"
    found = judge_advantages({"a": close, "b": clear, "c": [-one for one in clear]})  # Holm: 0.05 for the last one
    assert {role: one.status for role, one in found.items()} == {"a": BETTER, "b": BETTER, "c": WORSE}


def test_where_the_groups_make_no_difference_one_repair_in_twenty_decides_for_any_control() -> None:
    rng = np.random.default_rng(0)
    decided = 0
    for _ in range(1000):
        nets = rng.normal(0.0, 100.0, (5, 3)).round().astype(int)
        found = judge_advantages({str(place): of_role.tolist() for place, of_role in enumerate(nets)})
        decided += any(one.status != UNDECIDED for one in found.values())
    assert decided / 1000 == pytest.approx(0.05, abs=0.02)


def test_the_card_says_what_an_interval_and_a_decision_hold_for(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED, tmp_path / "repair", ignore=shutil.ignore_patterns("figures", "*.html"))
    repair = read_repair(tmp_path / "repair")
    write_repair_report(repair)
    assert "with Holm's correction for all 5 controls" in " ".join(
        ModelCard.load(tmp_path / "repair" / "README.md").text.split()
    )
    assert "correction for all 5 controls" in (tmp_path / "repair" / "report.html").read_text()
    statuses = {role: one.status for role, one in repair.advantages().items()}
    assert statuses == {
        "random": BETTER, "relative_norm": BETTER, "last_layer": BETTER, "whole": WORSE, "parameters": WORSE
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- choices of the controls


def test_controls_choose_among_the_groups_that_can_be_trained() -> None:
    repair = read_repair(COMMITTED)
    attribution, chosen = repair.choice.attribution, repair.choice.groups
    others = [name for name in attribution.groups if name not in chosen]
    assert "fc" in others
    kept = {name: group for name, group in attribution.groups.items() if name in (*chosen, others[0])}
    whole = sum(group.share for group in kept.values())
    kept = {name: replace(group, share=group.share / whole) for name, group in kept.items()}
    frozen = {name: 1 for name in attribution.groups if name not in kept}
    choice = replace(repair.choice, attribution=replace(attribution, groups=kept, frozen=frozen))
    targets = targets_by_role(replace(repair.plan, seeds=tuple(range(20))), choice)
    assert all(set(one.groups) <= set(kept) for role in targets for one in targets[role])
    assert targets["last_layer"][0].groups == (list(kept)[-1],)
    assert targets["whole"][0].groups == tuple(kept)


def test_a_control_without_a_choice_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    repair = read_repair(COMMITTED)
    choice = replace(repair.choice, groups=tuple(repair.choice.attribution.groups))
    targets = targets_by_role(repair.plan, choice)
    assert "random" not in targets and "relative_norm" not in targets
    roles = {role: of_role for role, of_role in repair.roles.items() if role in targets}
    repair = replace(repair, choice=choice, roles=roles, folder=tmp_path)
    said, page = control_findings(repair), write_repair_page(repair).read_text()
    assert "Against whole: it chose the same groups." in said and "Against whole: it chose the same groups." in page
    for role in ("random", "relative_norm"):
        assert f"Against {role}: there is no such choice, because all groups that can be trained were chosen." in said
        assert f"Against {role}: there is no such choice" in page


def test_the_budget_is_that_of_a_treatment_that_reached_its_end() -> None:
    repair = read_repair(COMMITTED)
    steps = repair.roles["chosen"][0].steps
    assert budget_finding(repair).endswith(f"same budget: {steps:,} steps on the training split.")
    diverged = [
        replace(one, status="diverged", verification=None, changed=(), steps=3) for one in repair.roles["chosen"]
    ]
    repair = replace(repair, roles={**repair.roles, "chosen": diverged})
    assert f"same budget: {steps:,} steps" in budget_finding(repair) and "stopped before" in budget_finding(repair)
    short = replace(repair, roles={"chosen": [replace(read_repair(COMMITTED).roles["chosen"][0], steps=1)]})
    assert budget_finding(short) == "Every treatment had the same budget: 1 step on the training split."
    assert "Every treatment diverged" in budget_finding(replace(repair, roles={"chosen": diverged}))


@pytest.mark.parametrize(
    ("right_before", "fixed", "broken", "said"),
    [
        (38, 2, 3, "2 were wrong: 2 of them were fixed, and 3 that had been right were broken, net -1"),
        (38, 1, 1, "2 were wrong: 1 of them was fixed, and 1 that had been right was broken, net +0"),
        (39, 1, 0, "1 was wrong: it was fixed, and 0 that had been right were broken, net +1"),
        (39, 0, 1, "1 was wrong: it was not fixed, and 1 that had been right was broken, net -1"),
        (40, 0, 2, "none was wrong, and 2 that had been right were broken, net -2"),
    ],
)
def test_the_outcome_of_few_items_is_a_sentence_too(right_before: int, fixed: int, broken: int, said: str) -> None:
    repair = read_repair(COMMITTED)
    found = Verification(40, right_before, fixed, broken, mcnemar(fixed, broken), MCNEMAR)
    item = {"index": 0, "label": 0, "before": 0, "after": 0}
    changed = ({**item, "change": "fixed"},) * fixed + ({**item, "change": "broken"},) * broken
    first = replace(repair.roles["chosen"][0], verification=found, changed=changed)
    repair = replace(repair, roles={**repair.roles, "chosen": [first]})
    assert outcome(repair).startswith(f"Of 40 test items, {said}; accuracy")


@pytest.mark.parametrize(
    ("wrong", "doubtful", "said"),
    [
        (1, 0, "Of 1 misclassified example of the validation split, none has a doubtful label by confident learning "
               "(cleanlab). The network"),
        (3, 1, "Of 3 misclassified examples of the validation split, 1 has a doubtful label by confident learning "
               "(cleanlab): check it before"),
        (3, 2, "Of 3 misclassified examples of the validation split, 2 have a doubtful label by confident learning "
               "(cleanlab): check those before"),
    ],
)  # fmt: skip
def test_only_labels_that_are_doubtful_are_to_be_checked(wrong: int, doubtful: int, said: str) -> None:
    labels = DoubtfulLabels("validation", wrong, 40, (DoubtfulLabel(0, 1, 2, 0.05),) * doubtful)
    assert label_findings(labels)[0].startswith(said)
