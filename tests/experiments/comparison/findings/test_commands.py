"""Claims about the commands that a report proposes: typed in, each does what the sentence before it says."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers.plans_by_hand import plan_of

from hf_critmom.commands.compare import parse_comparison
from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.arms.selection import get_arms
from hf_critmom.experiments.comparison.command_lines import completed, flag_values
from hf_critmom.experiments.comparison.findings.commands import (
    command_for_seeds,
    continuing_command,
    recorded_commands,
)
from hf_critmom.experiments.comparison.growth import extend
from hf_critmom.experiments.comparison.plan import Extension, LookPlan, Plan, Tuning
from hf_critmom.experiments.comparison.planning import next_seed, plan_looks, select_arms, select_left_out, select_seeds
from hf_critmom.experiments.comparison.script.arguments import ScriptRequest

FOLDER = Path("out")
BEGUN = Extension("2026-11-28T10:00:00+00:00", "", ("constant", "critmom"), (0, 1, 2), (0.9,))
LATER = Extension("2026-11-29T10:00:00+00:00", "hf-critmom compare", finished=6)


def planned(command: str = "hf-critmom compare --output_dir out", **parts: Any) -> Plan:
    """A comparison of constant and critmom with the seeds 0 to 2, begun with this command."""
    arms, seeds = parts.pop("arms", ("constant", "critmom")), parts.pop("seeds", (0, 1, 2))
    begun = dataclasses.replace(BEGUN, command=parts.pop("begun_with", command))
    return plan_of(arms, seeds, command=command, history=(begun, *parts.pop("history", ())), **parts)


def extent(command: str, plan: Plan) -> tuple[list[str], tuple[int, ...]]:
    """The arms and seeds of a plan that a command makes, as the command itself finds out."""
    program, name, *argv = shlex.split(command)
    assert (program, name) == ("hf-critmom", "compare")
    request = parse_comparison(argv)
    if isinstance(request, ScriptRequest):
        request = request.check()
        comparison, start, folder = request.comparison, request.flags.seed, request.folder
    else:
        comparison, start, folder = request.comparison, request.training.seed, Path(str(request.training.output_dir))
    assert folder == FOLDER
    arms, seeds = select_arms(comparison, FOLDER, plan), select_seeds(comparison, start, request.given, plan)
    if comparison.until_decided:
        assert plan_looks(comparison, seeds) is not None
        most = comparison.max_seeds or max((plan.looks or LookPlan(1, 1)).last, 10)
        return list(arms), (*plan.seeds, *range(max(plan.seeds) + 1, max(plan.seeds) + 1 + most - len(plan.seeds)))
    assert all(arms[name] == plan.arms[name] for name in arms)
    return list(arms), tuple(sorted({*plan.seeds, *seeds}))


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("compare --output_dir out", "compare --output_dir out --num_seeds 7"),
        ("compare --num_seeds 3 --output_dir out", "compare --output_dir out --num_seeds 7"),
        ("compare --num_seeds=3 --output_dir out", "compare --output_dir out --num_seeds 7"),
        ("compare --num-seeds 3 --output-dir out", "compare --output-dir out --num_seeds 7"),
        (
            "compare --script train.py --output_dir out -- --num_seeds 3",
            "compare --script train.py --output_dir out --num_seeds 7 -- --num_seeds 3",
        ),
        (
            "compare --arms 'timm:lion[lr=1e-4]' sgd --output_dir out",
            "compare --arms 'timm:lion[lr=1e-4]' sgd --output_dir out --num_seeds 7",
        ),
    ],
)
def test_a_comparison_of_fixed_size_is_given_more_seeds(given: str, then: str) -> None:
    assert command_for_seeds(planned(f"hf-critmom {given}"), FOLDER, 7) == f"hf-critmom {then}"


def test_a_comparison_that_grows_by_itself_goes_on_or_is_given_a_higher_end() -> None:
    plan = planned("hf-critmom compare --until_decided --output_dir out", looks=LookPlan(3, 10))
    assert command_for_seeds(plan, FOLDER, 8) == plan.command
    assert command_for_seeds(plan, FOLDER, 14) == f"{plan.command} --max_seeds 14"
    plan = planned("hf-critmom compare --until_decided --max_seeds 10 --bf16 --output_dir out", looks=LookPlan(3, 10))
    proposed = command_for_seeds(plan, FOLDER, 14)
    assert proposed == "hf-critmom compare --until_decided --bf16 --output_dir out --max_seeds 14"


def test_one_that_was_to_grow_to_where_it_began_is_given_a_higher_end() -> None:
    plan = planned(
        "hf-critmom compare --until_decided --num_seeds 3 --max_seeds 3 --output_dir out", looks=LookPlan(3, 3)
    )
    proposed = command_for_seeds(plan, FOLDER, 4)
    assert proposed == "hf-critmom compare --until_decided --num_seeds 3 --output_dir out --max_seeds 4"
    assert len(extent(proposed, dataclasses.replace(plan, arms=get_arms(["constant", "critmom"])))[1]) == 4


@pytest.mark.parametrize(
    ("own", "first", "last", "seeds"),
    [
        ("--until_decided --max_seeds 5", 3, 10, 8),  # the later command had a lower end than the plan
        ("--num_seeds 12", 3, 20, 15),  # more by hand than --until_decided would begin with
        ("--until_decided", 3, 5, 8),
        ("--until-decided", 3, 10, 12),
    ],
)
def test_one_that_grows_by_itself_gets_to_the_number(own: str, first: int, last: int, seeds: int) -> None:
    arms = get_arms(["constant", "critmom"])
    plan = planned(f"hf-critmom compare --seed 0 {own} --output_dir out", looks=LookPlan(first, last))
    names, every_seed = extent(command_for_seeds(plan, FOLDER, seeds), dataclasses.replace(plan, arms=arms))
    assert names == list(arms) and len(every_seed) >= seeds


def test_arms_that_later_commands_added_get_the_seeds_too() -> None:
    added = dataclasses.replace(LATER, command="hf-critmom compare --arms adamw", arms=("adamw",))
    plan = planned(
        "hf-critmom compare --arms constant critmom --output_dir out",
        arms=("constant", "critmom", "adamw"),
        history=(added,),
    )
    assert shlex.split(command_for_seeds(plan, FOLDER, 5)) == [
        *("hf-critmom", "compare", "--output_dir", "out", "--arms", "constant", "critmom", "adamw", "--num_seeds", "5")
    ]


@pytest.mark.parametrize("more", ["timm:lion[lr=1e-4]", "torch.optim.RAdam[lr=1e-3,name=radam]", "critmom[rule=exact]"])
def test_arms_are_spelled_as_the_commands_did_that_added_them(more: str) -> None:
    arms = get_arms(["constant", "critmom", more])
    added = dataclasses.replace(
        LATER, command=shlex.join(["hf-critmom", "compare", "--arms", more]), arms=(list(arms)[2],)
    )
    plan = planned("hf-critmom compare --arms constant critmom --seed 0 --output_dir out", history=(added,))
    plan = dataclasses.replace(plan, arms=arms)
    for proposed, seeds in ((command_for_seeds(plan, FOLDER, 5), 5), (continuing_command(plan, FOLDER), 3)):
        assert extent(proposed, plan) == (list(arms), tuple(range(seeds)))


def test_arms_of_a_file_come_with_their_file(tmp_path: Path) -> None:
    file = tmp_path / "arms.toml"
    file.write_text('[heavy]\noptimizer = "sgd"\noptions = { momentum = 0.95 }\n')
    own = f"--arms constant critmom heavy --arms_file {file}"
    arms = select_arms(parse_comparison(shlex.split(own)).comparison, FOLDER, None)
    later = dataclasses.replace(LATER, command=f"hf-critmom compare {own}", arms=("heavy",))
    plan = planned("hf-critmom compare --arms constant critmom --seed 0 --output_dir out", history=(later,))
    plan = dataclasses.replace(plan, arms=arms)
    assert extent(command_for_seeds(plan, FOLDER, 5), plan) == (["constant", "critmom", "heavy"], (0, 1, 2, 3, 4))
    covering = dataclasses.replace(plan, command=f"{later.command} --seed 0 --output_dir out")
    assert f"--arms_file {file}" in command_for_seeds(covering, FOLDER, 5)


def test_arms_that_no_command_spells_are_those_of_the_folder() -> None:
    plan = dataclasses.replace(
        planned("hf-critmom compare --arms constant critmom --seed 0 --output_dir out", history=(LATER,)),
        arms={**get_arms(["constant", "critmom"]), "heavy": Arm("heavy", "sgd", {"momentum": 0.95})},
    )
    assert extent(command_for_seeds(plan, FOLDER, 5), plan) == (["constant", "critmom", "heavy"], (0, 1, 2, 3, 4))


def test_a_command_that_was_completed_from_an_earlier_one_covers_what_it_covered() -> None:
    first, second = (
        f"hf-critmom compare {own} --output_dir out" for own in ("--arms a b --num_seeds 2", "--num_seeds 3")
    )
    arms = {name: Arm(name, "sgd") for name in ("a", "b")}
    begun = dataclasses.replace(BEGUN, command=first, arms=("a", "b"), seeds=(0, 1))
    added = dataclasses.replace(LATER, command=second, seeds=(2,))
    plan = plan_of(("a", "b"), (0, 1, 2), command=completed(second, first, seeds=3), history=(begun, added))
    assert "--arms a b" in plan.command and plan.command != second and set(plan.arms) == set(arms)
    assert continuing_command(plan, FOLDER) == plan.command
    assert command_for_seeds(plan, FOLDER, 5) == "hf-critmom compare --output_dir out --arms a b --num_seeds 5"


def test_a_command_that_added_seeds_to_every_arm_goes_on_as_it_is() -> None:
    command = "hf-critmom compare --arms constant critmom --num_seeds 3 --output_dir out"
    plan = planned(command, begun_with="hf-critmom compare", history=(dataclasses.replace(LATER, command=command),))
    proposed = command_for_seeds(plan, FOLDER, 5)
    assert proposed == "hf-critmom compare --arms constant critmom --output_dir out --num_seeds 5"
    assert continuing_command(plan, FOLDER) == command


def test_seeds_that_a_command_for_some_arms_added_are_made_with_all() -> None:
    plan = planned("hf-critmom compare --seed 0 --num_seeds 3 --output_dir out", seeds=(0, 1, 2, 3, 4))
    later = dataclasses.replace(LATER, command="hf-critmom compare --arms critmom --num_seeds 5", seeds=(3, 4))
    plan = dataclasses.replace(plan, arms=get_arms(["constant", "critmom"]), history=(*plan.history, later))
    argv = shlex.split(continuing_command(plan, FOLDER))[2:]
    request = parse_comparison(argv)
    assert select_seeds(request.comparison, 0, request.given, plan) == plan.seeds


@pytest.mark.parametrize(
    ("seeds", "tuning", "seven"),
    [
        ((0, 1, 2, 100, 101), None, (0, 1, 2, 100, 101, 102, 103)),  # with a gap
        ((3, 4, 5, 0, 1, 2), None, (0, 1, 2, 3, 4, 5, 6)),  # a later command added lower ones
        ((0, 1, 2, 4, 5), Tuning((1.0, 3.0), (1.0,), 3), (0, 1, 2, 4, 5, 6, 7)),  # 3 is that of the trials
    ],
)
def test_exactly_the_missing_seeds_are_added(
    seeds: tuple[int, ...], tuning: Tuning | None, seven: tuple[int, ...]
) -> None:
    plan = planned(f"hf-critmom compare --seed {seeds[0]} --num_seeds 3 --output_dir out", seeds=seeds, tuning=tuning)
    plan = dataclasses.replace(
        plan,
        arms=get_arms(["constant", "critmom"]),
        history=(
            dataclasses.replace(plan.history[0], seeds=seeds[:3]),
            dataclasses.replace(LATER, command="hf-critmom compare --arms critmom", seeds=seeds[3:]),
        ),
    )
    assert extent(command_for_seeds(plan, FOLDER, 7), plan)[1] == seven


def test_no_seed_besides_those_of_the_number_is_added_to_some_arms() -> None:
    command = "hf-critmom compare --seed 0 --num_seeds 3 --output_dir out"
    plan = planned(
        command, arms=("constant", "critmom", "adamw"), seeds=(0, 1, 2, 50, 60), left_out={"adamw": (50, 60)}
    )
    five, four = (command_for_seeds(plan, FOLDER, seeds, ["constant", "adamw"]) for seeds in (5, 4))
    assert four == "hf-critmom compare --output_dir out --arms constant adamw --num_seeds 1 --seed 50"
    assert five == "hf-critmom compare --seed 0 --output_dir out --arms constant adamw --until_decided --max_seeds 5"
    assert next_seed(plan, ["constant", "adamw"]) == 50  # and then 60, not 51


def test_a_command_for_some_arms_names_them_even_if_no_command_spells_them() -> None:
    files = [
        dataclasses.replace(LATER, command=f"hf-critmom compare --arms_file {name}.toml --arms {name}", arms=(name,))
        for name in ("heavy", "light")
    ]
    command = "hf-critmom compare --arms constant critmom --num_seeds 3 --output_dir out"
    plan = planned(command, arms=("constant", "critmom", "heavy", "light"), history=files)
    proposed = command_for_seeds(plan, FOLDER, 5, ["critmom", "light"])
    assert flag_values(shlex.split(proposed), "--arms") == ["critmom", "light"]
    quoted = planned("hf-critmom compare --task 'cats")
    assert command_for_seeds(quoted, FOLDER, 5, ["critmom"]) == f"{quoted.command} --arms critmom --num_seeds 5"


def test_a_comparison_goes_on_without_the_seeds_that_an_arm_leaves_out() -> None:
    command = "hf-critmom compare --arms constant critmom --seed 0 --num_seeds 3 --output_dir out"
    later = dataclasses.replace(
        LATER, command="hf-critmom compare --arms adamw --num_seeds 1", arms=("adamw",), seeds=()
    )
    plan = planned(command, arms=("constant", "critmom", "adamw"), history=(later,), left_out={"adamw": (1, 2)})
    argv = shlex.split(continuing_command(plan, FOLDER))[2:]
    request = parse_comparison(argv)
    assert select_seeds(request.comparison, 0, request.given, plan) == plan.seeds
    assert select_left_out(request.comparison, plan.arms, 0, request.given, plan) == plan.left_out


def test_a_merged_comparison_goes_on_in_its_own_folder() -> None:
    commands = [
        "hf-critmom compare --arms constant --seed 3 --num_seeds 3 --output_dir share-1",
        "hf-critmom compare --arms critmom --seed 0 --num_seeds 3 --output_dir share-2",
    ]
    plan = planned(" && ".join(commands), seeds=tuple(range(6)))
    plan = dataclasses.replace(
        plan,
        arms=get_arms(["constant", "critmom"]),
        history=tuple(dataclasses.replace(BEGUN, command=command) for command in commands),
    )
    assert extent(continuing_command(plan, FOLDER), plan) == (["constant", "critmom"], plan.seeds)
    assert extent(command_for_seeds(plan, FOLDER, 8), plan) == (["constant", "critmom"], tuple(range(8)))


@pytest.mark.parametrize("own", ["", " --output_dir elsewhere", " --output_dir=results/elsewhere"])
def test_a_folder_that_was_renamed_is_named_as_it_is_now(own: str) -> None:
    plan = planned(f"hf-critmom compare{own}")
    assert continuing_command(plan, FOLDER) == "hf-critmom compare --output_dir out"
    assert command_for_seeds(plan, FOLDER, 5) == "hf-critmom compare --output_dir out --num_seeds 5"


@pytest.mark.parametrize("own", ["", " --output_dir comparison-points", " --output_dir results/comparison-points"])
def test_a_folder_that_the_command_names_stays_as_it_is(own: str, tmp_path: Path) -> None:
    plan = planned(f"hf-critmom compare{own}")
    assert continuing_command(plan, tmp_path / "comparison-points") == plan.command


def test_seeds_of_a_script_with_a_seed_of_its_own_are_added_without_another(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    plan = planned(f"hf-critmom compare --script {script} --output_dir out -- --seed 3", seeds=(3, 4, 5))
    plan = dataclasses.replace(plan, arms=get_arms(["constant", "critmom"]), history=(LATER,))
    assert extent(command_for_seeds(plan, FOLDER, 5), plan)[1] == (3, 4, 5, 6, 7)


def test_a_command_for_people_is_quoted_as_it_is() -> None:
    plan = planned("hf-critmom compare --task 'cats")
    assert continuing_command(plan, FOLDER) == plan.command
    assert command_for_seeds(plan, FOLDER, 5) == f"{plan.command} --num_seeds 5"


def test_what_growing_stores_is_recognized(tmp_path: Path) -> None:
    """As `extend` writes it: the command of a plan is completed, and the history has it as it was typed."""
    begun = planned("hf-critmom compare --arms constant critmom --num_seeds 3 --output_dir out")
    request = dataclasses.replace(
        begun, command="hf-critmom compare --num_seeds 4 --output_dir out", seeds=(0, 1, 2, 3), history=()
    )
    grown = extend(begun, request, tmp_path)
    assert grown.command == "hf-critmom compare --num_seeds 4 --output_dir out --arms constant critmom"
    assert continuing_command(grown, FOLDER) == grown.command


@pytest.mark.parametrize(
    ("before", "added", "given"),
    [
        (["--until_decided"], {}, ""),  # which would make the default number of seeds
        (["", "--arms critmom --num_seeds 5"], {"seeds": (45, 46)}, ""),
        (["", "--seed 45 --num_seeds 2"], {"seeds": (45, 46)}, ""),
        ([""], {}, "--seed 43"),
        (
            ["", "--arms critmom --learning_rate_grid 1 3 --trial_seeds 2"],
            {"tuning": True, "trial_seeds": (1043,)},
            "--learning_rate_grid 1 3 --num_seeds 5",
        ),
        (["--targets 0.9 --num_seeds 3 && hf-critmom compare --targets 0.9 --seed 45"], {}, "--num_seeds 5"),
    ],
)
def test_a_command_that_leaves_something_to_the_plan_does_not_replace_the_one_that_says_it(
    before: list[str], added: dict[str, Any], given: str, tmp_path: Path
) -> None:
    commands = [f"hf-critmom compare {own}" for own in (*before, f"--arms constant critmom hybrid {given}")]
    tuning = Tuning((1.0, 3.0), (1.0,), 1042, can_grow=True, more_seeds=(1043,)) if "grid" in given else None
    stored = planned(
        commands[0],
        begun_with=commands[0].partition(" && ")[0],
        seeds=tuple(range(42, 47)),
        tuning=tuning,
        history=tuple(dataclasses.replace(LATER, command=one, **added) for one in commands[1:-1]),
        training={"learning_rate": 0.1},
    )
    arms = {**stored.arms, "hybrid": Arm("hybrid", "sgd")}
    grown = extend(stored, dataclasses.replace(stored, arms=arms, command=commands[-1]), tmp_path)
    assert grown.command == commands[0] and recorded_commands(grown, tmp_path) == commands


@pytest.mark.parametrize(
    ("second", "merging"),
    [("--output_dir two", ["hf-critmom merge one two --output_dir both"]), ("--output_dir one", [])],
)
def test_commands_of_a_merged_comparison_include_the_merge_if_the_parts_are_told_apart(
    second: str, merging: list[str], tmp_path: Path
) -> None:
    command = f"hf-critmom compare --output_dir one && hf-critmom compare --seed 45 {second}"
    plan = planned(command, begun_with="hf-critmom compare --output_dir one")
    assert recorded_commands(plan, tmp_path / "both") == [command, *merging]


def test_trial_seeds_that_came_with_a_grid_are_recorded_as_added(tmp_path: Path) -> None:
    tuning = Tuning((1.0, 3.0), (1.0,), 1042, can_grow=True, more_seeds=(1043, 1044))
    stored = planned(seeds=(42,), training={"learning_rate": 0.1})
    requested = dataclasses.replace(stored, tuning=tuning, command="hf-critmom compare --weight_decay_grid 1")
    assert extend(stored, requested, tmp_path).history[-1].trial_seeds == (1043, 1044)
