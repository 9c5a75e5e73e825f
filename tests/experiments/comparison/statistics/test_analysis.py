"""Claims about the analysis: what the committed comparisons say, and that it is complete whatever came out."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.tables_by_hand import ACCURACY, results_table, run_of, timed

from hf_critmom.experiments.comparison.findings.analyses import disturbed_arms
from hf_critmom.experiments.comparison.findings.sentences import headline_sentence
from hf_critmom.experiments.comparison.plan import Run
from hf_critmom.experiments.comparison.records import MachineLoad
from hf_critmom.experiments.comparison.rendering.tables import relative_rows
from hf_critmom.experiments.comparison.results import Results
from hf_critmom.experiments.comparison.statistics.analysis import Analysis, analyse
from hf_critmom.experiments.comparison.statistics.claims import parse_claim
from hf_critmom.experiments.comparison.statistics.sequential import Looks
from hf_critmom.experiments.comparison.statistics.summaries import Metric

CARDS = Path(__file__).parents[4] / "model_cards"


def committed(name: str) -> Analysis:
    plan = json.loads((CARDS / name / "comparison.json").read_text())
    table = pd.read_parquet(CARDS / name / "results.parquet")
    metric = Metric(plan["task"]["metric"], plan["task"].get("greater_is_better", True))
    return analyse(table, list(plan["arms"]), "constant", metric, plan["targets"], seeds=plan["seeds"])


@pytest.mark.parametrize(
    ("name", "arm", "baseline", "figures"),
    [
        ("cifar10-resnet18-w16-15epochs", "critmom", "constant", (1.16, 1.07, 1.26)),
        ("cifar10-resnet18-w16-15epochs", "critmom", "matched", (1.01, 0.93, 1.10)),
        ("cifar10-vit-20000images", "critmom", "constant", (1.20, 1.15, 1.25)),
        ("shakespeare-gpt2", "critmom", "constant", (1.25, 1.155, 1.35)),
    ],
)
def test_the_committed_comparisons_say_what_was_computed_apart(
    name: str, arm: str, baseline: str, figures: tuple[float, float, float]
) -> None:
    """By a script of a few lines that read the same tables, before this rule was written."""
    if not (CARDS / name / "results.parquet").exists():
        pytest.skip(f"{name} is not committed any more")
    (one,) = (
        verdict.headlines[0]
        for verdict in committed(name).verdicts
        if (verdict.claim.arm, verdict.claim.baselines) == (arm, (baseline,))
    )
    ratio = one.ratio
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx(figures, abs=0.006)


def test_the_headline_of_the_committed_comparison_reads_as_it_is_meant_to() -> None:
    found = committed("cifar10-resnet18-w16-15epochs").verdicts[0]
    assert headline_sentence(found, "test accuracy") == (
        "critmom is slower than constant: 1.16 times the steps (1.07 to 1.26, 3 seeds), and ends 0.035 lower in "
        "test accuracy (0.032 to 0.037)"
    )


def two_arms(**options: Any) -> Analysis:
    table = timed(constant=[3.0, 3.1, 3.2], critmom=[2.0, 2.2, 2.1])
    return analyse(table, ["constant", "critmom"], "constant", ACCURACY, [0.5, 0.9], **options)


def test_an_analysis_relates_every_other_arm_to_the_baseline() -> None:
    found = two_arms()
    assert (found.arms, found.baseline, found.targets) == (("constant", "critmom"), "constant", (0.5, 0.9))
    (relative,) = found.relative
    assert relative.arm == "critmom" and len(relative.steps) == len(relative.seconds) == len(relative.logrank) == 2
    assert relative.steps[1].ratio.estimate == pytest.approx(relative.seconds[1].ratio.estimate)
    assert relative.ending == relative.headline.ending
    assert [summary.arm for summary in found.summaries] == list(found.curves) == list(found.reach) == list(found.arms)
    assert found.steps == 60.0 and not found.smoothed and found.drift is None


def test_exploratory_targets_come_after_the_planned_ones_everywhere() -> None:
    found = two_arms(exploratory=[0.7])
    assert found.targets == (0.5, 0.9, 0.7) and found.exploratory == (0.7,)
    assert [time.target for time in found.summaries[0].targets] == [0.5, 0.9, 0.7]
    assert len(found.reach["critmom"]) == 3 and [at.target for at in found.relative[0].seconds] == [0.5, 0.9, 0.7]
    assert [at.target for at in found.relative[0].steps] == [0.5, 0.9, 0.7]
    assert two_arms().verdicts[0].headlines[0].ratio == found.verdicts[0].headlines[0].ratio


def test_looks_claims_margin_and_error_reach_the_verdicts() -> None:
    claimed = (parse_claim("constant < critmom", ["constant", "critmom"]),)
    found = two_arms(user_claims=claimed, looks=Looks(3, 10, (3,)), margin=0.2, alpha=0.025)
    assert found.verdicts[0].claim == claimed[0] and found.margin == found.verdicts[0].margin == 0.2
    assert found.verdicts[0].headlines[0].confidence > 0.999 and found.verdicts[0].word == "not decided yet"
    assert not two_arms(paired=False).verdicts[0].headlines[0].paired


def test_arms_without_results_are_left_out() -> None:
    table = timed(constant=[3.0, 3.1])
    found = analyse(table, ["constant", "critmom"], "constant", ACCURACY, [0.9])
    assert found.arms == ("constant",) and found.relative == found.verdicts == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("curve", "status"),
    [([], "diverged")]
    + [(curve, of) for curve in ([0.1], [None] * 2, [0.95, 0.96]) for of in ("finished", "diverged")],
)
def test_an_analysis_is_complete_whatever_came_out(curve: list[Any], status: str) -> None:
    runs = [
        run_of([0.0 if value is None else value for value in curve], arm=arm, seed=seed, status=status, test=None)
        for arm in ("constant", "critmom", "hybrid")
        for seed in (0, 1)
    ]
    table = results_table(runs)
    if None in curve:
        table[["accuracy", "loss"]] = None
    found = analyse(table, ["constant", "critmom", "hybrid"], "constant", ACCURACY, [0.5, 0.9])
    assert len(found.verdicts) == 4 and {verdict.word for verdict in found.verdicts} <= {
        "not decided yet",
        "not tested",
    }
    assert all(headline_sentence(verdict, "test accuracy") for verdict in found.verdicts)
    assert all(np.isfinite(curves.median.values).all() for curves in found.curves.values())


def test_a_median_curve_is_not_that_of_the_seeds_that_were_lucky() -> None:
    runs = [run_of([0.2, 0.4, 0.6], arm="critmom", seed=0), run_of([0.3, 0.5, 0.8], arm="critmom", seed=1)]
    runs.append(run_of([0.1], arm="critmom", seed=2, status="diverged"))
    one_lost = analyse(results_table(runs), ["critmom"], "critmom", ACCURACY, [0.5]).curves["critmom"].median
    assert one_lost.values.tolist() == [0.2, 0.4, 0.6]  # the middle of three
    runs += [run_of([0.1], arm="critmom", seed=seed, status="diverged") for seed in (3, 4)]
    most_lost = analyse(results_table(runs), ["critmom"], "critmom", ACCURACY, [0.5]).curves["critmom"].median
    assert most_lost.epochs.tolist() == [1.0] and most_lost.values.tolist() == [0.1]


def test_no_ratio_of_seconds_is_told_of_runs_that_had_to_share_their_cores() -> None:
    calm, busy = MachineLoad(mean=2.4, cores=2), MachineLoad(mean=2.6, cores=2)
    loads = {("constant", None): calm, ("critmom", None): busy, ("constant", 3.0): busy}
    runs: Any = {Run(arm, 0, epochs): SimpleNamespace(load=load) for (arm, epochs), load in loads.items()}
    assert disturbed_arms(Results(runs, {}, []), None) == ["critmom"]
    assert disturbed_arms(Results(runs, {}, []), 3.0) == ["constant"]
    (told,), (untold,) = two_arms().relative, two_arms(disturbed=["critmom"]).relative
    assert told.seconds is not None and untold.seconds is None
    assert untold.steps == told.steps
    ((_, before, *_),), ((_, after, *_),) = (
        relative_rows(found)[1] for found in (two_arms(), two_arms(disturbed=["constant"]))
    )
    assert "\nseconds " in before and after == re.sub(r"\nseconds [^\n]*", "", before)
