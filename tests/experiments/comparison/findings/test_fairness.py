"""Claims about what a report tells of the steps of arms: their size, what weight decay does to them, and clipping."""

import math
from typing import Any

import pytest
from helpers.tables_by_hand import result_of, run_of

from hf_critmom.damping import mean_integrated_step
from hf_critmom.experiments.comparison.arms.arm import ARMS
from hf_critmom.experiments.comparison.findings.fairness import compare_steps


def run(arm: str, seed: int = 0, **content: Any) -> Any:
    return result_of({**run_of([0.5, 0.9], arm=arm, seed=seed), **content})


def log(lrs: list[float], momenta: list[float], norms: list[float] | None = None) -> list[dict[str, float]]:
    norms = norms or [1.0] * len(lrs)
    return [
        {"loss": 1.0, "learning_rate": lr, "momentum": momentum, "grad_norm": norm, "step": step}
        for step, (lr, momentum, norm) in enumerate(zip(lrs, momenta, norms, strict=True), start=1)
    ]


def arms(*names: str) -> dict[str, Any]:
    return {name: ARMS[name] for name in names}


def test_steps_and_decay_are_related_to_the_baselines() -> None:
    runs = [
        run("constant", integrated_step=1.0, shrinkage=5e-4),
        run("constant", 1, integrated_step=0.8, shrinkage=3e-4),
        run("critmom", integrated_step=0.18, shrinkage=8e-5),
        run("adamw", integrated_step=1e-3, shrinkage=4e-5),
    ]
    found = compare_steps(runs, arms("constant", "critmom", "adamw"), "constant", 0.0)
    constant, critmom, adamw = found.arms
    assert (constant.integrated, constant.shrinkage) == (1.0, 1.0)
    assert critmom.integrated == pytest.approx(0.2) and critmom.shrinkage == pytest.approx(0.2)
    assert math.isnan(adamw.integrated) and adamw.shrinkage == pytest.approx(0.1)  # its steps are in other units
    assert not critmom.estimated and "about" not in found.table().rows[1][1]


def test_the_caveat_names_step_and_decay_and_groups_arms_with_equal_numbers() -> None:
    steps = {"constant": 1.0, "matched": 0.2, "critmom": 0.2, "nesterov": 1.01, "adamw": 0.5}
    runs = [run(arm, integrated_step=step, shrinkage=step / 2) for arm, step in steps.items()]
    found = compare_steps(runs, arms(*steps), "constant", 0.0)
    assert found.caveat(name="`{}`".format) == (
        "Against `constant`, `matched` and `critmom` take 0.2 times the mean step and shrink weights 0.2 times as much "
        "per step by weight decay; `adamw` shrinks weights 0.5 times as much per step by weight decay."
    )


def test_equal_arms_need_no_caveat() -> None:
    runs = [run(arm, integrated_step=1.0, shrinkage=1e-4) for arm in ("constant", "nesterov")]
    assert compare_steps(runs, arms("constant", "nesterov"), "constant", 0.0).caveat() == ""


def test_steps_that_were_not_counted_are_estimated_from_the_log_and_marked() -> None:
    lrs = [0.1] * 400
    runs = [
        run("constant", weight_decay=5e-4, training_log=log(lrs, [0.9] * 400)),
        run("critmom", weight_decay=5e-4, training_log=log(lrs, [0.3675] * 400)),
    ]
    critmom = compare_steps(runs, arms("constant", "critmom"), "constant", 0.0).arms[1]
    exact = [mean_integrated_step(list(zip(lrs, [momentum] * 400, strict=True))) for momentum in (0.3675, 0.9)]
    assert critmom.estimated and critmom.cells()[1].startswith("about")
    assert critmom.integrated == pytest.approx(exact[0] / exact[1], rel=0.03)


def test_the_share_of_clipped_steps_is_that_of_the_logged_norms() -> None:
    runs = [
        run("constant", training_log=log([0.1] * 3, [0.9] * 3, [0.5, 1.5, 2.0])),
        run("constant", 1, training_log=log([0.1], [0.9], [0.9])),
    ]
    (found,) = compare_steps(runs, arms("constant"), "constant", 1.0).arms
    assert found.clipped == pytest.approx(0.5) and found.cells()[-1] == "50%"
    (found,) = compare_steps(runs, arms("constant"), "constant", 0.0).arms
    assert math.isnan(found.clipped)


def test_a_table_without_known_steps_has_no_rows() -> None:
    foreign = compare_steps([run("schedule_free")], arms("schedule_free"), "schedule_free", 0.0)
    assert not foreign.table() and foreign.caveat() == ""
