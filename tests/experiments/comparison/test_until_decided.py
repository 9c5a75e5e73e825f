"""Claims about comparisons that add seeds until they know: one seed at a time for every arm, each look counted."""

import json
from pathlib import Path

import pytest
from helpers.plans_by_hand import plan_of
from helpers.tables_by_hand import reaching_at, result_of, run_of

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import runner
from hf_critmom.experiments.comparison.findings.analyses import looks_now
from hf_critmom.experiments.comparison.findings.findings import read_findings
from hf_critmom.experiments.comparison.plan import LookPlan, Plan, Run
from hf_critmom.experiments.comparison.results import Results
from hf_critmom.experiments.comparison.statistics.sequential import Looks

TINY = (
    *("compare", "--width", "2", "--per_device_train_batch_size", "64", "--max_train_samples", "128", "--use_cpu"),
    *("--max_eval_samples", "64", "--num_train_epochs", "1", "--workers", "1", "--evaluations_per_epoch", "2"),
    "--until_decided",
)
TWINS = ("--arms", "constant", "constant[name=twin]")
OPPOSITES = ("--arms", "constant", "constant[lr=1e-9,name=still]")


def plan_in(folder: Path) -> Plan:
    return Plan.read(folder)


def test_arms_that_do_the_same_are_decided_at_the_first_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learning = ("--width", "4", "--per_device_train_batch_size", "32", "--max_train_samples", "256")
    learning += ("--max_eval_samples", "128", "--num_train_epochs", "5", "--targets", "0.3")
    assert main((*TINY, *TWINS, *learning, "--output_dir", str(tmp_path))) == 0
    plan = plan_in(tmp_path)
    assert plan.seeds == (42, 43, 44) and plan.looks == LookPlan(3, 10)
    said = capsys.readouterr()
    assert "3 seeds: 1 of 1 claim decided; every claim is decided." in said.err
    assert "no difference" in said.out


def test_seeds_are_added_one_by_one_up_to_the_maximum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (*TINY, *OPPOSITES, "--targets", "0.99", "--output_dir", str(tmp_path))  # nobody arrives
    assert main((*command, "--num_seeds", "2", "--max_seeds", "4")) == 0
    said = capsys.readouterr().err
    assert "2 seeds: 0 of 1 claim decided; seed 44 is added to every arm." in said
    assert "4 seeds: 0 of 1 claim decided; --max_seeds 4 is reached." in said
    plan = plan_in(tmp_path)
    assert plan.seeds == (42, 43, 44, 45) and plan.looks == LookPlan(2, 4)
    first, then = plan.history
    assert (first.seeds, then.seeds) == ((42, 43), (44, 45))  # the rounds of one command are one entry
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) == 8
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/result.json")}
    assert main((*command, "--max_seeds", "4")) == 0  # it goes on where it ended, which is nowhere
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/result.json")} == before
    assert main((*command, "--max_seeds", "5")) == 0
    assert plan_in(tmp_path).seeds[-1] == 46 and plan_in(tmp_path).looks == LookPlan(2, 4)


def test_only_the_arms_that_a_command_names_grow_until_the_claims_about_them_are_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = (*TINY, *OPPOSITES, "constant[lr=1e-9,name=too]", "--output_dir", str(tmp_path))  # two that stand still
    fixed = [word for word in three if word != "--until_decided"]
    assert main((*fixed, "--targets", "0.99", "--num_seeds", "2")) == 0  # nobody arrives
    capsys.readouterr()
    assert main((*TINY, "--arms", "still", "too", "--max_seeds", "4", "--output_dir", str(tmp_path))) == 0
    said = capsys.readouterr().err
    assert "2 seeds: 0 of 0 claims decided; no claim compares only still and too" in said
    assert main((*TINY, "--arms", "constant", "too", "--max_seeds", "4", "--output_dir", str(tmp_path))) == 0
    said = capsys.readouterr().err
    assert "2 seeds: 0 of 1 claim decided; seed 44 is added to constant and too." in said
    assert "4 seeds: 0 of 1 claim decided; --max_seeds 4 is reached." in said
    seeds = {arm: len(list(tmp_path.glob(f"runs/{arm}/seed-*/result.json"))) for arm in ("constant", "too", "still")}
    assert seeds == {"constant": 4, "too": 4, "still": 2}


def test_seeds_go_to_the_arms_of_open_claims_as_many_as_workers_have_room_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learning = ("--width", "4", "--per_device_train_batch_size", "32", "--max_train_samples", "256")
    learning += ("--max_eval_samples", "128", "--num_train_epochs", "5", "--targets", "0.3", "--workers", "4")
    command = (*TINY, *TWINS, "critmom", *learning, "--max_seeds", "5", "--output_dir", str(tmp_path))
    assert main(command) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "3 seeds: 1 of 2 claims decided; seeds 45 and 46 are added to constant and critmom." in said
    assert "3 to 5 seeds: " in said
    seeds = {arm: len(list(tmp_path.glob(f"runs/{arm}/seed-*/result.json"))) for arm in ("constant", "twin", "critmom")}
    assert seeds == {"constant": 5, "twin": 3, "critmom": 5}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/result.json")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/result.json")} == before
    assert "seeds 45 and 46 of constant and critmom were added by the rule" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(("factors", "apart"), [(("0.5", "2"), True), (("1",), False)])
def test_only_tuned_variants_grow_where_only_the_claim_about_them_is_open(
    factors: tuple[str, ...],
    apart: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A variant that keeps its arm's own settings has the arm's runs, which then grow."""
    variants = ["constant_tuned", "critmom_tuned"]
    claims = iter([([variants], 2), ([variants], 2), ([], 2)])
    monkeypatch.setattr(runner, "undecided_claims", lambda *_: next(claims))
    command = (*TINY, "--arms", "constant", "critmom", "--learning_rate_grid", *factors, "--targets", "0.1")
    command += ("--output_dir", str(tmp_path))
    assert main((*command, "--num_seeds", "2", "--max_seeds", "4")) == 0
    whose = "constant_tuned and critmom_tuned" if apart else "every arm"
    assert f"seed 45 is added to {whose}." in " ".join(capsys.readouterr().err.split())
    found = read_findings(tmp_path)
    number = {arm: sum(run.arm == arm for run in found.results.runs) for arm in ("constant", "constant_tuned")}
    assert number == {"constant": 2 if apart else 4, "constant_tuned": 4}
    assert found.finished == len(found.planned) and not found.failures  # nothing is missing
    report = (tmp_path / "README.md").read_text()
    history = "seeds 44 and 45 of constant_tuned and critmom_tuned were added by the rule"
    assert (history in report) == ("constant without 44 and 45; constant_tuned with all" in report) == apart
    if not apart:
        assert found.plan.left_out == {}
        return
    without = {"constant": (44, 45), "constant_tuned": (), "critmom": (44, 45), "critmom_tuned": ()}
    assert found.plan.left_out == without and found.plan.seeds == (42, 43, 44, 45)
    fixed = [word for word in command if word != "--until_decided"]
    assert main(fixed) == 0  # a command that gives no number of seeds leaves them as they are
    assert plan_in(tmp_path) == found.plan
    assert main((*fixed, "--num_seeds", "3")) == 0  # a number is for both
    assert plan_in(tmp_path).left_out == {name: seeds[1:] for name, seeds in without.items()}
    assert (tmp_path / "runs/constant/seed-44/result.json").exists()


def test_rounds_continue_after_an_interruption(tmp_path: Path) -> None:
    command = (*TINY, *OPPOSITES, "--targets", "0.99", "--num_seeds", "2", "--max_seeds", "3")
    assert main((*command, "--output_dir", str(tmp_path))) == 0
    (tmp_path / "runs" / "still" / "seed-44" / "result.json").unlink()
    assert main((*command, "--output_dir", str(tmp_path))) == 0
    assert (tmp_path / "runs" / "still" / "seed-44" / "result.json").exists()
    assert plan_in(tmp_path).seeds == (42, 43, 44)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max_seeds", "1"), "--max_seeds 1 is less than the 3 seeds"),
        (("--num_seeds", "5", "--max_seeds", "4"), "--max_seeds 4 is less than the 5 seeds"),
        (("--max_seeds", "0"), "--max_seeds must be at least 1"),
        (("--claim", "critmom"), "is not a claim"),
        (("--claim", "constnat < twin"), "did you mean constant"),
        (("--claim", "twin < twin"), "with itself"),
        (("--baseline", "adamw"), "--baseline names the arm 'adamw'"),
        (("--margin", "0"), "--margin must be above 0"),
        (("--margin", "nan"), "--margin must be above 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*TINY, *TWINS, "--targets", "0.02", *words, "--output_dir", str(tmp_path / "out"))) == 2
    sentence = capsys.readouterr().err
    assert said in sentence and sentence.count("\n") == 1 and not (tmp_path / "out").exists()


def test_max_seeds_applies_only_to_until_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in (*TINY, "--targets", "0.02") if word != "--until_decided"]
    assert main((*words, "--max_seeds", "3", "--output_dir", str(tmp_path / "out"))) == 2
    assert "--max_seeds applies only to --until_decided" in capsys.readouterr().err


def test_claims_baseline_and_margin_stand_in_the_plan_and_rule_the_report(tmp_path: Path) -> None:
    given = ("--claim", "constant < twin", "--baseline", "twin", "--margin", "0.25")
    assert main((*TINY, *TWINS, "--targets", "0.02", *given, "--output_dir", str(tmp_path))) == 0
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert (stored["claims"], stored["baseline"], stored["margin"]) == (["constant < twin"], "twin", 0.25)
    card = (tmp_path / "README.md").read_text()
    assert "25 %" in card and "constant" in card.partition("## Results")[0]


# ---------------------------------------------------------------------------------------------------------------- looks


def results_of(seeds: dict[str, int]) -> Results:
    """Results of so many seeds of each arm."""
    runs = {
        Run(arm, seed): result_of(run_of(reaching_at(2), arm=arm, seed=seed))
        for arm, number in seeds.items()
        for seed in range(number)
    }
    return Results(runs, {}, [])


@pytest.mark.parametrize(
    ("looks", "finished", "expected"),
    [
        (None, 5, Looks(5, 5, (5,))),
        (None, 2, Looks(5, 5, (5,))),  # unfinished: it decides nothing
        (LookPlan(3, 10), 3, Looks(3, 10, (3,))),
        (LookPlan(3, 10), 5, Looks(3, 10, (3, 4, 5))),  # looks on the way count, whether somebody looked or not
        (LookPlan(3, 3), 5, Looks(3, 3, (3, 4, 5))),
        (LookPlan(3, 4), 5, Looks(3, 4, (3, 4, 5))),
    ],
)
def test_every_seed_that_two_arms_have_is_a_look_from_the_first_planned_one_on(
    looks: LookPlan | None, finished: int, expected: Looks
) -> None:
    plan = plan_of(("constant", "critmom"), range(5), looks=looks)
    assert looks_now(plan, results_of({"constant": 5, "critmom": finished})) == expected
    tuned = results_of({"constant": 1, "critmom": 1, "constant_tuned": finished, "critmom_tuned": 5})
    assert looks_now(plan, tuned) == expected
    assert looks_now(plan, results_of({"constant": 5, "constant_tuned": 5})).made[-1] == expected.first
