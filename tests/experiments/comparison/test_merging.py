"""Claims about merging: shares that were made apart become the comparison that one command would have made."""

import json
import multiprocessing
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.launches import outcome
from helpers.plans_by_hand import plan_of

from hf_critmom.commands import main
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.experiments.comparison import ComparisonError, run_comparison
from hf_critmom.experiments.comparison.command_lines import with_flag
from hf_critmom.experiments.comparison.growth import initial_plan
from hf_critmom.experiments.comparison.merging import Source, merge_comparisons
from hf_critmom.experiments.comparison.plan import Extension, LookPlan, Plan, Tuning
from hf_critmom.experiments.comparison.planning import plan_tuning
from hf_critmom.experiments.comparison.union import Part, merge_plans
from hf_critmom.storage.locks import locked
from hf_critmom.training.callbacks import clock

TINY = (
    *("--width", "2", "--per_device_train_batch_size", "64", "--max_train_samples", "64", "--use_cpu"),
    *("--max_eval_samples", "32", "--num_train_epochs", "1", "--workers", "1", "--evaluations_per_epoch", "1"),
    *("--targets", "0.05"),
)
BOTH = ("--arms", "constant", "critmom")
SHARES = {
    "first": (*BOTH, "--num_seeds", "1"),
    "second": (*BOTH, "--seed", "43", "--num_seeds", "1"),
    "whole": (*BOTH, "--num_seeds", "2"),
    "constant": ("--arms", "constant", "--num_seeds", "2"),
    "critmom": ("--arms", "critmom", "--num_seeds", "2"),
}


def compare(*words: str, folder: Path) -> None:
    run_comparison(parse_comparison([*TINY, *words, "--output_dir", str(folder)]))


def merge(*folders: Path, to: Path) -> list[str]:
    return merge_comparisons([Source(str(folder), folder) for folder in folders], to)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison, and shares of it, each made by a command of its own while the clock stands still."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: 0.0))
        for name, words in SHARES.items():
            compare(*words, folder=folder / name)
    return folder


@pytest.fixture
def shares(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "made")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs ``merge`` and returns the sentence that it is answered with."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main(("merge", *map(str, words))) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].endswith("."), lines
        return lines[0]

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    """Contents of a folder, without locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("names", [("first", "second"), ("second", "first"), ("constant", "critmom")], ids="-".join)
def test_shares_merge_to_the_bytes_of_the_whole_comparison(made: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    merge(*(made / name for name in names), to=tmp_path / "out")
    assert (tmp_path / "out" / "results.parquet").read_bytes() == (made / "whole" / "results.parquet").read_bytes()
    assert outcome(tmp_path / "out") == outcome(made / "whole")
    merged, whole = Plan.read(tmp_path / "out"), Plan.read(made / "whole")
    assert merged.arms == whole.arms and list(merged.arms) == list(whole.arms)
    assert (merged.seeds, merged.targets, merged.baseline_arm) == (whole.seeds, whole.targets, "constant")


def test_a_merged_comparison_goes_on_as_any_other(
    shares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(shares / "second" / "runs" / "critmom")
    (note,) = merge(shares / "first", shares / "second", to=tmp_path / "out")
    assert note.startswith("1 of 4 runs are missing")
    compare(*SHARES["whole"], folder=tmp_path / "out")
    assert capsys.readouterr().err.count("done before") == 3
    assert outcome(tmp_path / "out") == outcome(shares / "whole")


def test_the_command_prints_the_report_of_all_parts(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("merge", str(made / "critmom"), str(made / "constant"), "--output_dir", str(tmp_path / "out"))) == 0
    shown = capsys.readouterr()
    assert "constant" in shown.out and "The baseline is critmom" in shown.err
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(Plan.read(made / name).command in card for name in ("constant", "critmom"))


def test_a_repeated_merge_changes_nothing(made: Path, tmp_path: Path) -> None:
    merge(made / "first", to=tmp_path / "out")
    merge(made / "second", to=tmp_path / "out")
    before = snapshot(tmp_path / "out")
    merge(made / "second", made / "first", to=tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


def test_a_merge_that_is_killed_leaves_nothing_half_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copied = shutil.copyfile, iter(range(5))

    def dies_of_the_fifth(*words: Any) -> Any:
        if next(copied) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return copy(*words)

    monkeypatch.setattr(shutil, "copyfile", dies_of_the_fifth)
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(
        target=merge, args=(made / "first", made / "second"), kwargs={"to": out}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {path.name for path in out.iterdir()} == {".locks", ".merging"}
    monkeypatch.setattr(shutil, "copyfile", copy)
    merge(made / "first", made / "second", to=out)
    assert outcome(out) == outcome(made / "whole")
    assert not (out / ".merging").exists()


def test_paths_of_the_data_are_found_from_the_joined_folder(shares: Path, tmp_path: Path) -> None:
    (shares / "images").mkdir()
    file = shares / "first" / "comparison.json"
    plan = json.loads(file.read_text())
    plan["arguments"]["data"] |= {"train_dir": "../images"}
    file.write_text(json.dumps(plan))
    merge(shares / "first", to=tmp_path / "elsewhere" / "out")
    assert Plan.read(tmp_path / "elsewhere" / "out").arguments["data"]["train_dir"] == "../../made/images"


# --------------------------------------------------------------------------------------------------- what is refused


def test_what_is_not_a_finished_comparison_is_an_error(
    shares: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    out = ("--output_dir", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "There is no folder" in refused(shares / "first", tmp_path / "missing", *out)
    assert "holds no comparison" in refused(shares / "first", tmp_path / "empty", *out)
    assert "named twice" in refused(shares / "first", shares / "first", *out)
    assert "the --output_dir itself" in refused(shares / "first", shares / "second", "--output_dir", shares / "first")
    (tmp_path / "empty" / "file").touch()
    assert "holds files, but no comparison" in refused(shares / "first", "--output_dir", tmp_path / "empty")
    result = shares / "second" / "runs" / "critmom" / "seed-43" / "result.json"
    result.write_text("{")
    assert "is corrupt" in refused(shares / "first", shares / "second", *out)
    result.unlink()
    result.symlink_to(shares / "whole" / "runs" / "critmom" / "seed-43" / "result.json")
    assert "is a link" in refused(shares / "first", shares / "second", *out)
    assert not [path for path in (tmp_path / "out").glob("*") if not path.name.startswith(".")]


def test_comparisons_with_other_conditions_are_an_error(
    shares: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    plan = json.loads((shares / "second" / "comparison.json").read_text())
    plan["training"]["weight_decay"] = 0.5
    (shares / "second" / "comparison.json").write_text(json.dumps(plan))
    shutil.rmtree(shares / "second" / "runs")
    said = refused(shares / "first", shares / "second", "--output_dir", tmp_path / "out")
    assert "different conditions (training.weight_decay: 0.0005 and 0.5;" in said and not (tmp_path / "out").exists()


def test_different_results_of_one_run_are_an_error(shares: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    file = shares / "first" / "runs" / "critmom" / "seed-42" / "result.json"
    result = json.loads(file.read_text())
    found = result["test"]["accuracy"]
    result["test"]["accuracy"] = found / 2 + 0.25
    file.write_text(json.dumps(result))
    said = refused(shares / "whole", shares / "first", "--output_dir", tmp_path / "out")
    assert f"of the run critmom, seed 42 (test.accuracy: {found} and {found / 2 + 0.25})" in said


def test_seconds_may_differ(shares: Path, tmp_path: Path) -> None:
    file = shares / "first" / "runs" / "critmom" / "seed-42" / "result.json"
    result = json.loads(file.read_text())
    result["train_seconds"] = 100.0
    file.write_text(json.dumps(result))
    merge(shares / "whole", shares / "first", to=tmp_path / "out")
    assert outcome(tmp_path / "out") == outcome(shares / "whole")


def test_a_comparison_in_which_a_launch_works_is_an_error(
    shares: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    with locked(shares / "first", "runs-critmom-seed-42"):
        said = refused(shares / "second", shares / "first", "--output_dir", tmp_path / "out")
        assert f"A launch is making runs of the comparison in {shares / 'first'}" in said
        assert "A launch is making runs" in refused(shares / "second", "--output_dir", shares / "first")


def test_two_merges_at_once_keep_the_runs_of_both(shares: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: merge(shares / name, to=out), ("first", "second")))
    assert outcome(out) == outcome(shares / "whole")


def test_drift_of_all_parts_is_kept_and_has_to_agree(shares: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    def measured(name: str, seed: int, examples: int, **accuracy: list[float]) -> None:
        file = shares / name / "runs" / "critmom" / f"seed-{seed}" / "drift.json"
        file.write_text(json.dumps({"examples": examples, "accuracy": accuracy}))

    words = (shares / "whole", shares / "first", shares / "second", "--output_dir", tmp_path / "out")
    measured("whole", 42, 32, clean=[0.5])
    measured("first", 42, 16, clean=[0.5])
    assert "on 32 images in" in refused(*words)
    measured("first", 42, 32, clean=[0.25])
    assert "different accuracies of the run critmom, seed 42 under clean" in refused(*words)
    measured("first", 42, 32, clean=[0.5], contrast=[0.1] * 5)
    measured("second", 43, 32, clean=[0.25])
    merge(*words[:3], to=tmp_path / "out")
    kept = {seed: tmp_path / "out" / "runs" / "critmom" / f"seed-{seed}" / "drift.json" for seed in (42, 43)}
    assert json.loads(kept[42].read_text())["accuracy"] == {"clean": [0.5], "contrast": [0.1] * 5}
    assert json.loads(kept[43].read_text())["accuracy"] == {"clean": [0.25]}


# ---------------------------------------------------------------------------------------------------- plans and looks


def part(
    name: str, hour: int, seeds: Sequence[int], *, longest: float = 0.0, arms: Sequence[str] = ("constant",), **of: Any
) -> Part:
    """A finished comparison that was begun at this hour."""
    plan = plan_of(arms, seeds, command=f"command {name}", **of)
    plan = replace(
        initial_plan(plan), history=(replace(initial_plan(plan).history[0], date=f"2026-01-01T{hour:02}:00:00+00:00"),)
    )
    runs: Any = {run: SimpleNamespace(wall_seconds=longest) for run in plan.runs()}
    return Part(name, plan, runs)


def test_shares_that_began_together_have_one_look() -> None:
    merged = merge_plans([part("a", 1, (0, 1), longest=7200.0), part("b", 2, (2, 3))])
    assert merged.looks == LookPlan(4, 4)
    assert [extension.finished for extension in merged.history] == [0, 0]


def test_the_look_at_a_share_that_was_finished_before_another_began_counts() -> None:
    merged = merge_plans([part("b", 2, (2, 3)), part("a", 1, (0, 1), longest=60.0)])
    assert merged.looks == LookPlan(2, 2) and merged.seeds == (0, 1, 2, 3)
    first, second = merged.history
    assert (first.command, first.seeds, first.finished) == ("command a", (0, 1), 0)
    assert (second.command, second.seeds, second.arms, second.finished) == ("command b", (2, 3), (), 2)
    assert merged.command == "command b && command a"


def test_single_seeds_that_were_merged_day_by_day_are_looks() -> None:
    """Each was begun when the verdict on those before it could be seen: not one look at all of them, but many."""
    days = [part(f"p{day}", 2 * day, (day,), longest=60.0) for day in range(6)]
    assert [merge_plans(days[:number]).looks for number in range(2, 7)] == [LookPlan(2, 2), *[LookPlan(1, 1)] * 4]
    together = [part(one.name, 1, one.plan.seeds, longest=60.0) for one in days]
    assert merge_plans(together).looks == LookPlan(6, 6)


def test_a_look_that_counts_is_at_the_seeds_that_it_was_made_with() -> None:
    """The first seeds of a plan are those of its looks: seeds that came later must not take their place."""
    merged = merge_plans([part("low", 2, (0, 1)), part("high", 1, (2, 3), longest=60.0)])
    assert merged.looks == LookPlan(2, 2) and merged.seeds == (2, 3, 0, 1)
    again = merge_plans([Part("all", merged, {}), part("third", 9, (8, 7))])
    assert again.seeds[:4] == (2, 3, 0, 1)


def test_finished_runs_in_the_history_are_those_that_are_compared() -> None:
    tuning = Tuning((1.0, 3.0), (1.0,), 1042, can_grow=True)
    first, second = (
        part(name, hour, seeds, tuning=tuning, training={"learning_rate": 0.1})
        for name, hour, seeds in (("a", 1, (0, 1)), ("b", 2, (2, 3)))
    )
    trials: Any = {run: SimpleNamespace(wall_seconds=60.0) for run in first.plan.trials()}
    merged = merge_plans([replace(first, runs={**first.runs, **trials}), second])
    assert [one.finished for one in merged.history] == [0, 2]


def test_the_history_tells_which_trials_each_share_added() -> None:
    """What several shares have was added once, whether they began with it or got it later."""

    def tuned(name: str, hour: int, *seeds: int, later: tuple[int, ...] = (), arm: str = "constant") -> Part:
        tuning = Tuning((1.0, 3.0), (1.0,), 1042, can_grow=True, more_seeds=(*seeds, *later))
        begun = part(name, hour, (hour,), arms=(arm,), tuning=tuning, training={"learning_rate": 0.1})
        added = Extension(f"2026-01-02T{hour:02}:00:00+00:00", name, tried=(arm,), trial_seeds=later)
        history = (*begun.plan.history, *([added] if later else []))
        return replace(begun, plan=replace(begun.plan, history=history))

    def told(*parts: Part) -> list[tuple[bool, tuple[int, ...], tuple[str, ...]]]:
        return [(one.tuning, one.trial_seeds, one.tried) for one in merge_plans(parts).history]

    nothing: Any = (False, (), ())
    assert told(tuned("a", 1, 1043), tuned("b", 2, 1043)) == [nothing, nothing]
    assert told(tuned("a", 1, 1043, 1044), tuned("b", 2)) == [nothing, nothing]
    assert told(tuned("a", 1), tuned("b", 2, 1043)) == [nothing, (False, (1043,), ("constant",))]
    both = tuned("a", 1, later=(1043,)), tuned("b", 2, later=(1043,))
    assert told(*both) == [nothing, nothing, (False, (1043,), ("constant",))]
    arms = tuned("a", 1, later=(1043,)), tuned("b", 2, later=(1043,), arm="critmom")
    assert told(*arms) == [nothing, nothing, (False, (1043,), ("constant",)), (False, (), ("critmom",))]


def test_runs_of_a_tuned_variant_whose_point_is_no_longer_chosen_are_merged_too(tmp_path: Path) -> None:
    """The trials of all parts together may choose it again."""
    tuned = ("--arms", "constant", "--num_seeds", "1", "--learning_rate_grid")
    compare(*tuned, "0.5", folder=tmp_path / "share")
    compare(*tuned, "0.5", "2", "3", "4", folder=tmp_path / "share")
    made = {file.relative_to(tmp_path / "share") for file in tmp_path.glob("share/runs/constant_tuned/*/*/result.json")}
    merge(tmp_path / "share", to=tmp_path / "out")
    assert made == {file.relative_to(tmp_path / "out") for file in tmp_path.glob("out/runs/*_tuned/*/*/result.json")}
    assert any("lr-0.5" in str(file) for file in made) and len(made) == 2


def test_shares_of_arms_keep_the_look_that_each_planned() -> None:
    merged = merge_plans([part("a", 1, (0, 1, 2)), part("b", 5, (0, 1, 2), arms=("critmom", "hybrid"))])
    assert merged.looks == LookPlan(3, 3)
    assert list(merged.arms) == ["constant", "critmom", "hybrid"] and merged.baseline == "constant"


def test_seeds_that_a_share_added_to_some_arms_only_stay_theirs() -> None:
    arms = ("constant", "critmom")
    grown = part("a", 1, (0, 1), arms=arms)
    grown = replace(grown, plan=replace(grown.plan, left_out={"constant": (1,)}))
    merged = merge_plans([grown, part("b", 1, (2,), arms=arms)])
    assert merged.left_out == {"constant": (1,)} and merged.seeds_of(["constant"]) == (0, 2)
    assert merge_plans([grown, part("b", 1, (1,), arms=arms)]).left_out == {}  # the other share made them
    assert merge_plans([grown, part("b", 1, (1,), arms=("nesterov",))]).left_out == {"constant": (1,)}


def test_seeds_that_a_share_added_to_tuned_variants_only_stay_theirs() -> None:
    arms = ("constant", "critmom")
    grown = part("a", 1, (0, 1), arms=arms)
    without = {"constant": (1,), "constant_tuned": ()}
    grown = replace(grown, plan=replace(grown.plan, left_out=without))
    merged = merge_plans([grown, part("b", 1, (2,), arms=arms)])
    assert merged.left_out == without
    assert merged.seeds_of(["constant"]) == (0, 2) and merged.seeds_of(["constant_tuned"]) == (0, 1, 2)
    other = replace(part("b", 1, (0, 1), arms=arms), plan=replace(grown.plan, left_out={"constant": (0,)}))
    assert merge_plans([grown, other]).left_out == {}  # each made what the other left out


def test_a_part_with_the_whole_extent_stays_as_it_is_whatever_the_order_of_its_seeds() -> None:
    arms = ("constant", "critmom")
    grown = part("a", 1, (2, 0, 1), arms=arms)
    plan = replace(grown.plan, left_out={"constant": (2, 1)}, looks=LookPlan(3, 3))
    few = part("b", 5, (0,), arms=arms)
    assert merge_plans([replace(grown, plan=plan), few]) is plan


def test_a_target_that_a_part_did_not_plan_is_exploratory() -> None:
    parts = [part("a", 1, (0,), targets=(0.9, 0.5)), part("b", 1, (1,), targets=(0.5, 0.7))]
    merged = merge_plans(parts)
    assert (merged.targets, merged.exploratory_targets) == ((0.5,), (0.9, 0.7))
    with pytest.raises(ComparisonError, match="no planned target in common"):
        merge_plans([part("a", 1, (0,), targets=(0.9,)), part("b", 1, (1,), targets=(0.5,))])


def test_a_claim_that_a_part_states_after_another_ones_results_is_told_apart() -> None:
    arms = ("constant", "critmom")
    late = [
        part("a", 1, (0,), arms=arms, longest=60.0),
        part("b", 2, (1,), arms=arms, claims=("critmom < constant",)),
    ]
    assert merge_plans(late).later_claims == ("critmom < constant",)
    together = [part("a", 1, (0,), arms=arms, longest=7200.0), late[1]]
    of_other_arms = [part("a", 1, (0,), arms=("constant", "hybrid")), late[1]]
    assert merge_plans(together).later_claims == merge_plans(of_other_arms).later_claims == ()
    known = replace(late[1].plan, later_claims=late[1].plan.claims)
    assert merge_plans([together[0], replace(late[1], plan=known)]).later_claims == known.claims


def test_union_of_plans_does_not_depend_on_how_often_it_is_done() -> None:
    parts = [part(name, hour, (seed,)) for name, hour, seed in (("a", 1, 0), ("b", 2, 1), ("c", 3, 2))]
    at_once = merge_plans(parts)
    two = merge_plans(parts[:2])
    runs = {run: result for one in parts[:2] for run, result in one.runs.items()}
    one_by_one = merge_plans([Part("two", two, runs), parts[2]])
    assert replace(one_by_one, looks=None) == replace(at_once, looks=None)
    assert merge_plans([Part("all", at_once, {}), *parts]) == at_once


def test_shares_of_a_tuned_comparison_have_the_same_trials() -> None:
    words = (*TINY, "--learning_rate_grid", "1", "3")
    tuning = [
        plan_tuning(parse_comparison([*words, "--seed", str(seed)]).comparison, (seed,), None)
        for seed in (42, 7, 2**32 - 1)
    ]
    assert tuning[0] == tuning[1] == tuning[2]


def test_shares_with_other_points_of_the_grid_become_one_with_the_points_of_all(tmp_path: Path) -> None:
    """Also one without a grid; what the joint grid lacks then is made by the command that merging names."""
    shares = {
        "rates": ("--num_seeds", "1", "--learning_rate_grid", "0.5", "1"),
        "decays": ("--seed", "43", "--num_seeds", "1", "--weight_decay_grid", "1", "10"),
        "plain": ("--seed", "44", "--num_seeds", "1"),
        "whole": ("--num_seeds", "3", "--learning_rate_grid", "0.5", "1", "--weight_decay_grid", "1", "10"),
    }
    for name, words in shares.items():
        compare("--arms", "constant", *words, folder=tmp_path / name)
    (note,) = merge(*(tmp_path / name for name in ("rates", "decays", "plain")), to=tmp_path / "merged")
    plan, whole = Plan.read(tmp_path / "merged"), Plan.read(tmp_path / "whole")
    assert plan.tuning == whole.tuning and plan.seeds == whole.seeds
    assert [one.tuning for one in plan.history] == [False, True, False]
    assert "missing; this command makes them: hf-critmom compare" in note
    _, _, *argv = shlex.split(note.partition("them: ")[2])
    run_comparison(parse_comparison(with_flag(argv, "--output_dir", [str(tmp_path / "merged")])))
    again, expected = outcome(tmp_path / "merged"), outcome(tmp_path / "whole")
    assert {name: again[name] for name in expected} == expected
    assert merge(*(tmp_path / name for name in ("rates", "decays")), to=tmp_path / "merged") == []
