"""Claims about growing: arms, seeds, targets and tuning are added, conditions stay, and no run is made twice."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.launches import launch, outcome, status_of, wait_until
from helpers.plans_by_hand import plan_of

from hf_critmom.commands import main
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.experiments.comparison import ComparisonError
from hf_critmom.experiments.comparison.arms.arm import EARLY_ARMS, Arm
from hf_critmom.experiments.comparison.arms.selection import get_arms
from hf_critmom.experiments.comparison.command_lines import with_flag
from hf_critmom.experiments.comparison.findings.findings import read_findings
from hf_critmom.experiments.comparison.findings.history import describe_history
from hf_critmom.experiments.comparison.growth import extend, initial_plan, load_or_create_plan, untried_arms
from hf_critmom.experiments.comparison.plan import LookPlan, Plan, Run, Trial, Tuning
from hf_critmom.experiments.comparison.planning import next_seed, plan_tuning, select_seeds
from hf_critmom.experiments.comparison.records import MAX_SEED
from hf_critmom.experiments.comparison.results import read_results, tuned_runs
from hf_critmom.experiments.comparison.tuning import BestTrial

COMMITTED = Path(__file__).parents[3] / "model_cards"
TINY = (
    *("compare", "--width", "2", "--per_device_train_batch_size", "64", "--max_train_samples", "128", "--use_cpu"),
    *("--max_eval_samples", "64", "--num_train_epochs", "1", "--workers", "1", "--evaluations_per_epoch", "1"),
)
SMALL = (*TINY, "--arms", "constant", "--num_seeds", "1", "--targets", "0.05")


def compare(*words: str, folder: Path) -> int:
    return main((*words, "--output_dir", str(folder)))


def results_in(folder: Path) -> dict[str, int]:
    files = folder.glob("runs/**/result.json")
    return {str(file.parent.relative_to(folder / "runs")): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of one arm and one seed."""
    folder = tmp_path_factory.mktemp("small") / "out"
    assert compare(*SMALL, folder=folder) == 0
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    shutil.copytree(small, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The sentence with which a command is answered; the folder stays as it is."""

    def answer(*words: str) -> str:
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        capsys.readouterr()
        assert compare(*words, folder=folder) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].endswith("."), lines
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return lines[0]

    return answer


# ---------------------------------------------------------------------------------------------- the commands that grew


@pytest.mark.parametrize(
    "growth",
    [
        ("--num_seeds 2", "--arms constant critmom"),
        ("--arms constant critmom --targets 0.05 0.1", "--num_seeds 2"),
        ("--learning_rate_grid 0.5 1", "--learning_rate_grid 1 2", "--arms constant nesterov"),
        ("--weight_decay_grid 0 1", "--learning_rate_grid 1 2 --weight_decay_grid 0 1 --num_seeds 2"),
        ("--arms constant critmom", "--arms critmom --learning_rate_grid 0.5 1", "--arms constant"),
        ("--arms constant critmom", "--arms critmom --learning_rate_grid 0.5 1", "--num_seeds 2"),
        ("--arms critmom constant --claim 'critmom < constant'", "--arms nesterov"),
        ("--arms constant critmom", "--arms critmom --num_seeds 3", "--arms nesterov", "--arms constant --num_seeds 2"),
        ("--arms critmom constant --num_seeds 2", "--arms nesterov --num_seeds 1", "--arms nesterov critmom --seed 44"),
        ("--learning_rate_grid 0.5 1 --trial_seeds 2", "--learning_rate_grid 0.5 1 --trial_seeds 1 --num_seeds 2"),
        ("--arms_file arms.toml --arms constant slow", "--num_seeds 2", "--arms slow 'nesterov[lr=0.01,name=low]'"),
    ],
    ids=lambda commands: " then ".join(commands),
)
def test_the_commands_of_a_card_make_the_same_comparison_in_an_empty_folder(
    growth: tuple[str, ...], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arms.toml").write_text('[slow]\noptimizer = "sgd"\nlearning_rate = 0.01\n')
    for words in growth:
        added = shlex.split(words)
        assert compare(*TINY, *added, folder=folder) == 0
    commands = read_findings(folder).commands
    card = (folder / "README.md").read_text()
    assert all(command in card for command in commands)
    assert ("one after another" in card) == (len(commands) > 1)
    for command in commands:
        _, *argv = shlex.split(command)
        assert main(with_flag(argv, "--output_dir", [str(tmp_path / "again")])) == 0
    assert outcome(tmp_path / "again") == outcome(folder)
    plan, again = Plan.read(folder), Plan.read(tmp_path / "again")
    assert not plan.differences(again) and again.tuning == plan.tuning
    assert (again.arms, again.targets, again.exploratory_targets) == (plan.arms, plan.targets, plan.exploratory_targets)
    assert {*again.seeds} == {*plan.seeds} and {*again.claims} == {*plan.claims}
    assert {*again.runs()} == {*plan.runs()}


# ------------------------------------------------------------------------------------------------- arms and seeds added


def test_more_seeds_and_arms_train_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    before = results_in(folder)
    grown = (*TINY, "--arms", "constant", "critmom", "--num_seeds", "2", "--targets", "0.05")
    assert compare(*grown, folder=folder) == 0
    after = results_in(folder)
    assert set(after) == {f"{arm}/seed-{seed}" for arm in ("constant", "critmom") for seed in (42, 43)}
    assert before.items() <= after.items()
    assert compare(*grown, folder=tmp_path / "at-once") == 0
    assert outcome(folder) == outcome(tmp_path / "at-once")  # to the bit as if it had been planned so
    tables = [
        pd.read_parquet(one / "results.parquet").drop(columns="seconds") for one in (folder, tmp_path / "at-once")
    ]
    pd.testing.assert_frame_equal(*tables)


def test_a_command_for_less_runs_nothing_and_reports_what_is_there(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(*TINY, "--arms", "constant", "critmom", "--num_seeds", "2", "--targets", "0.05", folder=folder) == 0
    before = results_in(folder)
    capsys.readouterr()
    assert compare(*SMALL, folder=folder) == 0
    assert results_in(folder) == before
    printed = capsys.readouterr().out
    assert "constant" in printed and "critmom" in printed  # the report is of the whole comparison
    plan = Plan.read(folder)
    assert (list(plan.arms), plan.seeds) == (["constant", "critmom"], (42, 43))


def test_seeds_are_added_only_to_the_arms_that_a_command_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(*TINY, "--arms", "constant", "critmom", "nesterov", "--num_seeds", "2", folder=folder) == 0
    before = results_in(folder)
    capsys.readouterr()
    assert compare(*TINY, "--arms", "nesterov", "constant", "--num_seeds", "4", folder=folder) == 0
    made = {f"{arm}/seed-{seed}" for arm in ("constant", "nesterov") for seed in (44, 45)}
    assert results_in(folder).keys() - before.keys() == made
    found = read_findings(folder)
    assert found.finished == len(found.plan.runs()) == 10  # nothing is missing
    assert "finished" not in capsys.readouterr().out
    assert "seeds 44 and 45 of constant and nesterov were added" in describe_history(found.plan)[-1]
    by_pair = {(one.claim.arm, one.claim.baselines): one for one in found.budgets[0].analysis.verdicts}
    assert by_pair["nesterov", ("constant",)].seeds == 4 and by_pair["critmom", ("constant",)].seeds == 2
    assert compare(*TINY, folder=folder) == 0  # a command that names neither arms nor seeds leaves them as they are
    assert results_in(folder).keys() == before.keys() | made and read_findings(folder).plan == found.plan
    assert compare(*TINY, "--num_seeds", "3", folder=folder) == 0
    assert results_in(folder).keys() - before.keys() - made == {"critmom/seed-44"}
    assert Plan.read(folder).left_out == {"critmom": (45,)}


def test_curvature_is_measured_with_the_first_seed_that_an_arm_has(folder: Path) -> None:
    assert (
        compare(*TINY, "--arms", "critmom", "--num_seeds", "2", "--seed", "43", "--measure_curvature", folder=folder)
        == 0
    )
    results = {run.seed: result for run, result in read_results(folder, Plan.read(folder)).runs.items()}
    assert [bool(results[seed].curvature) for seed in (42, 43, 44)] == [False, True, False]


def test_tuned_variants_get_the_seeds_of_their_arms(folder: Path) -> None:
    tuned = ("--learning_rate_grid", "0.5", "2")
    assert compare(*TINY, "--arms", "constant", "critmom", *tuned, folder=folder) == 0
    assert compare(*TINY, "--arms", "critmom", "--num_seeds", "2", folder=folder) == 0
    seeds = {(run.arm, run.seed) for run in read_results(folder, Plan.read(folder)).runs}
    assert {arm for arm, seed in seeds if seed == 43} == {"critmom", "critmom_tuned"}
    assert {arm for arm, seed in seeds if seed == 42} == {"constant", "constant_tuned", "critmom", "critmom_tuned"}


def test_arms_alone_are_added_by_a_command_that_names_no_others(folder: Path) -> None:
    assert compare(*TINY, "--arms", "adamw", folder=folder) == 0
    plan = Plan.read(folder)
    assert list(plan.arms) == ["constant", "adamw"] and plan.seeds == (42,)  # its seeds are the comparison's
    assert set(results_in(folder)) == {"constant/seed-42", "adamw/seed-42"}


def test_a_command_that_names_no_arms_goes_on_with_those_of_the_comparison(folder: Path) -> None:
    assert compare(*TINY, "--num_seeds", "2", folder=folder) == 0
    assert list(Plan.read(folder).arms) == ["constant"]
    assert set(results_in(folder)) == {"constant/seed-42", "constant/seed-43"}


def test_the_plan_tells_how_the_comparison_grew(folder: Path) -> None:
    assert compare(*TINY, "--arms", "critmom", "--num_seeds", "2", "--targets", "0.05", "0.5", folder=folder) == 0
    plan = Plan.read(folder)
    first, second = plan.history
    assert (first.arms, first.seeds, first.targets, first.finished) == (("constant",), (42,), (0.05,), 0)
    assert (second.arms, second.seeds, second.targets, second.finished) == (("critmom",), (43,), (0.5,), 1)
    assert (
        first.date <= second.date and second.date.startswith("20") and second.command.startswith("hf-critmom compare")
    )
    assert (plan.targets, plan.exploratory_targets) == ((0.05,), (0.5,))
    assert plan.command == first.command  # the second asks for a part only
    assert compare(*TINY, "--arms", "constant", "critmom", "--num_seeds", "2", folder=folder) == 0
    plan = Plan.read(folder)
    assert plan.command == first.command and (plan.history[2].seeds, plan.history[2].seeds_for) == (
        (43,),
        ("constant",),
    )
    assert compare(*TINY, "--arms", "constant", "critmom", "--num_seeds", "3", folder=folder) == 0
    assert Plan.read(folder).command == first.command  # in an empty folder no target would be exploratory


def test_the_command_of_a_plan_is_the_last_one_that_makes_all_of_it(folder: Path) -> None:
    assert compare(*TINY, "--arms", "critmom", "--num_seeds", "1", folder=folder) == 0
    assert len(read_findings(folder).commands) == 2
    assert compare(*TINY, "--num_seeds", "2", folder=folder) == 0  # of the arms of the plan, which it leaves open
    assert len(read_findings(folder).commands) == 3
    assert compare(*TINY, "--arms", "constant", "critmom", "--num_seeds", "3", folder=folder) == 0
    assert len(read_findings(folder).commands) == 1 and "--num_seeds 3" in Plan.read(folder).command
    assert compare(*TINY, "--num_seeds", "4", folder=folder) == 0
    command = Plan.read(folder).command
    assert "--num_seeds 4" in command and "--arms constant critmom" in command


@pytest.mark.slow
def test_two_launches_that_add_different_things_lose_neither(folder: Path, tmp_path: Path) -> None:
    launches = [
        launch(*TINY, *words, "--output_dir", str(folder), said=tmp_path / f"said-{number}")
        for number, words in enumerate((("--arms", "critmom"), ("--num_seeds", "2", "--arms", "constant")))
    ]
    assert [status_of(one) for one in launches] == [0, 0]
    plan = Plan.read(folder)
    assert set(plan.arms) == {"constant", "critmom"} and set(plan.seeds) == {42, 43}
    assert {"constant/seed-42", "constant/seed-43", "critmom/seed-42"} <= set(results_in(folder))
    table = pd.read_parquet(folder / "results.parquet")
    assert len(table.groupby(["arm", "seed"])) == len(results_in(folder))


# -------------------------------------------------------------------------------------------------------------- targets


def test_targets_that_were_added_after_a_result_are_exploratory_and_need_no_training(folder: Path) -> None:
    before = results_in(folder)
    assert compare(*SMALL[:-1], "0.05", "0.02", "0.5", folder=folder) == 0
    assert results_in(folder) == before
    plan = Plan.read(folder)
    assert plan.targets == (0.05,) and set(plan.exploratory_targets) == {0.02, 0.5}
    assert compare(*SMALL, folder=folder) == 0
    assert Plan.read(folder) == plan


# --------------------------------------------------------------------------------------------------------------- tuning


def test_tuning_is_added_as_if_it_had_been_planned_and_repeats_no_run(folder: Path, tmp_path: Path) -> None:
    before = results_in(folder)
    tuned = (*SMALL, "--learning_rate_grid", "0.1", "1")
    assert compare(*tuned, folder=folder) == 0
    after = results_in(folder)
    assert before.items() <= after.items()
    assert {"constant/tuning/lr-0.1-wd-1", "constant/tuning/lr-1-wd-1"} <= after.keys()
    assert compare(*tuned, folder=tmp_path / "at-once") == 0
    assert outcome(folder) == outcome(tmp_path / "at-once")
    plan = Plan.read(folder)
    assert [one.tuning for one in plan.history] == [False, True] and plan.command == plan.history[1].command
    (told,) = describe_history(plan)
    assert "points of the tuning grid were added after the first analysis (1 run was finished)" in told
    assert "earlier choices" not in told


def test_trials_of_some_arms_are_followed_by_those_of_the_others(folder: Path) -> None:
    assert compare(*TINY, "--arms", "constant", "critmom", folder=folder) == 0
    assert compare(*TINY, "--arms", "critmom", "--learning_rate_grid", "0.5", "1", folder=folder) == 0
    assert compare(*TINY, "--arms", "critmom", folder=folder) == 0  # asks for nothing new
    plan = Plan.read(folder)
    assert [one.tried for one in plan.history] == [(), (), ("critmom",)] and untried_arms(plan) == {"constant"}
    stored = plan.as_json()
    del stored["history"][2]["tried"]  # as earlier versions stored it
    assert untried_arms(Plan.parse(folder, stored)) == {"constant"}
    every = (*TINY, "--arms", "constant", "critmom", "--learning_rate_grid", "0.5", "1")
    assert compare(*every, folder=folder) == 0
    plan = Plan.read(folder)
    assert plan.history[3].tried == ("constant",) and not untried_arms(plan)
    assert "the trials of constant were added after the first analysis" in describe_history(plan)[-1]
    assert read_findings(folder).commands == [plan.command]  # which makes all of it
    assert compare(*every, folder=folder) == 0
    assert Plan.read(folder) == plan


def test_points_are_added_to_a_grid_which_need_not_be_given_again(
    folder: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    assert compare(*SMALL, "--learning_rate_grid", "0.1", "0.3", folder=folder) == 0
    before = results_in(folder)
    (variant,) = (name for name in before if name.startswith("constant_tuned"))
    for words in ((), ("--learning_rate_grid", "0.3")):  # a part of what is there
        assert compare(*SMALL, *words, folder=folder) == 0
        assert results_in(folder) == before
    grown = (*SMALL, "--learning_rate_grid", "0.1", "0.3", "0.9", "2")
    assert compare(*grown, folder=folder) == 0
    after = results_in(folder)
    assert before.items() <= after.items() and variant in after  # also where another point is the best now
    assert {name for name in after if "/tuning/" in name} == {
        f"constant/tuning/lr-{factor}-wd-1" for factor in ("0.1", "0.3", "0.9", "2")
    }
    assert compare(*grown, folder=tmp_path / "at-once") == 0
    tables = [
        pd.read_parquet(one / "results.parquet").drop(columns="seconds") for one in (folder, tmp_path / "at-once")
    ]
    pd.testing.assert_frame_equal(*tables)
    plan = Plan.read(folder)
    assert plan.tuning is not None and plan.tuning.learning_rate == (0.1, 0.3, 0.9, 2.0)
    assert [one.tuning for one in plan.history] == [False, True, True] and "0.9" in plan.command
    assert "tuning.unit: learning_rate and step" in refusal(*SMALL, "--step_grid", "0.5", "1")


def test_seeds_are_added_to_the_trials_and_only_their_runs_are_made(
    folder: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    assert "--trial_seeds 2 is about the trials of a tuning grid" in refusal(*SMALL, "--trial_seeds", "2")
    tuned = (*SMALL, "--learning_rate_grid", "0.1", "0.3")
    assert compare(*tuned, folder=folder) == 0
    before = results_in(folder)
    assert compare(*SMALL, "--trial_seeds", "3", folder=folder) == 0  # the grid need not be given again
    after = results_in(folder)
    assert before.items() <= after.items()
    added = {name for name in after.keys() - before.keys() if "/tuning/" in name}
    assert added == {f"constant/tuning/lr-{factor}-wd-1-seed-{seed}" for factor in (0.1, 0.3) for seed in (1043, 1044)}
    for words in ((), ("--trial_seeds", "2")):  # no more than there are
        assert compare(*tuned, *words, folder=folder) == 0
        assert results_in(folder) == after
    plan = Plan.read(folder)
    assert plan.trial_seeds == (1042, 1043, 1044) and plan.history[-1].trial_seeds == (1043, 1044)
    said = describe_history(plan)[-1]
    assert "seeds 1043 and 1044 of the trials were added after the first analysis" in said
    assert "tuned variants are those that all trials chose, and earlier choices may have had verdicts" in said
    (one,) = [budget.trials for budget in read_findings(folder).budgets]
    assert {trial.seeds for trial in one} == {3}
    commands = [shlex.split(command) for command in read_findings(folder).commands]
    assert "--trial_seeds" in commands[-1]
    for command in commands:  # one after another, in an empty folder
        words = with_flag(command[2:], "--output_dir", [str(tmp_path / "again")])
        assert main(("compare", *words)) == 0
    assert compare(*tuned, "--trial_seeds", "3", folder=tmp_path / "at-once") == 0
    tables = [
        pd.read_parquet(one / "results.parquet").drop(columns="seconds")
        for one in (folder, tmp_path / "again", tmp_path / "at-once")
    ]
    pd.testing.assert_frame_equal(*tables[:2])
    pd.testing.assert_frame_equal(*tables[1:])
    assert "--trial_seeds must be at least 1" in refusal(*tuned, "--trial_seeds", "0")


def test_the_seeds_of_trials_and_of_runs_stay_apart(folder: Path) -> None:
    stored = dataclasses.replace(
        Plan.read(folder), seeds=(42, 1044), tuning=Tuning((1.0, 2.0), (1.0,), 1042, can_grow=True)
    )
    request = parse_comparison([*SMALL[1:], "--trial_seeds", "4"])
    tuning = plan_tuning(request.comparison, (42,), stored)
    assert tuning is not None and tuning.seeds == (1042, 1043, 1045, 1046)
    grown = dataclasses.replace(stored, tuning=tuning)
    assert next_seed(grown, ["constant"]) == 1047
    more = parse_comparison([*SMALL[1:], "--seed", "1041", "--num_seeds", "3"])
    assert select_seeds(more.comparison, 1041, more.given, grown) == (1041, 1044, 1047)
    with pytest.raises(ValueError, match="1045 is a seed of the trials and one of the compared runs"):
        dataclasses.replace(grown, seeds=(42, 1045))
    request = dataclasses.replace(stored, seeds=(1045,))  # planned before another launch added seeds of the trials
    with pytest.raises(ComparisonError, match=r"cannot grow by this \(1045 is a seed of the trials and .*\): choose"):
        extend(grown, request, folder)


def test_the_runs_of_another_choice_are_kept_beside_those_of_the_present_one() -> None:
    trials = [Trial(0.3), Trial(3.0)]
    places = [
        next(iter(tuned_runs(plan_of(tuning=tuning), [BestTrial("constant", None, trial, 0.9, 2, 0, ())]))).folder
        for trial in trials
        for tuning in (Tuning((0.3, 3.0), (1.0,), 1042, can_grow=True), Tuning((0.3, 3.0), (1.0,), 1042))
    ]
    assert places[0] == Path("runs/constant_tuned/lr-0.3-wd-1/seed-0")
    assert places[2] == Path("runs/constant_tuned/lr-3-wd-1/seed-0")
    assert places[1] == places[3] == Path("runs/constant_tuned/seed-0")  # of early grids, which cannot grow


def test_early_grids_stay_as_they_are(tmp_path: Path) -> None:
    stored = plan_of(tuning=Tuning((0.3, 1.0), (1.0,), 1042))
    more = dataclasses.replace(stored, tuning=Tuning((0.3, 1.0, 3.0), (1.0,), 1042))
    with pytest.raises(ComparisonError, match=r"tuning\.learning_rate"):
        extend(stored, more, tmp_path)
    assert "can_grow" not in stored.as_json()["tuning"]


def test_factors_that_name_the_same_folder_are_one_point() -> None:
    grid = Tuning((1.0,), (1.0,), 1042, can_grow=True)
    assert grid.joined_with(dataclasses.replace(grid, learning_rate=(1.0000001, 3.0))).learning_rate == (1.0, 3.0)


def test_the_trials_of_tuning_that_is_added_have_a_seed_that_no_run_had(folder: Path) -> None:
    stored = dataclasses.replace(Plan.read(folder), seeds=(42, 1042, 1043))
    request = parse_comparison([*SMALL[1:], "--learning_rate_grid", "0.1", "1"])
    tuning = plan_tuning(request.comparison, (42,), stored)
    assert tuning is not None and tuning.seed == 2043
    stored = dataclasses.replace(stored, seeds=(42, 1042, MAX_SEED))  # with no room beyond them
    tuning = plan_tuning(request.comparison, (42,), stored)
    assert tuning is not None and tuning.seed == 0


# ----------------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--learning_rate", "0.2"), "training.learning_rate: 0.1 and 0.2"),
        (("--weight_decay", "0"), "training.weight_decay"),
        (("--num_train_epochs", "2"), "training.num_train_epochs"),
        (("--per_device_train_batch_size", "32"), "training.total_train_batch_size: 64 and 32"),
        (("--width", "4"), "model.width: 2 and 4"),
        (("--max_train_samples", "96"), "task.splits.train.examples: 128 and 96"),
        (("--split_seed", "3"), "task.splits.train.sha256"),
        (("--crop_padding", "0"), "task.augmentation.crop_padding: 1 and 0"),
        (("--evaluations_per_epoch", "2"), "training.evaluations_per_epoch: - and 2"),
        (("--bf16", "true"), "training.bf16"),
        (("--margin", "0.2"), "margin: 0.1 and 0.2"),
        (("--threads_per_worker", "3"), "uses 1 thread per run, and results depend on that number"),
        (("--arms", "constant", "adamw", "--baseline", "adamw"), "against the baseline constant"),
        (
            (
                "--arms",
                "constant[momentum=0.5,name=critmom]",
            ),
            "needs a name of its own",
        ),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, tuple) else "",
)
def test_other_conditions_are_an_error_that_names_them(
    words: tuple[str, ...], said: str, refusal: Callable[..., str]
) -> None:
    small = (*TINY, *SMALL[len(TINY) + 2 :]) if "--arms" in words else SMALL  # arms are given once
    assert said in refusal(*small, *words)


def test_an_arm_of_the_same_name_is_the_same_arm(folder: Path, refusal: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "arms.toml"
    file.write_text('[constant]\noptimizer = "sgd"\noptions = { momentum = 0.5 }\n')
    assert "arms.constant.options.momentum: 0.9 and 0.5" in refusal(*SMALL, "--arms_file", str(file))


def test_other_data_under_the_same_flags_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "text.txt"
    texts.write_text("To be, or not to be, that is the question. " * 400)
    words = ("compare", "--task", "text", "--train_file", str(texts), "--block_size", "16", "--hidden_size", "8")
    words += ("--num_hidden_layers", "1", "--num_attention_heads", "1", "--max_steps", "1", "--eval_steps", "1")
    words += ("--max_eval_samples", "8", "--use_cpu", "--arms", "adamw", "--workers", "1", "--targets", "3")
    assert compare(*words, "--num_seeds", "1", folder=tmp_path / "out") == 0
    texts.write_text("Now is the winter of our discontent. " * 400)
    capsys.readouterr()
    assert compare(*words, "--num_seeds", "2", folder=tmp_path / "out") == 2
    assert "task.splits.train.sha256" in capsys.readouterr().err
    assert set(results_in(tmp_path / "out")) == {"adamw/seed-42"}


# ------------------------------------------------------------------------------------ plans whose runs have not started


def test_a_plan_whose_runs_have_not_started_is_replaced_by_a_corrected_command(folder: Path) -> None:
    shutil.rmtree(folder / "runs")
    assert compare(*SMALL[:-1], "0.07", "--learning_rate", "0.2", folder=folder) == 0
    plan = Plan.read(folder)
    assert plan.targets == (0.07,) and plan.exploratory_targets == () and plan.training["learning_rate"] == 0.2
    assert len(plan.history) == 1


@pytest.mark.slow
def test_a_plan_that_another_launch_works_on_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    long = (*TINY, "--num_train_epochs", "2000", "--arms", "constant", "--num_seeds", "1")
    process = launch(*long, "--output_dir", str(folder), said=tmp_path / "said")
    try:
        wait_until(lambda: (folder / "runs").exists(), process)
        assert compare(*SMALL, folder=folder) == 2
        assert "different plan (training.num_train_epochs: 2000.0 and 1.0" in capsys.readouterr().err
    finally:
        process.kill()
        process.join()
    assert compare(*SMALL, folder=folder) == 0  # it left nothing that would be lost


# ----------------------------------------------------------------------------------------------------- the trials' seed


def test_the_seed_of_the_trials_is_never_that_of_a_run(tmp_path: Path) -> None:
    """Early plans took the seed after the runs' last one for the trials."""
    tuned = plan_of(seeds=(0, 1, 2), tuning=Tuning((1.0,), (1.0,), seed=3), training={"learning_rate": 0.1})
    with pytest.raises(ValueError, match="3 is a seed of the trials"):
        dataclasses.replace(tuned, seeds=(0, 1, 2, 3))
    words = (*TINY, "--arms", "constant", "--targets", "0.05", "--learning_rate_grid", "0.5", "1")
    assert compare(*words, "--num_seeds", "1", folder=tmp_path) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    content["tuning"]["seed"] = 43
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    for file in tmp_path.glob("runs/*/tuning/*/result.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": 43}))
    assert compare(*words, "--num_seeds", "3", folder=tmp_path) == 0
    plan = Plan.read(tmp_path)
    assert plan.seeds == (42, 44, 45) and plan.tuning is not None and plan.tuning.seed == 43


# ------------------------------------------------------------------------------------------------------- early folders


EARLY = sorted(
    path.parent.name for path in COMMITTED.glob("*/comparison.json") if "history" not in json.loads(path.read_text())
)


@pytest.mark.parametrize("name", EARLY)
def test_the_comparisons_of_the_repository_can_be_extended(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(COMMITTED / name, folder)
    stored = Plan.read(folder)
    seeds = (*stored.seeds, 45)
    requested = dataclasses.replace(
        stored, arms={**stored.arms, "new": Arm("new", "sgd")}, seeds=seeds, threads=stored.recorded_threads
    )
    grown = load_or_create_plan(requested, folder, write=True)
    assert Plan.read(folder) == grown
    assert list(grown.arms) == [*stored.arms, "new"] and grown.seeds == seeds
    assert [extension.date == "" for extension in grown.history] == [True, False]
    assert grown.history[1].finished == len(stored.runs())
    number = max(len(stored.seeds), 2)  # one seed decides nothing
    assert grown.baseline_arm == "constant" and grown.looks == LookPlan(number, number)


def test_an_early_arm_stays_as_it_is() -> None:
    early = {"matched": EARLY_ARMS["matched"]}
    assert get_arms(["matched", "critmom"], stored=early)["matched"] == EARLY_ARMS["matched"]
    assert get_arms(["matched"])["matched"].optimizer == "critmom_matched"
    assert (
        get_arms(["matched"], stored={"critmom": Arm("critmom", "critmom")})["matched"].optimizer == "critmom_matched"
    )


@pytest.mark.parametrize(
    ("hardware", "threads"),
    [
        ("2 CPU cores (AMD EPYC)", 2),
        ("2 CPU cores (AMD EPYC, 1 thread per process)", 1),
        ("16 CPU cores (Xeon (R), 4 threads per process)", 4),
        ("1 x NVIDIA H100", None),
        ("", None),
    ],
)
def test_an_early_plan_states_its_threads_with_the_hardware(hardware: str, threads: int | None) -> None:
    assert plan_of(versions={"hardware": hardware}).recorded_threads == threads
    assert plan_of(versions={"hardware": hardware}, threads=7).recorded_threads == 7


# ---------------------------------------------------------------------------------------------------------------- looks


def result_file(folder: Path, arm: str, seed: int) -> None:
    file = folder / "runs" / arm / f"seed-{seed}" / "result.json"
    file.parent.mkdir(parents=True)
    evaluation = {"step": 1, "epoch": 1.0, "seconds": 1.0, "loss": 1.0, "accuracy": 0.5}
    result: dict[str, Any] = {
        **{"arm": arm, "seed": seed, "status": "finished", "steps": 1, "train_seconds": 1.0},
        **{"evaluations": [evaluation], "test": {"loss": 1.0, "accuracy": 0.5}, "versions": {"hardware": "none"}},
    }
    file.write_text(json.dumps(result))


def trial_file(folder: Path, run: Run) -> None:
    result_file(folder, f"{run.arm}/tuning", run.seed)
    made = folder / "runs" / run.arm / "tuning" / f"seed-{run.seed}"
    result = json.loads((made / "result.json").read_text()) | {"arm": run.arm, "test": {}}
    (made / "result.json").write_text(json.dumps(result))
    made.rename(folder / run.folder)


def test_the_looks_are_planned_again_until_somebody_can_have_seen_a_verdict(tmp_path: Path) -> None:
    plan = initial_plan(plan_of(("constant", "critmom"), (0, 1, 2)))
    more = dataclasses.replace(plan, seeds=(0, 1, 2, 3, 4), looks=None)
    result_file(tmp_path, "constant", 0)
    result_file(tmp_path, "constant", 1)
    result_file(tmp_path, "critmom", 0)
    grown = extend(plan, more, tmp_path)
    assert grown.looks == LookPlan(5, 5)  # nobody has seen a verdict: the looks are planned anew
    for arm, seed in (("critmom", 1), ("constant", 2), ("critmom", 2)):
        result_file(tmp_path, arm, seed)
    grown = extend(plan, more, tmp_path)
    assert grown.looks == LookPlan(3, 3)  # three seeds have been seen: the next ones are further looks
    assert extend(grown, dataclasses.replace(more, seeds=(0, 1)), tmp_path) is grown


def test_a_first_try_with_one_seed_takes_nothing_from_those_that_follow(tmp_path: Path) -> None:
    """One seed has no spread: it decides nothing, so its look spends nothing."""
    plan = initial_plan(plan_of(("constant", "critmom"), (0,)))
    result_file(tmp_path, "constant", 0)
    result_file(tmp_path, "critmom", 0)
    grown = extend(plan, dataclasses.replace(plan, seeds=(0, 1, 2, 3, 4), looks=None), tmp_path)
    assert grown.looks == LookPlan(5, 5)


def test_an_arm_that_is_added_is_no_look(tmp_path: Path) -> None:
    plan = initial_plan(plan_of(("constant",), (0,)))
    result_file(tmp_path, "constant", 0)
    grown = extend(plan, dataclasses.replace(plan_of(("constant", "critmom"), (0,)), baseline=None), tmp_path)
    assert grown.looks == LookPlan(1, 1)


def test_a_look_counts_when_arms_are_added_before_seeds(tmp_path: Path) -> None:
    """Else the verdict that was seen with three seeds would get all of its error probability again with five."""
    plan = initial_plan(plan_of(("constant", "critmom"), (0, 1, 2)))
    for arm in plan.arms:
        for seed in plan.seeds:
            result_file(tmp_path, arm, seed)
    every = plan_of(("constant", "critmom", "hybrid"), (0, 1, 2), command="arms")
    grown = extend(plan, every, tmp_path)
    result_file(tmp_path, "hybrid", 0)  # and then the command was stopped
    grown = extend(grown, dataclasses.replace(every, seeds=(0, 1, 2, 3, 4), command="seeds"), tmp_path)
    assert grown.looks == LookPlan(3, 3)
    assert [one.partition("added ")[2] for one in describe_history(grown)] == [
        "after the first analysis (6 runs were finished).",
        "after the first analysis (7 runs were finished).",
    ]


def test_runs_of_tuned_variants_do_not_make_a_look(tmp_path: Path) -> None:
    """A variant whose trials chose the arm's own values has its runs, and they count once."""
    tuning = Tuning((1.0, 2.0), (1.0,), 7, can_grow=True)
    parts: dict[str, Any] = {"tuning": tuning, "training": {"learning_rate": 0.1}}
    plan = initial_plan(plan_of(("constant", "critmom"), (0, 1, 2), **parts))
    for seed in (0, 1):
        for arm in plan.arms:
            result_file(tmp_path, arm, seed)
    for run in plan.trials():
        trial_file(tmp_path, run)
    assert len(read_results(tmp_path, plan).runs) == 8
    added = extend(plan, plan_of(("constant", "critmom", "hybrid"), (0, 1, 2), **parts), tmp_path)
    assert describe_history(added)[0].endswith("before the first analysis (4 runs were finished).")


def test_claims_that_were_added_after_results_of_their_arms_are_told_apart(tmp_path: Path) -> None:
    """The result could have been their reason; a claim about an arm without results is stated in advance."""
    plan = initial_plan(plan_of(("constant", "critmom", "hybrid"), (0,), claims=("critmom < all",)))
    for arm in ("constant", "critmom"):
        result_file(tmp_path, arm, 0)
    added = ("constant < critmom", "hybrid < critmom", "critmom < all")
    grown = extend(plan, dataclasses.replace(plan, claims=added), tmp_path)
    assert grown.claims == ("critmom < all", "constant < critmom", "hybrid < critmom")
    assert grown.later_claims == ("constant < critmom",)
    grown.write(tmp_path)
    assert Plan.read(tmp_path) == grown and "later_claims" not in plan.as_json()
    claims = [verdict.claim for verdict in read_findings(tmp_path).budgets[0].analysis.verdicts]
    assert {claim.text for claim in claims if claim.primary} == {
        "critmom is faster than every other arm",
        "hybrid is faster than critmom",
    }


def test_targets_that_were_added_after_a_trial_are_exploratory(tmp_path: Path) -> None:
    """Trials come first, and their curves tell at which target an arm is fast."""
    tuning = Tuning((1.0, 2.0), (1.0,), 7, can_grow=True)
    parts: dict[str, Any] = {"tuning": tuning, "training": {"learning_rate": 0.1}}
    plan = initial_plan(plan_of(("constant",), (0,), **parts))
    more = plan_of(("constant",), (0,), targets=(0.9, 0.5), **parts)
    assert extend(plan, more, tmp_path).exploratory_targets == ()
    trial_file(tmp_path, plan.trials()[0])
    grown = extend(plan, more, tmp_path)
    assert (grown.targets, grown.exploratory_targets) == ((0.9,), (0.5,))
    (said,) = describe_history(grown)
    assert "was added before the first compared run had finished; what was added as a target is exploratory" in said


def test_conditions_of_an_early_plan_are_those_that_it_recorded() -> None:
    early, now = plan_of(threads=None), plan_of(threads=3)
    assert early.differences(now) == []
    renamed = dataclasses.replace(now.task, name="other", content={**now.task.content, "name": "other", "depth": 8})
    assert early.differences(dataclasses.replace(now, task=renamed)) == []
    with pytest.raises(ComparisonError, match="threads: 2 and 3"):
        extend(dataclasses.replace(early, threads=2), now, Path())
