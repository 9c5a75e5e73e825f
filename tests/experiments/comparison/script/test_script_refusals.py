"""Claims about scripts that cannot be compared: a sentence each, before anything is written."""

from pathlib import Path

import pytest
from helpers.script_comparisons import ARGUMENTS, compare, sentence_in, write_script

from hf_critmom.commands import main

FEW = ("--arms", "critmom_adamw", "--num_seeds", "1", "--targets", "2")
OWN_OPTIM = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--optim", choices=["sgd", "adam"])
parser.parse_known_args()
"""
REFUSED = {
    "--output_dir": ({"before": 'args.output_dir = "elsewhere"'}, "ignores --output_dir (it trained with elsewhere)"),
    "--seed": ({"before": "args.seed = 1"}, "ignores --seed (it trained with 1)"),
    "no training": ({"train": "pass", "after": "pass"}, "ended without training by a Transformers Trainer"),
    "no evaluation": ({"train": "trainer.eval_dataset = None; trainer.train()"}, "train.py never evaluates"),
    "a failure": ({"before": 'raise RuntimeError("no data")'}, "ended with status 1: RuntimeError: no data"),
    "input": ({"before": 'input("Overwrite? ")'}, "asks for input, which nobody can enter"),
    "own optimizer": (
        {"train": "trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\ntrainer.train()"},
        "passes its Trainer an optimizer (SGD) regardless of --optim",
    ),
    "cadence": ({"before": "args.eval_steps = 1000"}, "ignores --eval_steps (it trained with 1000)"),
    "choices": ({"before": OWN_OPTIM}, "has its own choices for --optim, and critmom_adamw is not among them"),
}


@pytest.mark.parametrize(("parts", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_script_that_cannot_be_compared_is_refused_with_the_reason(
    parts: dict[str, str], sentence: str, warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = write_script(tmp_path, **parts)
    assert compare(warm, script, tmp_path / "out", *FEW) == 2
    assert sentence in sentence_in(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_training_arguments_that_no_comparison_can_have_are_said(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, words = ("--arms", "adamw", "--num_seeds", "1"), (*ARGUMENTS, "--learning_rate", "0")
    assert compare(warm, write_script(tmp_path), tmp_path / "out", *own, arguments=words) == 2
    said = sentence_in(capsys.readouterr().err)
    assert "train.py trains with arguments that cannot be compared (training: learning_rate" in said
    assert not (tmp_path / "out").exists()


def test_a_metric_that_is_not_logged_names_those_that_are(
    warm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(warm, write_script(tmp_path), tmp_path / "out", *FEW, "--metric", "eval_f1") == 2
    said = sentence_in(capsys.readouterr().err)
    assert "train.py logs no eval_f1, only eval_loss, eval_accuracy: choose one of these with --metric." in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--script", "no.py"], "There is no script no.py"),
        (["--script", "poem.py"], "poem.py is not Python"),
        (["--script", "lesson.ipynb"], "lesson.ipynb is a notebook"),
        (["--script"], "--script needs a script"),
        (["--script", "train.py", "--script", "train.py"], "--script is given twice"),
        (["--script", "train.py", "--learning_rate", "1"], "unknown arguments --learning_rate 1"),
        (["--script", "train.py", "--launcher", "slurmish run"], "slurmish, which is not installed here"),
        (["--script", "train.py", "--metric", "loss", "--targets", "nan"], "finite numbers"),
        (["--script", "train.py", "--metric", "eval_split"], "let the script log it by another name"),
        (["--script", "train.py", "--", "--push_to_hub"], "Leave --push_to_hub out"),
        (["--script", "train.py", "--", "nowhere.json"], "nowhere.json cannot be read"),
        (["--script", "train.py", "--seed", "3", "--", "--seed", "4"], "--seed is given"),
        (["--script", "train.py", "--arms", "critmmo"], "Unknown arm 'critmmo'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_before_the_script_starts(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_script(tmp_path)
    (tmp_path / "poem.py").write_text("Two roads diverged in a yellow wood")
    (tmp_path / "lesson.ipynb").write_text("{}")
    assert main(["compare", *words]) == 2
    assert sentence in sentence_in(capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lesson.ipynb", "poem.py", "train.py"]
    assert ARGUMENTS  # none of them was needed
