"""Claims about what reports say of problem groups: why they cannot be told, and what earlier results rest on."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from hf_critmom.attribution import Attribution, GroupGradient
from hf_critmom.experiments.diagnosis.page import _headlines
from hf_critmom.experiments.diagnosis.results import Result, read_results
from hf_critmom.experiments.diagnosis.study import Study
from hf_critmom.experiments.diagnosis.tables import ratios_explained, study_findings, summary_table

CARDS = Path(__file__).parents[3] / "model_cards"


def attribution(selected: int, units: int, names: str = "abcd") -> Attribution:
    share = 1.0 / len(names)
    groups = {name: GroupGradient(math.sqrt(share), share, None, None, 1.0, 10) for name in names}
    return Attribution(
        groups, {}, "misclassified", "examples", selected, 1000, 3, 1.0, units, units, signal_shares=True
    )


def headline(study: Study) -> str:
    (found,) = _headlines([Result("run", None, None, "0", 10, (study,))], {})
    assert found.word == "cannot be told"
    return found.sentence


def test_the_headline_says_why_problem_groups_cannot_be_told() -> None:
    few = attribution(3, 3)
    assert headline(Study(few)) == "Problem groups cannot be told without controls."
    there = "Problem groups cannot be told: there "
    assert headline(Study(few, few)) == f"{there}are too few misclassified examples (3)."
    assert "choose a smaller gradient batch size" in headline(Study(attribution(90, 1), attribution(90, 1)))
    assert headline(Study(*[attribution(90, 16, "a")] * 2)) == f"{there}is a single layer group."


def test_a_table_names_no_agreement_where_all_groups_are_top_groups() -> None:
    found = attribution(90, 16, "abc")
    for study, expected in ((Study(found, found), "-"), (Study(found, found, num_top=1), "correct")):
        assert summary_table([Result("run", None, None, "0", 10, (study,))]).rows[0][-1] == expected


@pytest.mark.parametrize("card", ["attribution-cifar10-constant-adamw", "attribution-cifar10-ten-pairs"])
def test_stored_results_keep_their_problem_groups_and_say_that_their_ratios_hold_noise(card: str) -> None:
    stored = json.loads((CARDS / card / "attribution.json").read_text(encoding="utf-8"))
    results = read_results(CARDS / card).checkpoints
    for result, kept in zip(results, stored["checkpoints"], strict=True):
        diagnosis, earlier = result.studies[0].diagnosis, kept["studies"][0]["diagnosis"]
        assert list(diagnosis.problem or ()) == earlier["problem"] and not diagnosis.without_noise
        for name, contrast in diagnosis.contrast.items():
            assert dataclasses.asdict(contrast)["ratio"] == pytest.approx(earlier["contrast"][name]["ratio"])
            assert contrast.interval == pytest.approx(earlier["contrast"][name]["interval"])
        said = study_findings(result)[-1]
        assert said.startswith("By shares that hold the noise of finitely many examples, ") and "chance" not in said
    assert "do not hold their level" in ratios_explained(results)
