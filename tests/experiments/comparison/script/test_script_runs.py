"""Claims about ``hf-critmom compare --script``: real scripts, real processes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from helpers.launches import without_seconds
from helpers.pushing import card_of, edited
from helpers.script_comparisons import ARGUMENTS, compare, result_of, sentence_in, write_script

from hf_critmom.commands import main
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.hub import Repository, prepare_upload

ARMS = ("--arms", "adamw", "critmom_adamw", "timm:lion[lr=3e-3,betas=(0.9,0.95)]", "matched")


@pytest.fixture(scope="module")
def compared(warm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of four arms that needed no target: a pilot run sets them."""
    folder = tmp_path_factory.mktemp("compared")
    script = write_script(folder)
    assert compare(warm, script, folder / "out", *ARMS, "--num_seeds", "1") == 0
    return folder


def test_every_arm_reaches_the_script_by_its_own_flags(compared: Path) -> None:
    plan = Plan.read(compared / "out")
    results = {arm: result_of(compared / "out", arm) for arm in plan.arms}
    assert {arm: result["learning_rate"] for arm, result in results.items()} == {
        "adamw": 0.01,  # the script's own, which is meant for an Adam
        "critmom_adamw": 0.01,
        "timm-lion": 0.003,
        "matched": 0.1,
    }
    assert all(result["steps"] == 12 and result["status"] == "finished" for result in results.values())
    assert (
        results["critmom_adamw"]["evaluations"][0]["momentum"] < 0.9 == results["adamw"]["evaluations"][0]["momentum"]
    )
    curves = {arm: [one["loss"] for one in result["evaluations"]] for arm, result in results.items()}
    assert len({tuple(curve) for curve in curves.values()}) == 4
    assert all(curve[-1] < curve[0] for curve in curves.values())
    flags = plan.task.content["flags"]
    assert flags["eval_strategy"] == flags["logging_strategy"] == "steps" and flags["save_strategy"] == "no"


def test_runs_with_the_same_seed_are_known_to_be_paired(compared: Path) -> None:
    pairing = [result_of(compared / "out", arm)["pairing"] for arm in Plan.read(compared / "out").arms]
    assert all(one["weights"] == pairing[0]["weights"] for one in pairing)
    assert all(one["batches"] == pairing[0]["batches"] and len(one["batches"]) == 4 for one in pairing)
    assert len({one["first_losses"][0] for one in pairing}) == 1
    assert len({tuple(one["first_losses"]) for one in pairing}) == 4
    card = (compared / "out/README.md").read_text()
    assert "are paired, which was checked" in card
    assert "Pairing failed" not in card


def test_a_pilot_run_sets_targets_before_there_is_a_plan(compared: Path) -> None:
    plan = Plan.read(compared / "out")
    assert len(plan.targets) == 3 and list(plan.targets) == sorted(plan.targets, reverse=True)
    assert 2042 not in plan.seeds and any("2042" in note for note in plan.task.notes)
    assert not (compared / "out/.pilot").exists()


def test_a_pilot_run_of_other_conditions_sets_no_targets(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, folder = write_script(tmp_path), tmp_path / "out"
    own = ("--arms", "adamw", "critmom_adamw", "--num_seeds", "1", "--metric", "accuracy")
    claim = ("--claim", "critmom_adamw < adamw")  # about an arm that the pilot run does not have
    slow, fast = ([*ARGUMENTS, "--learning_rate", rate] for rate in ("1e-8", "0.05"))
    assert compare(warm, script, folder, *own, *claim, arguments=slow) == 2
    assert "does not improve after its first evaluation" in sentence_in(capsys.readouterr().err)
    assert compare(warm, script, folder, *own, *claim, arguments=fast) == 0
    plan = Plan.read(folder)
    assert plan.claims == claim[1:] and any("a pilot run of adamw" in note for note in plan.task.notes)


def test_the_report_says_that_validation_was_used_for_both(compared: Path) -> None:
    card = (compared / "out/README.md").read_text()
    assert "There is no test split: validation was used for both" in card
    assert "final validation loss" in card and "test loss" not in card and "test split was read" not in card
    assert "validation was used for both" in (compared / "out/report.html").read_text()
    table = pd.read_parquet(compared / "out/results.parquet")
    last = table[table["split"] == "test"].set_index("arm")["loss"]
    assert last["adamw"] == result_of(compared / "out", "adamw")["evaluations"][-1]["loss"]


@pytest.mark.parametrize(
    ("hub_task", "auto_class"),
    [
        ("text-generation", "AutoModelForCausalLM"),
        ("text-classification", "AutoModelForSequenceClassification"),
        ("other", None),
    ],
)
def test_a_card_of_a_pushed_script_names_only_what_loads_and_no_test_result(
    compared: Path, tmp_path: Path, hub_task: str, auto_class: str | None
) -> None:
    folder = shutil.copytree(compared / "out", tmp_path / "out")
    with edited(folder / "comparison.json") as plan:
        plan["task"]["hub_task"] = hub_task
    upload = prepare_upload(folder, Repository("tester/script"))
    section = card_of(upload.files).split("## The model in this repository")[1].split("\n## ")[0]
    assert re.findall(r"Auto\w+(?=\.from_pretrained)", section) == ([auto_class] if auto_class else [])
    assert "There is no test split" in section and "test loss" not in section
    assert not any(path.startswith(".eval_results") for path in upload.files)
    assert any("no test split" in note for note in upload.notes)
    assert {"config.json", "model.safetensors"} <= upload.files.keys()


def test_the_same_command_repeats_nothing_and_other_conditions_are_refused(
    compared: Path, warm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in compared.glob("out/runs/*/*/result.json")}
    script, folder = compared / "train.py", compared / "out"
    assert compare(warm, script, folder, *ARMS, "--num_seeds", "1") == 0
    assert {file: file.stat().st_mtime_ns for file in compared.glob("out/runs/*/*/result.json")} == before
    assert compare(warm, script, folder, *ARMS, arguments=(*ARGUMENTS, "--warmup_steps", "3")) == 2
    assert "different plan" in sentence_in(capsys.readouterr().err)
    assert main(["report", str(folder)]) == 0
    capsys.readouterr()
    assert main(["drift", str(folder)]) == 2
    assert "a script, which loads its data by itself" in sentence_in(capsys.readouterr().err)


def test_seeds_of_some_arms_stay_theirs_under_a_command_that_names_no_seeds(
    compared: Path, warm: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(compared / "out", tmp_path / "out")
    assert compare(warm, compared / "train.py", folder, "--arms", "adamw", "--num_seeds", "2") == 0
    plan = Plan.read(folder)
    assert plan.seeds_of(["adamw"]) == (42, 43) and plan.seeds_of(["matched"]) == (42,)
    assert compare(warm, compared / "train.py", folder, *ARMS) == 0
    assert Plan.read(folder) == plan


def test_two_launches_of_the_same_command_share_out_the_runs(compared: Path, warm: str) -> None:
    python, *_, program, address = warm.split()
    arms = ("--arms", "adamw", "critmom_adamw", "--num_seeds", "1", "--targets", "2.7")
    own = (*arms, "--launcher", warm, "--output_dir", str(compared / "shared"))
    every = Plan.read(compared / "out").task.content["flags"]["eval_steps"]  # measured, it could be another one
    arguments = (*ARGUMENTS, "--eval_strategy", "steps", "--eval_steps", str(every))
    command = ("-m", "hf_critmom", "compare", "--script", str(compared / "train.py"), *own, "--", *arguments)
    files = [compared / "launch-1.txt", compared / "launch-2.txt"]
    launches = [
        subprocess.Popen([python, "-S", "-E", program, address, *command], stdout=out, stderr=subprocess.STDOUT)
        for out in (file.open("w") for file in files)
    ]
    statuses = [launch.wait(300) for launch in launches]
    said = [" ".join(file.read_text().split()) for file in files]  # lines are wrapped anywhere
    assert statuses == [0, 0], said
    made = [len(re.findall(r"\d s of training(?! \(done)", text)) for text in said]
    assert sum(made) == 2, said  # each run was made once
    for arm in ("adamw", "critmom_adamw"):
        alone, shared = (result_of(compared / name, arm) for name in ("out", "shared"))
        assert shared["evaluations"][-1]["loss"] == alone["evaluations"][-1]["loss"]
        assert shared["pairing"]["weights"] == alone["pairing"]["weights"]


def test_a_run_that_was_killed_continues_to_the_same_result(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script is killed after its checkpoint at step 4; the same script, told not to, makes the comparison."""
    # The cadence is given: measured, it could be another for each of the two comparisons.
    arguments = (*ARGUMENTS, "--save_steps", "4", "--eval_strategy", "steps", "--eval_steps", "3")
    fatal = """
from transformers import TrainerCallback
class Fatal(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6 and not args.report_to and Path("kill").exists():
            Path("kill").unlink()
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
trainer.add_callback(Fatal())
"""
    train = "trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)"
    fatal = fatal.replace('Path("kill")', f'Path("{tmp_path}/kill")')
    script = write_script(tmp_path, train=fatal + train)
    few = ("--arms", "critmom_adamw", "--num_seeds", "1", "--targets", "2.7")
    assert compare(warm, script, tmp_path / "whole", *few, arguments=arguments) == 0
    (tmp_path / "kill").touch()
    assert compare(warm, script, tmp_path / "killed", *few, arguments=arguments) == 2
    assert "was killed (signal 9, SIGKILL)" in sentence_in(capsys.readouterr().err)
    run = tmp_path / "killed/runs/critmom_adamw/seed-42"
    assert (run / "checkpoint-4").exists() and json.loads((run / "failure.json").read_text())["lines"]
    assert compare(warm, script, tmp_path / "killed", *few, arguments=arguments) == 0
    results = [result_of(tmp_path / name, "critmom_adamw") for name in ("whole", "killed")]
    assert without_seconds(results[0]) == without_seconds(results[1])
    weights = [next((tmp_path / name).glob("runs/*/*/model.safetensors")).read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_a_failed_and_a_diverged_run_are_recorded_and_the_rest_goes_on(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = 'if args.optim == "critmom" and args.seed == 43:\n    raise RuntimeError("the disk of the data is gone")'
    predict = "Trainer(model=model, args=args, eval_dataset=data).predict(data[:4]); trainer.save_model()"
    script = write_script(tmp_path, before=before, after=predict)
    flags = (
        "--arms",
        "constant[lr=1e6,weight_decay=10,name=wild]",
        "critmom",
        "--num_seeds",
        "2",
        "--targets",
        "2.7",
        "--workers",
        "2",
    )
    assert compare(warm, script, tmp_path / "out", *flags, "--claim", "critmom < wild") == 2
    assert "critmom, seed 43 failed" in (said := sentence_in(capsys.readouterr().err))
    assert "the disk of the data is gone" in said
    failure = json.loads((tmp_path / "out/runs/critmom/seed-43/failure.json").read_text())
    assert any("the disk of the data is gone" in line for line in failure["lines"])
    assert [result_of(tmp_path / "out", "wild", seed)["status"] for seed in (42, 43)] == ["diverged"] * 2
    assert result_of(tmp_path / "out", "critmom")["status"] == "finished"
    assert main(["report", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "The run critmom, seed 43 failed" in card and "Unfinished: 3 of 4" in card
    assert "There is no test split" not in card and "test loss" in card  # the script predicts one


ELSEWHERE = """
from transformers import TrainerCallback
trainer.compute_metrics = lambda prediction: {**accuracy(prediction), "rows": len(prediction.label_ids)}
class Elsewhere(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        trainer.evaluate(data[8:13])
    def on_epoch_end(self, args, state, control, **kwargs):
        trainer.evaluate(data[8:14], metric_key_prefix="eval_train")
        trainer.evaluate({"a": data[8:12]})
    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if metrics.get("eval_rows") == 8:
            trainer.evaluate(data[8:11])
trainer.add_callback(Elsewhere())
trainer.train()
trainer.evaluate(data[8:13])
"""


def test_evaluations_of_other_datasets_are_not_taken_for_those_of_the_trainers_own(warm: str, tmp_path: Path) -> None:
    """The Trainer's own dataset has eight rows, and no other that the script evaluates has."""
    script = write_script(tmp_path, train=ELSEWHERE)
    few = ("--arms", "adamw", "--num_seeds", "1", "--targets", "2")
    arguments = (*ARGUMENTS, "--eval_strategy", "steps", "--eval_steps", "5")
    assert compare(warm, script, tmp_path / "out", *few, arguments=arguments) == 0
    result = result_of(tmp_path / "out", "adamw")
    assert [(one["step"], one["rows"]) for one in result["evaluations"]] == [(5, 8), (10, 8), (12, 8)]
    assert result["evaluations"][-1]["train_rows"] == 6  # under names of its own
    assert result["test"]["loss"] == result["evaluations"][-1]["loss"] and result["ended_on"] == "validation"
    assert "Unfinished" not in (tmp_path / "out/README.md").read_text()


def test_a_second_training_is_refused_when_it_begins_and_leaves_the_checkpoints_of_the_first(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = "Trainer(model=model, args=args, train_dataset=data, eval_dataset=data[:8]).train()"
    after = f"{again}; (Path(args.output_dir) / 'twice').touch()"
    script, few = write_script(tmp_path, after=after), ("--arms", "adamw", "--num_seeds", "1", "--targets", "2")
    assert compare(warm, script, tmp_path / "out", *few, arguments=(*ARGUMENTS, "--save_steps", "4")) == 2
    assert "train.py trains several times: expected a script with a single" in sentence_in(capsys.readouterr().err)
    run = tmp_path / "out/runs/adamw/seed-42"
    assert list(run.glob("checkpoint-*")) and not (run / "twice").exists() and not (run / "result.json").exists()


def test_pairing_is_checked_and_its_failure_is_reported(warm: str, tmp_path: Path) -> None:
    script = write_script(tmp_path)
    text = script.read_text().replace("set_seed(args.seed)", "set_seed(args.seed + len(args.optim.value))")
    script.write_text(text)
    flags = ("--arms", "adamw", "critmom_adamw", "--num_seeds", "2", "--targets", "2.7")
    assert compare(warm, script, tmp_path / "out", *flags) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "Pairing failed: the initial weights of critmom_adamw differ" in card
    assert "The seeds of the two are not paired, so their means are compared (Welch's t interval)." in card
    assert "are not paired, because" in card and "paired t interval" not in card
