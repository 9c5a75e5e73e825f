"""Claims about the choice of groups: it rests on intervals where examples are few, and says what was not tested."""

from pathlib import Path

import pytest
from helpers.small_repairs import small_classifier, small_repair

from hf_critmom.attribution.problems import Diagnosis
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.selection import SELECTIONS, Evidence


def test_a_small_diagnosis_split_still_has_intervals_and_a_test_of_problem_groups(tmp_path: Path) -> None:
    model, batch = small_classifier(steps=200), {"per_device_eval_batch_size": 500}
    repair = small_repair(tmp_path, model, diagnosis=200, settings=RepairSettings(), **batch)
    found = repair.choice.attribution
    assert found.total == 200 and found.units == 16 and found.select == "misclassified"
    assert found.misclassified == found.selected and found.accuracy == pytest.approx(1.0 - found.selected / 200)
    assert all(group.share_interval is not None for group in found.groups.values())
    assert repair.choice.diagnosis.problem is not None and "could not be tested" not in repair.choice.reason


@pytest.mark.parametrize("same", [True, False])
def test_the_reason_says_that_nothing_was_tested_and_why(tmp_path: Path, same: bool) -> None:
    attribution = small_repair(tmp_path, settings=RepairSettings()).choice.attribution
    few = {name: object() for name in attribution.groups}
    for contrast, controls, why in (
        (few, {"correct": ("a", "b") if same else ("c", "d")}, "there are too few examples"),
        ({}, {}, "the classes with errors have none"),
    ):
        diagnosis = Diagnosis(("a", "b"), ("a",), None, contrast, controls, {"misclassified": 3}, 0.95)  # type: ignore[arg-type]
        reason = SELECTIONS["gradient"].choose(Evidence(attribution, diagnosis, dict, None)).reason
        assert f"could not be tested, because {why}." in reason
        assert ("as they have on correctly classified ones" in reason) == (same and bool(controls))
        assert "no group stands out" not in reason
