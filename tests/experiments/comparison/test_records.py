"""Claims about what is read from disk: a file that was damaged in any way is named in one sentence, not believed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import ComparisonError
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.results import read_results

COMMITTED = Path(__file__).parents[3] / "model_cards" / "cifar10-resnet18-w16-15epochs"
RESULT = Path("runs", "critmom", "seed-42", "result.json")
DRIFT = RESULT.with_name("drift.json")

Change = Callable[[Any], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished comparison, without models."""
    copy = tmp_path / "out"
    shutil.copytree(COMMITTED, copy, ignore=shutil.ignore_patterns("figures", "README.md", "*.parquet"))
    return copy


@pytest.fixture
def refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """The one sentence with which ``report`` answers; it names the file."""

    def answer(file: Path) -> str:
        assert main(["report", str(folder)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].endswith(".") and str(folder / file) in lines[0], lines
        return lines[0]

    return answer


def changed(file: Path, change: Change) -> None:
    content = json.loads(file.read_text())
    replaced = change(content)
    file.write_text(json.dumps(content if replaced is None else replaced))


def put(*path: Any) -> Change:
    """A change of one value: the last of the path, at the keys before it."""
    *keys, name, value = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        content[name] = value

    return change


def drop(*path: Any) -> Change:
    *keys, name = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        del content[name]

    return change


def tripled(content: Any) -> None:
    content["evaluations"] *= 3


def backwards(content: Any) -> None:
    content["evaluations"].reverse()


RESULTS: dict[str, tuple[Change, str]] = {
    "of-another-arm": (put("arm", "constant"), "of the arm constant instead of critmom"),
    "of-another-seed": (put("seed", 43), "of the seed 43 instead of 42"),
    "of-another-budget": (put("budget", 3.0), "of the budget 3 instead of 15"),
    "of-another-learning-rate": (put("learning_rate", 0.2), "of the learning rate 0.2 instead of 0.1"),
    "of-another-weight-decay": (put("weight_decay", 0.0), "of the weight decay 0 instead of 0.0005"),
    "evaluations-tripled": (tripled, "do not rise"),
    "evaluations-backwards": (backwards, "do not rise"),
    "evaluations-of-no-object": (put("evaluations", [3]), "evaluations[0] is 3 instead of an object"),
    "no-evaluation": (put("evaluations", []), "finished without an evaluation"),
    "evaluation-without-metric": (drop("evaluations", 0, "accuracy"), "has no accuracy"),
    "impossible-accuracy": (put("evaluations", 0, "accuracy", 1.5), "accuracies in (0, 1]"),
    "text-for-accuracy": (put("evaluations", 2, "accuracy", "0.5"), "evaluations[2].values.accuracy is '0.5'"),
    "seconds-backwards": (put("evaluations", 3, "seconds", 0.0), "time runs backwards"),
    "seconds-after-the-end": (put("train_seconds", 1.0), "after the end of training"),
    "step-beyond-the-end": (put("steps", 100), "do not rise"),
    "fraction-of-a-step": (put("evaluations", 0, "step", 1.5), "step is 1.5 instead of an integer"),
    "unknown-status": (put("status", "great"), "status is 'great' instead of finished or diverged"),
    "status-of-another-type": (put("status", ["finished"]), "status is ['finished']"),
    "negative-steps": (put("steps", -1), "steps is -1"),
    "infinite-seconds": (put("train_seconds", float("inf")), "Infinity"),
    "huge-seconds": (put("train_seconds", 10**400), "train_seconds is"),
    "nan-in-the-test": (put("test", "accuracy", float("nan")), "NaN"),
    "test-not-read": (put("test", {}), "run without values on the test split"),
    "test-without-metric": (drop("test", "accuracy"), "test has no accuracy"),
    "impossible-test": (put("test", "accuracy", -0.5), "accuracies in (0, 1]"),
    "true-for-a-number": (put("steps", True), "steps is True"),
    "no-versions": (drop("versions"), "versions is missing"),
    "no-hardware": (drop("versions", "hardware"), "versions.hardware is missing"),
    "log-of-texts": (put("training_log", ["loss"]), "training_log[0] is 'loss' instead of an object"),
    "a-list": (lambda content: [content], "instead of a JSON object"),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_result_that_was_changed_is_not_believed(case: str, folder: Path, refusal: Callable[[Path], str]) -> None:
    change, said = RESULTS[case]
    changed(folder / RESULT, change)
    sentence = refusal(RESULT)
    assert said in sentence and "delete it and repeat" in sentence, sentence


PLANS: dict[str, tuple[Change, str]] = {
    **{
        f"arm-named-{name!r}": (
            lambda content, name=name: content["arms"].update({name: content["arms"]["constant"]}),
            "",
        )
        for name in ("../../x", "/tmp/x", "..", "", "a/b", "a\\b", ".hidden", "x\n", "critmom_tuned", "a" * 200)
    },
    "no-arms": (put("arms", {}), "arms"),
    "arms-in-a-list": (put("arms", ["critmom"]), "arms"),
    "arm-of-another-version": (put("arms", "critmom", "warmth", 3), "arms.critmom.warmth is not known"),
    "arm-without-optimizer": (drop("arms", "critmom", "optimizer"), "arms.critmom.optimizer is missing"),
    "arm-of-an-unknown-schedule": (put("arms", "critmom", "schedule", "cubic"), "arms.critmom: schedule is 'cubic'"),
    "arm-of-negative-rate": (put("arms", "critmom", "learning_rate", -1), "arms.critmom: learning_rate is -1"),
    "arm-of-no-colour": (put("arms", "critmom", "color", "$(x)"), "arms.critmom: color is"),
    "help-of-another-type": (put("arms", "critmom", "help", 3), "arms.critmom.help"),
    "no-seeds": (put("seeds", []), "seeds"),
    "seed-twice": (put("seeds", [42, 42]), "seeds"),
    "negative-seed": (put("seeds", [-1]), "-1 is not a seed"),
    "seed-too-large": (put("seeds", [2**32]), "4294967296 is not a seed"),
    "seed-of-text": (put("seeds", ["../42"]), "seeds[0]"),
    "fractional-seed": (put("seeds", [42.0]), "seeds[0]"),
    "left-out-of-an-unknown-arm": (put("left_out", {"nobody": [42]}), "left_out holds one that is not among the arms"),
    "left-out-of-an-unknown-seed": (
        put("left_out", {"critmom": [7]}),
        "left_out holds one that is not among the seeds",
    ),
    "left-out-nothing": (put("left_out", {"critmom": []}), "left_out of critmom is empty"),
    "left-out-everything": (
        lambda content: content.update(left_out={"critmom": content["seeds"]}),
        "left_out of critmom holds every seed",
    ),
    "left-out-in-a-list": (put("left_out", [42]), "left_out"),
    "no-targets": (put("targets", []), "targets"),
    "target-beyond-1": (put("targets", [90]), "accuracies in (0, 1]"),
    "target-twice": (put("targets", [0.8, 0.8]), "targets"),
    "unknown-metric": (put("task", "metric", "beauty"), "task: metric is 'beauty'"),
    "metric-turned-round": (put("task", "greater_is_better", False), "task: greater_is_better"),
    "no-test-split": (drop("task", "splits", "test"), "task: splits.test is missing"),
    "split-of-no-size": (put("task", "splits", "test", "examples", 0), "task.splits.test: examples is 0"),
    "no-fingerprint": (drop("task", "splits", "train", "sha256"), "task.splits.train.sha256"),
    "notes-of-numbers": (put("task", "notes", [1]), "task.notes[0] is 1"),
    "no-name": (drop("task", "name"), "task.name is missing"),
    "learning-rate-of-text": (put("training", "learning_rate", "fast"), "training.learning_rate"),
    "no-epochs": (put("training", "num_train_epochs", 0), "training: learning_rate and num_train_epochs"),
    "budgets-alike-in-six-digits": (
        put("training", "num_train_epochs", [1.0, 1.0000001]),
        "num_train_epochs is empty or holds a value twice",
    ),
    "budget-of-text": (put("training", "num_train_epochs", ["../3"]), "training.num_train_epochs"),
    "negative-clipping": (put("training", "max_grad_norm", -1), "max_grad_norm is negative"),
    "no-model": (put("model", {}), "model has no model"),
    "model-of-another-type": (put("model", "model", 18), "model has no model"),
    "half-a-grid": (put("tuning", {"learning_rate": [1.0]}), "tuning.weight_decay is missing"),
    "grid-of-zero": (put("tuning", {"learning_rate": [0], "weight_decay": [1], "seed": 3}), "tuning: learning_rate"),
    "versions-of-numbers": (put("versions", {"torch": 2}), "versions.torch"),
    "command-in-a-list": (put("command", ["rm"]), "command"),
    "no-count-of-images": (
        put("arguments", {"data": {"max_train_samples": "all"}}),
        "arguments.data.max_train_samples",
    ),
    "a-part-that-nobody-knows": (put("surprise", 1), "surprise is not known"),
    "no-task": (drop("task"), "task is missing"),
}


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("command", ["report", "drift"])
def test_a_plan_that_was_changed_is_refused_before_anything_else_is_done(
    command: str, case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = PLANS[case]
    changed(folder / "comparison.json", change)
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    assert main([command, str(folder)]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1 and str(folder / "comparison.json") in sentence and said in sentence, sentence
    assert "restore it" in sentence
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": cut,
    "zeros": lambda file: file.write_bytes(b"\0" * 100),
    "not-utf-8": lambda file: file.write_bytes(b"\xff\xfe{}"),
    "nothing-in-it": lambda file: file.write_text("{}"),
    "null": lambda file: file.write_text("null"),
    "deep": lambda file: file.write_text("[" * 100_000),
    "long-number": lambda file: file.write_text(f'{{"steps": {"9" * 5000}}}'),
    "a-folder": make_folder,
    "a-link-to-itself": lambda file: (file.unlink(), file.symlink_to(file.name)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [Path("comparison.json"), RESULT, DRIFT], ids=str)
def test_a_file_that_was_damaged_is_named(
    damage: str, file: Path, folder: Path, refusal: Callable[[Path], str]
) -> None:
    DAMAGES[damage](folder / file)
    if damage == "a-link-to-itself" and file.name != "comparison.json":
        assert main(["report", str(folder)]) == 0  # a link that leads nowhere is a run that is not finished
        return
    refusal(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("file", [Path("comparison.json"), RESULT, DRIFT], ids=str)
def test_a_file_that_may_not_be_read_is_named(file: Path, folder: Path, refusal: Callable[[Path], str]) -> None:
    (folder / file).chmod(0)
    assert "Permission denied" in refusal(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("examples", 0), "examples is 0"),
        (put("accuracy", "fog", [0.5] * 5), "accuracy.fog"),
        (put("accuracy", "contrast", [0.5]), "accuracy.contrast"),
        (
            put("accuracy", "contrast", [0.5, 0.5, 0.5, 0.5, 1.5]),
            "accuracy.contrast does not hold an accuracy for each severity",
        ),
        (put("accuracy", "clean", 0.5), "accuracy.clean"),
        (put("accuracy", [0.5]), "accuracy"),
    ],
)
def test_measurements_of_drift_that_were_changed_are_not_believed(
    change: Change, said: str, folder: Path, refusal: Callable[[Path], str]
) -> None:
    changed(folder / DRIFT, change)
    assert said in refusal(DRIFT)


def test_a_trial_is_not_taken_for_another_point_of_the_grid(tmp_path: Path) -> None:
    """Trials of one arm share arm and seed: their learning rates tell them apart."""
    plan = json.loads((COMMITTED / "comparison.json").read_text())
    plan |= {
        "tuning": {"learning_rate": [0.5, 2.0], "weight_decay": [1.0], "seed": 7},
        "arms": {"critmom": plan["arms"]["critmom"]},
    }
    (tmp_path / "comparison.json").write_text(json.dumps(plan))
    result = json.loads((COMMITTED / RESULT).read_text()) | {"seed": 7, "test": {}, "learning_rate": 0.05}
    for point in ("lr-0.5-wd-1", "lr-2-wd-1"):
        file = tmp_path / "runs" / "critmom" / "tuning" / point / "result.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(result))
    with pytest.raises(ComparisonError, match=r"lr-2-wd-1.*learning rate 0.05 instead of 0.2"):
        read_results(tmp_path, Plan.read(tmp_path))
