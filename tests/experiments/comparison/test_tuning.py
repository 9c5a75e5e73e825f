"""Claims about tuning: what the trials choose, and a tuned comparison through the command line."""

import dataclasses
import io
import itertools
import json
import math
import os
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import plans_by_hand
from helpers.launches import launch, outcome, status_of, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.commands import main
from hf_critmom.damping import critical_momentum
from hf_critmom.experiments.comparison import ComparisonError, runner
from hf_critmom.experiments.comparison.arms.arm import ARMS as ALL_ARMS
from hf_critmom.experiments.comparison.findings.findings import findings_of, read_findings
from hf_critmom.experiments.comparison.findings.tuning import doubtful_choices
from hf_critmom.experiments.comparison.plan import Plan, Run, Trial, Tuning
from hf_critmom.experiments.comparison.records import Evaluation, RunResult
from hf_critmom.experiments.comparison.report import verdicts_as_json
from hf_critmom.experiments.comparison.results import Results, read_results
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.experiments.comparison.statistics.steps import step_factor
from hf_critmom.experiments.comparison.tuning import (
    BestTrial,
    choose_best_trials,
    judge_trials,
    spread_over_seeds,
)
from hf_critmom.tasks import Task
from hf_critmom.tasks.images import ImageDataset

pytestmark = pytest.mark.filterwarnings("ignore:.*momentum is clamped to 0")

# ------------------------------------------------------------------------------------------------------------ choosing


def plan_of(
    rates: list[float],
    decays: list[float],
    *,
    arms: tuple[str, ...] = ("constant",),
    better: bool = True,
    more_seeds: tuple[int, ...] = (),
    **parts: Any,
) -> Plan:
    metric = "accuracy" if better else "bits_per_byte"
    tuning = Tuning(tuple(rates), tuple(decays), seed=1, more_seeds=more_seeds, **parts)
    return plans_by_hand.plan_of(arms, metric=metric, tuning=tuning)


def ended(*values: float | None, status: str = "finished") -> RunResult:
    evaluations = (
        Evaluation(step, float(step), float(step), {"accuracy": value, "bits_per_byte": value})
        for step, value in enumerate(values, start=1)
    )
    versions = {"hardware": "none"}
    return RunResult("constant", 1, status, len(values), float(len(values)), tuple(evaluations), {}, versions)


def choice_of(plan: Plan, *results: RunResult) -> BestTrial | None:
    """What the trials of a plan's only arm choose, from their results in the grid's order."""
    found = choose_best_trials(plan, dict(zip(plan.trials(), results, strict=True)))
    return found[0] if found else None


def test_the_trial_with_the_best_last_evaluation_is_chosen() -> None:
    """A trial that was better on the way is not: nobody would have stopped it there."""
    plan = plan_of([0.5, 1.0, 2.0], [1.0])
    found = choice_of(plan, ended(0.99, 0.2), ended(0.1, 0.6), ended(0.3, 0.5))
    assert found == BestTrial("constant", None, Trial(1.0, 1.0), 0.6, trials=3, diverged=0, edges=())


def test_a_metric_that_should_fall_is_chosen_by_its_least_value() -> None:
    plan = plan_of([0.5, 1.0, 2.0], [1.0], better=False)
    found = choice_of(plan, ended(0.7), ended(0.6), ended(0.5))
    assert found is not None and (found.trial, found.value) == (Trial(2.0, 1.0), 0.5)


def test_a_trial_that_diverged_is_never_chosen() -> None:
    plan = plan_of([0.5, 1.0, 2.0], [1.0])
    found = choice_of(plan, ended(0.2), ended(0.1), ended(0.9, status="diverged"))
    assert found is not None and (found.trial, found.trials, found.diverged) == (Trial(0.5, 1.0), 3, 1)
    infinite = ended(0.1, None)  # as a perplexity that overflows is recorded
    found = choice_of(plan, ended(0.2), infinite, infinite)
    assert found is not None and (found.trial, found.diverged) == (Trial(0.5, 1.0), 2)
    nothing = ended(status="diverged")
    assert choice_of(plan, nothing, nothing, nothing) is None


@pytest.mark.parametrize(
    ("rates", "decays", "expected"),
    [
        ([0.1, 1.0, 10.0], [1.0], Trial(1.0, 1.0)),
        ([0.1, 0.5, 4.0], [1.0], Trial(0.5, 1.0)),
        ([0.1, 3.0, 4.0], [1.0], Trial(3.0, 1.0)),
        ([0.5, 1.0, 2.0], [0.5, 1.0, 2.0], Trial(1.0, 1.0)),
        ([0.5, 1.0, 2.0], [0.0], Trial(1.0, 0.0)),
        ([0.5, 1.0], [0.0, 100.0], Trial(1.0, 100.0)),
    ],
)
def test_of_equals_the_one_nearest_to_the_arms_own_values_is_chosen(
    rates: list[float], decays: list[float], expected: Trial
) -> None:
    plan = plan_of(rates, decays)
    found = choice_of(plan, *[ended(0.5)] * len(plan.trials()))
    assert found is not None and found.trial == expected


@pytest.mark.parametrize(
    ("rates", "decays", "best", "edges"),
    [
        ([0.5, 1.0, 2.0], [0.5, 1.0, 2.0], (1.0, 1.0), ()),
        ([0.5, 1.0, 2.0], [0.5, 1.0, 2.0], (2.0, 1.0), ("learning rate",)),
        ([0.5, 1.0, 2.0], [0.5, 1.0, 2.0], (1.0, 0.5), ("weight decay",)),
        ([0.5, 1.0, 2.0], [0.5, 1.0, 2.0], (0.5, 2.0), ("learning rate", "weight decay")),
        ([0.5, 1.0, 2.0], [1.0], (1.0, 1.0), ()),  # what was not tuned has no edge
        ([0.5, 1.0], [1.0], (1.0, 1.0), ("learning rate",)),
        ([1.0], [0.0, 1.0, 2.0], (1.0, 0.0), ()),  # there is nothing below none at all
        ([1.0], [0.0, 1.0, 2.0], (1.0, 2.0), ("weight decay",)),
    ],
)
def test_an_optimum_on_the_edge_of_the_grid_is_noted(
    rates: list[float], decays: list[float], best: tuple[float, float], edges: tuple[str, ...]
) -> None:
    plan = plan_of(rates, decays)
    results = [ended(0.9 if run.trial == Trial(*best) else 0.5) for run in plan.trials()]
    found = choice_of(plan, *results)
    assert found is not None and (found.trial, found.edges) == (Trial(*best), edges)


def test_nothing_is_chosen_before_the_last_trial_of_an_arm_has_ended() -> None:
    plan = plan_of([0.5, 1.0], [1.0], arms=("constant", "critmom"))
    results = {run: ended(0.5) for run in plan.trials()[:3]}
    assert [choice.arm for choice in choose_best_trials(plan, results)] == ["constant"]
    assert choose_best_trials(plan_of([0.5], [1.0]), {}) == []


def test_the_mean_over_the_seeds_of_the_trials_decides() -> None:
    plan = plan_of([0.5, 1.0, 2.0], [1.0], more_seeds=(2, 3))
    assert [run.seed for run in plan.trials()] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    lucky, others = [ended(0.9), ended(0.6), ended(0.5)], [ended(0.1), ended(0.6), ended(0.5)]
    found = choice_of(plan, *lucky, *others, *others)
    assert found == BestTrial("constant", None, Trial(1.0, 1.0), pytest.approx(0.6), trials=9, diverged=0, edges=())


def test_a_point_that_diverged_with_one_seed_is_never_chosen() -> None:
    plan = plan_of([0.5, 1.0], [1.0], more_seeds=(2,))
    found = choice_of(plan, ended(0.9), ended(0.2), ended(0.9, status="diverged"), ended(0.1))
    assert found is not None and (found.trial, found.trials, found.diverged) == (Trial(1.0, 1.0), 4, 1)
    judged = judge_trials(plan, dict(zip(plan.trials(), [ended(0.9)] * 2 + [ended(None)] * 2, strict=True)))
    assert [(one.value, one.steps, one.seeds, one.diverged) for one in judged] == [(None, None, 2, 1)] * 2


def test_nothing_is_chosen_before_the_last_seed_of_an_arms_trials_has_ended() -> None:
    plan = plan_of([0.5, 1.0], [1.0], arms=("constant", "critmom"), more_seeds=(2,))
    results = {run: ended(0.5) for run in plan.trials() if run != plan.trials()[-1]}
    assert [choice.arm for choice in choose_best_trials(plan, results)] == ["constant"]


def rising(*steps: float, end: int = 100) -> RunResult:
    """A run whose accuracy first reaches the targets 0.5 and 0.9 after these steps."""
    rows = [(1, 0.0), *((step, value) for step, value in zip(steps, (0.5, 0.9), strict=True)), (end, 0.95)]
    return dataclasses.replace(
        ended(0.1),
        steps=end,
        train_seconds=float(end),
        evaluations=tuple(Evaluation(int(step), step, float(step), {"accuracy": value}) for step, value in rows),
    )


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("other", [40, 44, 60, 90])
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_a_choice_that_the_seeds_alone_could_have_made_is_called_doubtful(
    number: int, other: float, noise: float
) -> None:
    """Two standard deviations of a difference of means, as the naive formula has it."""
    plan = dataclasses.replace(
        plan_of([0.5, 1.0], [1.0], more_seeds=tuple(range(2, number + 1)), chosen_by="time"),
        targets=(0.5, 0.9),
        seeds=(100, 101, 102),
    )
    factors = (math.exp(noise), 1.0, math.exp(-noise))  # of standard deviation `noise`
    runs = {run: rising(1000 * one, 4000 * one, end=9000)
            for run, one in zip(plan.runs(), factors, strict=True)}  # fmt: skip
    trials = {run: rising(10, 40) if run.trial == Trial(1.0) else rising(10, other) for run in plan.trials()}
    results = Results(runs, trials, choose_best_trials(plan, trials))
    found = findings_of(Path("comparison-points"), plan, results)
    (budget,) = found.budgets
    spread = math.sqrt(2 * noise**2 / (2 + 2 * (number - 1)))  # pooled with that of the repeated trials, which is 0
    assert spread_over_seeds(plan, {**runs, **trials}) == pytest.approx(spread, abs=1e-3)  # steps are whole
    ratio = math.sqrt(other / 40)  # at one of two targets
    chance = 2 * spread * math.sqrt(2 / number)
    doubtful = ratio < math.exp(chance) and chance > math.log(1.1)
    said = doubtful_choices(plan, results, budget.trials, None)
    assert bool(said) == doubtful and found.caveats == ([said] if doubtful else [])
    if said:
        assert f"With {number} seed{'s' if number > 1 else ''} per trial" in said and "the best for constant:" in said
        needed = int(said.partition("--trial_seeds ")[2].partition(",")[0])
        at_most = [2 * spread * math.sqrt(2 / many) for many in (needed, needed - 1)]
        assert at_most[0] <= math.log(1.1) * 1.01 and math.log(1.1) < at_most[1] * 1.01


def test_a_repeated_trial_does_not_stand_for_another_arm() -> None:
    """Trials with several seeds tell the spread too, each point about its own mean."""
    plan = plan_of([0.5, 1.0], [1.0], more_seeds=(2,), chosen_by="time")
    trials = {run: rising(10 * run.seed, 40 * run.seed, end=200) for run in plan.trials()}
    assert spread_over_seeds(plan, trials) == pytest.approx(math.log(2) / math.sqrt(2), rel=1e-6)
    assert spread_over_seeds(plan, {run: one for run, one in trials.items() if run.seed == 1}) is None


def test_points_that_miss_a_target_do_not_make_the_seeds_look_alike() -> None:
    """Their runs all count with the same end there, whatever the seed does."""
    plan = dataclasses.replace(
        plan_of([0.01, 0.1, 1.0], [1.0], more_seeds=(2,), chosen_by="time"), targets=(0.5, 0.9, 0.95)
    )

    def trial(run: Run) -> RunResult:
        full = rising(10 * run.seed, 40 * run.seed, end=200)
        kept = {0.01: 1, 0.1: 2, 1.0: 4}[run.trial.learning_rate if run.trial else 1.0]
        return dataclasses.replace(full, evaluations=full.evaluations[:kept])

    trials = {run: trial(run) for run in plan.trials()}
    best = {run: result for run, result in trials.items() if run.trial == Trial(1.0)}
    assert spread_over_seeds(plan, trials) == spread_over_seeds(plan, best) != 0.0
    nothing = {run: result for run, result in trials.items() if run.trial == Trial(0.01)}
    assert spread_over_seeds(plan, nothing) is None


def doubt(plan: Plan) -> str:
    """What is said of the choice in a plan of one arm and two seeds, of whose trials the second is the best by far."""
    runs = {run: rising(10 * (1 + run.seed), 40 * (1 + run.seed), end=500) for run in plan.runs()}
    trials = {run: rising(1000, 4000, end=9000) for run in plan.trials()}
    trials |= {run: rising(10, 40) for run in trials if run.trial and run.trial.learning_rate == 1.0}
    results = Results(runs, trials, choose_best_trials(plan, trials))
    (budget,) = findings_of(Path("comparison-points"), plan, results).budgets
    return doubtful_choices(plan, results, budget.trials, None)


def test_points_with_the_same_values_are_no_alternative_to_one_another() -> None:
    training = {"learning_rate": 0.1, "weight_decay": 0.0}
    plan = dataclasses.replace(
        plan_of([0.5, 1.0], [1.0, 3.0], chosen_by="time"), targets=(0.5, 0.9), seeds=(2, 3), training=training
    )
    assert doubt(plan) == ""
    assert "for constant:" in doubt(dataclasses.replace(plan, training={**training, "weight_decay": 1e-4}))


def test_no_more_seeds_are_named_than_the_flag_takes() -> None:
    plan = plan_of([0.5, 1.0], [1.0, 3.0], chosen_by="time")
    plan = dataclasses.replace(
        plan, targets=(0.5, 0.9), seeds=(2, 5), margin=0.01, training={"learning_rate": 0.1, "weight_decay": 1e-4}
    )
    said = doubt(plan)
    assert said.endswith("even with --trial_seeds 1000, chance could cost more than the margin of 1.00%.")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=6, max_size=6), st.booleans())
def test_what_is_chosen_equals_the_naive_choice(of: list[tuple[float, bool]], better: bool) -> None:
    plan = plan_of([0.3, 1.0, 3.0], [0.5, 1.0], better=better)
    found = choice_of(plan, *(ended(value, status="finished" if fine else "diverged") for value, fine in of))
    finished = {run.trial: value for run, (value, fine) in zip(plan.trials(), of, strict=True) if fine}
    if not finished:
        assert found is None
        return
    best = (max if better else min)(finished.values())
    near = {
        trial: abs(math.log(trial.learning_rate)) + abs(math.log(trial.weight_decay))
        for trial, value in finished.items()
        if trial is not None and value == best
    }
    assert found is not None and found.value == best and found.trial in near
    assert near[found.trial] == pytest.approx(min(near.values()))


# ------------------------------------------------------------------------------------------------- a tuned comparison

ARMS, FACTORS, DECAYS, SEEDS, TRIAL_SEED = ("constant", "critmom"), (0.5, 1e6), (0.0, 1.0), (42,), 1042
TUNED = (
    *("compare", "--width", "2", "--per_device_train_batch_size", "64", "--max_train_samples", "128", "--use_cpu"),
    *("--workers", "1", "--evaluations_per_epoch", "1"),
    *("--max_eval_samples", "64", "--num_train_epochs", "1", "--num_seeds", "1", "--targets", "0.05"),
    *("--arms", *ARMS, "--learning_rate_grid", *map(str, FACTORS), "--weight_decay_grid", *map(str, DECAYS)),
)


@dataclass
class Finished:
    """A finished tuned comparison: its folder, what it printed, and which splits each of its runs read."""

    folder: Path
    printed: str = ""
    read: dict[Run, list[str]] = field(default_factory=dict)

    def plan(self) -> dict[str, Any]:
        return json.loads((self.folder / "comparison.json").read_text())

    def result(self, *parts: str) -> dict[str, Any]:
        return json.loads((self.folder.joinpath("runs", *parts, "result.json")).read_text())

    def trials(self, arm: str) -> dict[tuple[float, float], dict[str, Any]]:
        return {
            (factor, decay): self.result(arm, "tuning", f"lr-{factor:g}-wd-{decay:g}")
            for factor, decay in itertools.product(FACTORS, DECAYS)
        }


def compared(folder: Path, words: tuple[str, ...] = TUNED) -> Finished:
    """A comparison that has to succeed, watched from inside."""
    finished, out = Finished(folder), io.StringIO()
    task: list[Task] = []
    run, load, hand_out = execution.execute_run, runner.load_task, ImageDataset.__getitems__
    current: list[Run] = []

    def watched_run(training: Any, model: Any, arm: Any, planned: Run, *words: Any) -> Any:
        current.append(planned)
        finished.read[planned] = []
        try:
            return run(training, model, arm, planned, *words)
        finally:
            current.clear()

    def watched_load(*words: Any) -> Task:
        task.append(load(*words))
        return task[0]

    def watched_hand_out(dataset: ImageDataset, indices: Any) -> Any:
        splits = {"train": task[0].train, "validation": task[0].validation, "test": task[0].test}
        for planned in current:
            finished.read[planned] += [name for name, split in splits.items() if split is dataset]
        return hand_out(dataset, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "stdout", out)
        patch.setattr(execution, "execute_run", watched_run)
        patch.setattr(runner, "load_task", watched_load)
        patch.setattr(ImageDataset, "__getitems__", watched_hand_out)
        assert main((*words, "--output_dir", str(folder))) == 0
    finished.printed = out.getvalue()
    return finished


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return compared(tmp_path_factory.mktemp("tuned") / "out")


def test_the_plan_records_the_grid_and_the_seed_of_the_trials(finished: Finished) -> None:
    assert finished.plan()["tuning"] == {
        "learning_rate": list(FACTORS),
        "weight_decay": list(DECAYS),
        "seed": TRIAL_SEED,
        "unit": "learning_rate",
        "chosen_by": "time",
        "can_grow": True,
    }
    assert TRIAL_SEED not in finished.plan()["seeds"] == list(SEEDS)


def test_every_arm_has_the_same_trials(finished: Finished) -> None:
    trials = [run for run in finished.read if run.trial is not None]
    grid = {Trial(*point) for point in itertools.product(FACTORS, DECAYS)}
    for arm in ARMS:
        assert {run.trial for run in trials if run.arm == arm} == grid
        for (factor, decay), result in finished.trials(arm).items():
            assert (result["arm"], result["seed"]) == (arm, TRIAL_SEED)
            assert result["learning_rate"] == pytest.approx(0.1 * factor)
            assert result["weight_decay"] == pytest.approx(5e-4 * decay)
            assert result["status"] == ("finished" if factor == 0.5 else "diverged")
    assert len(trials) == len(ARMS) * len(grid)


def test_trials_come_first_and_never_read_the_test_split(finished: Finished) -> None:
    is_trial = [run.trial is not None for run in finished.read]
    assert is_trial == sorted(is_trial, reverse=True)
    for run, read in finished.read.items():
        assert "train" in read
        assert read.count("test") == (0 if run.trial is not None else 1), run
    assert all(result["test"] == {} for arm in ARMS for result in finished.trials(arm).values())


def test_the_tuned_variant_has_what_its_trials_chose(finished: Finished) -> None:
    choices = read_results(finished.folder, Plan.read(finished.folder)).choices
    assert [choice.arm for choice in choices] == list(ARMS)
    for choice in choices:
        trials = finished.trials(choice.arm)
        values = {decay: trials[0.5, decay]["evaluations"][-1]["accuracy"] for decay in DECAYS}
        best = max(DECAYS, key=lambda decay: (values[decay], decay))  # of equals, the arm's own weight decay
        assert (choice.trial, choice.value) == (Trial(0.5, best), values[best])
        assert (choice.trials, choice.diverged) == (4, 2)
        tuned = finished.result(f"{choice.arm}_tuned", choice.trial.folder, "seed-42")
        assert (tuned["learning_rate"], tuned["weight_decay"]) == (pytest.approx(0.05), pytest.approx(5e-4 * best))
        assert (tuned["arm"], tuned["seed"], tuned["status"]) == (f"{choice.arm}_tuned", 42, "finished")
        untuned = finished.result(choice.arm, "seed-42")
        assert (untuned["learning_rate"], untuned["weight_decay"]) == (0.1, 5e-4)


def test_the_results_hold_the_compared_runs_and_no_trial(finished: Finished) -> None:
    table = pd.read_parquet(finished.folder / "results.parquet")
    assert list(dict.fromkeys(table["arm"])) == [*ARMS, *(f"{arm}_tuned" for arm in ARMS)]
    assert set(table["seed"]) == set(SEEDS)
    peaks = table.groupby("arm")["peak_learning_rate"].unique()
    assert peaks["constant"].tolist() == [0.1] and peaks["constant_tuned"].tolist() == [pytest.approx(0.05)]


def test_the_report_tells_the_choices_and_their_edges(finished: Finished) -> None:
    card = (finished.folder / "README.md").read_text()
    assert (
        "## Tuning" in card and "its own learning rate times 0.5, 1e+06, its own weight decay times 0, 1, all" in card
    )
    assert f"all with seed {TRIAL_SEED}, which no compared run uses" in card
    choices = {choice.arm: choice for choice in read_results(finished.folder, Plan.read(finished.folder)).choices}
    for arm, choice in choices.items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {arm} | 0.5, "))
        assert "4 (2 diverged, learning rate on the edge of the grid" in row
        assert (
            ("weight decay on the edge" in row)
            == ("weight decay" in choice.edges)
            == (choice.trial.weight_decay == 1.0)
        )
        assert f"{choice.value:.4f}" in row and "0.05" in row
    assert "**`critmom_tuned` against `constant_tuned` is not decided yet: " in card
    assert "critmom_tuned vs" in finished.printed
    assert "Unfinished" not in card


def test_the_report_shows_every_trial(finished: Finished) -> None:
    card, page = ((finished.folder / name).read_text() for name in ("README.md", "report.html"))
    assert (finished.folder / "figures" / "tuning.png").exists() and "](figures/tuning.png)" in card
    (budget,) = read_findings(finished.folder).budgets
    assert len(budget.trials) == 8
    for one in budget.trials:
        trials = finished.trials(one.arm)
        decay = round(one.weight_decay / 5e-4)
        result = trials[round(one.learning_rate / 0.1, 6), decay]
        last = result["evaluations"][-1]["accuracy"] if result["status"] == "finished" else None
        assert one.value == last
        cells = f"| {one.arm} | {one.learning_rate:g} | {one.weight_decay:g} | "
        row = next(line for line in card.splitlines() if line.startswith(cells))
        assert ("diverged" if last is None else f"{last:.4f}") in row
    told = verdicts_as_json(finished.folder)["trials"]
    assert [(one["arm"], one["value"], one["steps"]) for one in told] == [
        (one.arm, one.value, one.steps) for one in budget.trials
    ]
    assert {one["arm"] for one in told if one["chosen"]} == set(ARMS)
    assert sum(line.endswith("| yes |") for line in card.splitlines()) == 2  # one of each arm
    assert 'id="tuning"' in page or "Every trial" in page


def test_a_comparison_whose_tuned_runs_are_missing_is_unfinished(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished.folder, folder)
    (result,) = folder.glob("runs/critmom_tuned/*/seed-42/result.json")
    result.unlink()
    assert main(("report", str(folder))) == 0
    assert "**Unfinished: 3 of 4 runs, 8 of 8 tuning trials.**" in (folder / "README.md").read_text()
    assert "Missing: critmom_tuned with seed 42. The command" in (folder / "report.html").read_text()
    (folder / "runs" / "constant" / "tuning" / "lr-0.5-wd-1" / "result.json").unlink()
    assert main(("report", str(folder))) == 0
    assert "of 8 tuning trials.**" in (folder / "README.md").read_text()


def test_where_the_arms_own_values_are_chosen_its_runs_are_the_tuned_variants(tmp_path: Path) -> None:
    words = [*TUNED[: TUNED.index("--arms")], "--arms", "critmom", "constant", "--learning_rate_grid", "1", "1e6"]
    alias = compared(tmp_path / "out", tuple(words))
    assert len(alias.read) == 4 + 2  # trials and runs; nothing is run twice
    assert not list(alias.folder.glob("runs/*_tuned"))
    table = pd.read_parquet(alias.folder / "results.parquet")
    for arm in ARMS:
        own, tuned = (table[table["arm"] == name].drop(columns="arm") for name in (arm, f"{arm}_tuned"))
        pd.testing.assert_frame_equal(own.reset_index(drop=True), tuned.reset_index(drop=True))
    card = (alias.folder / "README.md").read_text()
    assert "Unfinished" not in card and "| critmom | 1, 1 | 0.1, 0.0005 |" in card
    assert "learning rate on the edge of the grid" in card
    assert "`critmom_tuned` and `constant_tuned` have the same runs as `critmom` and `constant`." in card


@pytest.mark.slow
def test_tuning_that_was_killed_goes_on_and_chooses_the_same(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = launch(*TUNED, "--output_dir", str(folder), said=tmp_path / "said")
    wait_until(lambda: len(list(folder.glob("runs/*/tuning/*/result.json"))) >= 3, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert status_of(process) == -signal.SIGKILL
    made = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/*/*/result.json")}
    assert 3 <= len(made) < 8
    continued = compared(folder)
    assert len(continued.read) == 8 - len(made) + 4
    assert all(file.stat().st_mtime_ns == before for file, before in made.items())
    assert len(list(folder.glob("runs/**/result.json"))) == 8 + 4
    assert outcome(folder) == outcome(finished.folder)


@pytest.mark.parametrize("flag", ["--learning_rate_grid", "--weight_decay_grid"])
@pytest.mark.parametrize("factor", ["-1", "nan", "inf"])
def test_a_factor_that_makes_no_value_is_refused(
    flag: str, factor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("compare", "--use_cpu", flag, "1", factor, "--output_dir", str(tmp_path / "out"))) == 2
    assert flag in capsys.readouterr().err and not (tmp_path / "out").exists()
    if flag == "--learning_rate_grid":
        assert main(("compare", "--use_cpu", flag, "0", "--output_dir", str(tmp_path / "out"))) == 2


# ------------------------------------------------------------------------------------ chosen by time; grids of the step


def arrives(*accuracies: float, loss: float = 1.0) -> RunResult:
    """A trial with an evaluation every ten steps."""
    evaluations = [
        Evaluation(10 * at, float(at), float(at), {"accuracy": accuracy, "loss": loss})
        for at, accuracy in enumerate(accuracies, start=1)
    ]
    steps, versions = 10 * len(accuracies), {"hardware": "none"}
    return RunResult("constant", 1, "finished", steps, float(len(accuracies)), tuple(evaluations), {}, versions)


def timed_plan(targets: tuple[float, ...]) -> Plan:
    tuning = Tuning((0.5, 1.0, 2.0), (1.0,), seed=1, chosen_by="time")
    return plans_by_hand.plan_of(targets=targets, tuning=tuning)


def test_a_trial_that_arrives_first_is_chosen_before_one_that_ends_higher() -> None:
    trials = arrives(0.1, 0.5, 0.95), arrives(0.5, 0.7, 0.9), arrives(0.1, 0.2, 0.3)
    found = choice_of(timed_plan((0.4,)), *trials)
    assert found is not None and found.trial == Trial(1.0, 1.0) and found.value == 0.9
    early = plans_by_hand.plan_of(targets=(0.4,), tuning=Tuning((0.5, 1.0, 2.0), (1.0,), seed=1))
    by_the_end = choice_of(early, *trials)
    assert by_the_end is not None and by_the_end.trial == Trial(0.5, 1.0)


def test_where_no_trial_arrives_the_last_evaluation_decides() -> None:
    found = choice_of(timed_plan((0.99,)), arrives(0.1, 0.5), arrives(0.4, 0.45), arrives(0.1, 0.2))
    assert found is not None and found.trial == Trial(0.5, 1.0)


def test_every_planned_target_counts() -> None:
    """The one that is later at the first target is much earlier at the second."""
    first, second, third = (0.1, 0.45, 0.9, 0.9, 0.9, 0.9), (0.3, 0.5, 0.5, 0.5, 0.5, 0.85), (0.1,) * 6
    found = choice_of(timed_plan((0.4, 0.8)), arrives(*first), arrives(*second), arrives(*third))
    assert found is not None and found.trial == Trial(0.5, 1.0)


@given(
    rate=st.floats(1e-6, 0.2),
    factor=st.floats(0.1, 5.0),
    rule=st.sampled_from(["linear", "exact", "exponential"]),
    hold=st.sampled_from([None, 0.9, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_a_factor_of_the_step_multiplies_the_mean_step(rate: float, factor: float, rule: str, hold: Any) -> None:
    def step(lr: float) -> float:
        momentum = critical_momentum(lr, rule=rule)
        return lr / (1.0 - (momentum if hold is None else min(momentum, hold)))

    options = {"rule": rule, **({} if hold is None else {"hold": hold})}
    found = step_factor("critmom", options, rate, factor)
    assert step(rate * found) == pytest.approx(factor * step(rate), rel=1e-4)


def test_a_step_that_no_learning_rate_gives_is_one_sentence() -> None:
    """Under the ema rule, the mean step is never below about a quarter."""
    with pytest.raises(ComparisonError, match=r"No learning rate gives critmom with rule=ema .* --step_grid"):
        step_factor("critmom", {"rule": "ema"}, 0.1, 0.1)
    assert step_factor("critmom", {"rule": "ema"}, 0.1, 3.0) > 1.0


def test_a_grid_of_steps_gives_each_arm_its_own_learning_rates() -> None:
    arms = {name: ALL_ARMS[name] for name in ("constant", "critmom", "adamw", "compensated")}
    tuning = Tuning((0.5, 1.0, 2.0), (1.0,), seed=1, unit="step")
    plan = plans_by_hand.plan_of(arms=arms, tuning=tuning, training={"learning_rate": 0.01})
    plan = dataclasses.replace(plan, arms=arms)
    factors = {arm: [run.trial.learning_rate for run in plan.trials() if run.trial and run.arm == arm] for arm in arms}
    assert factors["critmom"] == [0.25, 1.0, 4.0]
    assert factors["constant"] == factors["adamw"] == factors["compensated"] == [0.5, 1.0, 2.0]
    assert len({run.folder for run in plan.trials()}) == 12


def test_learning_rates_and_steps_are_not_tuned_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grids = ("--learning_rate_grid", "1", "--step_grid", "1")
    assert main(("compare", "--use_cpu", *grids, "--output_dir", str(tmp_path / "out"))) == 2
    assert "give one of them" in capsys.readouterr().err
