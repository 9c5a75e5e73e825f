"""Claims about drift: what a comparison's networks do on corrupted images is measured right, once, and reported."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.launches import launch, status_of
from PIL import Image

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import ComparisonError
from hf_critmom.experiments.comparison.drift import _add
from hf_critmom.experiments.comparison.plan import Run
from hf_critmom.experiments.comparison.records import DriftRecord
from hf_critmom.experiments.comparison.rendering.tables import drift_rows
from hf_critmom.experiments.comparison.statistics.drift import drift_differences, summarise_drift
from hf_critmom.tasks import (
    CORRUPTIONS,
    CifarResNetForImageClassification,
    DataArguments,
    corrupt,
    corruptions_of,
    load_task,
)

COMPARE = (
    *("compare", "--width", "2", "--arms", "constant", "critmom", "--num_seeds", "2", "--num_train_epochs", "1"),
    *("--max_train_samples", "128", "--max_eval_samples", "64", "--targets", "0.1", "--use_cpu"),
    *("--workers", "1", "--evaluations_per_epoch", "1"),
)
SOME = ("--corruptions", "gaussian_blur", "contrast")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift") / "out"
    assert main((*COMPARE, "--output_dir", str(folder))) == 0
    assert main(("drift", str(folder), *SOME)) == 0
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(("drift", *words)) == 2
        sentence = capsys.readouterr().err.strip().splitlines()[-1]
        assert sentence.startswith("hf-critmom drift: error: ")
        return sentence

    return run


def drift_of(folder: Path, arm: str, seed: int) -> dict[str, Any]:
    return json.loads((folder / "runs" / arm / f"seed-{seed}" / "drift.json").read_text())


@pytest.mark.parametrize("arm", ["constant", "critmom"])
def test_accuracies_are_those_of_the_saved_network_on_the_corrupted_images(measured: Path, arm: str) -> None:
    folder = measured / "runs" / arm / "seed-42"
    found = drift_of(measured, arm, 42)
    assert found["examples"] == 64 and list(found["accuracy"]) == ["clean", "gaussian_blur", "contrast"]
    tested = json.loads((folder / "result.json").read_text())["test"]["accuracy"]
    assert found["accuracy"]["clean"] == [pytest.approx(tested, abs=1e-12)]
    test = load_task(DataArguments(max_train_samples=128, max_eval_samples=64)).test
    model = CifarResNetForImageClassification.from_pretrained(folder).eval()
    for severity, accuracy in enumerate(found["accuracy"]["contrast"], start=1):
        images = corrupt(test.images, "contrast", severity, seed=0)
        pixels = (torch.from_numpy(images).float() / 255.0 - torch.tensor(test.mean)) / torch.tensor(test.std)
        with torch.no_grad():
            predicted = model(pixel_values=pixels).logits.argmax(-1).numpy()
        assert accuracy == pytest.approx(float((predicted == test.labels).mean()), abs=1e-12)


def test_what_was_measured_is_not_measured_again_and_more_can_be_added(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(measured, folder)
    before = drift_of(folder, "critmom", 43)
    (folder / "runs" / "critmom" / "seed-43" / "drift.json").unlink()
    untouched = (folder / "runs" / "constant" / "seed-42" / "drift.json").stat().st_mtime_ns
    assert main(("drift", str(folder), *SOME)) == 0
    assert drift_of(folder, "critmom", 43) == before
    assert (folder / "runs" / "constant" / "seed-42" / "drift.json").stat().st_mtime_ns == untouched
    assert main(("drift", str(folder), "--corruptions", "pixelate")) == 0
    assert list(drift_of(folder, "constant", 42)["accuracy"]) == [*before["accuracy"], "pixelate"]


def test_what_leaves_grey_images_clean_does_not_count_as_a_corruption(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(measured, folder)
    assert main(("drift", str(folder), "--corruptions", "saturate", "contrast")) == 0
    assert "saturate is left out, because it changes nothing but colours" in capsys.readouterr().err
    assert drift_of(folder, "constant", 42) == drift_of(measured, "constant", 42)
    colored, grey = np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 1, 4, 4), np.uint8)
    assert corruptions_of(colored, CORRUPTIONS) == [*CORRUPTIONS]
    assert {*CORRUPTIONS} - {*corruptions_of(grey, CORRUPTIONS)} == {"saturate"}


@pytest.mark.slow
def test_two_measurements_at_once_lose_nothing(measured: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(measured, folder)
    names = ("pixelate", "brightness", "gaussian_noise", "jpeg_compression")
    launches = [
        launch("drift", str(folder), "--corruptions", name, said=tmp_path / f"said-{name}") for name in names[:3]
    ]
    assert main(("drift", str(folder), "--corruptions", names[3])) == 0
    assert [status_of(one) for one in launches] == [0, 0, 0]
    for arm in ("constant", "critmom"):
        for seed in (42, 43):
            found, before = drift_of(folder, arm, seed), drift_of(measured, arm, seed)
            assert {*found["accuracy"]} == {*before["accuracy"], *names}
            assert found["accuracy"].items() >= before["accuracy"].items()


def test_a_measurement_on_other_images_is_not_mixed_with_one_that_came_first(measured: Path, tmp_path: Path) -> None:
    """Also where it began before the other had written anything."""
    run, file = Run("critmom", 42), tmp_path / Run("critmom", 42).folder / "drift.json"
    file.parent.mkdir(parents=True)
    _add(tmp_path, run, DriftRecord(64, {"contrast": (0.5,) * 5}))
    _add(tmp_path, run, DriftRecord(64, {"clean": (0.9,)}))
    assert json.loads(file.read_text())["accuracy"] == {"contrast": [0.5] * 5, "clean": [0.9]}
    with pytest.raises(ComparisonError, match="measured on 64 images, and 10 are requested"):
        _add(tmp_path, run, DriftRecord(10, {"pixelate": (0.5,) * 5}))
    assert "pixelate" not in file.read_text()


def test_the_report_shows_it(measured: Path) -> None:
    text = (measured / "README.md").read_text()
    examples = drift_of(measured, "constant", 42)["examples"]
    assert (
        f"On {examples} corrupted test images (a CIFAR-10-C-style subset" in text
        and "corrupted, less constant's" in text
    )
    assert Image.open(measured / "figures" / "drift.png").format == "PNG"
    for arm in ("constant", "critmom"):
        accuracies = [drift_of(measured, arm, seed)["accuracy"] for seed in (42, 43)]
        mean = np.mean([one["gaussian_blur"] for one in accuracies])
        row = next(line for line in text.splitlines() if line.startswith(f"| {arm} ") and f"{mean:.4f}" in line)
        assert row.count("|") == 6


def test_differences_pair_the_seeds() -> None:
    rows = [
        (arm, seed, None, corruption, severity, accuracy)
        for arm, gain in (("constant", 0.0), ("critmom", 0.1))
        for seed in (0, 1, 2)
        for corruption, severity, accuracy in (
            ("clean", 0, 0.8 + 0.01 * seed + gain),
            ("contrast", 1, 0.5 + 0.1 * seed + 2 * gain),
            ("contrast", 2, 0.3 + 0.1 * seed),
        )
    ]
    drift = pd.DataFrame(rows, columns=["arm", "seed", "budget", "corruption", "severity", "accuracy"])
    found = drift_differences(drift, "critmom", "constant")
    for kind in ("clean", "corrupted"):
        assert found[kind].n == 3 and found[kind].estimate == pytest.approx(0.1)
        assert found[kind].low == pytest.approx(0.1) and found[kind].high == pytest.approx(0.1)


def test_arms_are_compared_on_the_corruptions_that_both_were_measured_on() -> None:
    accuracies = {"clean": 0.9, "contrast": 0.3, "brightness": 0.8}
    measured = {("constant", 0): ("clean", "contrast", "brightness"), ("constant", 1): ("clean", "contrast")}
    measured |= {("critmom", 0): ("clean", "brightness"), ("critmom", 1): ("clean", "contrast", "brightness")}
    rows = [
        (arm, seed, None, corruption, 0 if corruption == "clean" else 1, accuracies[corruption], 100)
        for (arm, seed), corruptions in measured.items()
        for corruption in corruptions
    ]
    drift = pd.DataFrame(rows, columns=["arm", "seed", "budget", "corruption", "severity", "accuracy", "examples"])
    found = drift_differences(drift, "critmom", "constant")
    assert {kind: one.n for kind, one in found.items()} == {"clean": 2, "contrast": 1, "brightness": 1}
    assert all(one.estimate == pytest.approx(0.0) for one in found.values())
    drift = drift[(drift["arm"] != "critmom") | (drift["corruption"] != "brightness")]
    _, (constant, critmom) = drift_rows(summarise_drift(drift, ["constant", "critmom"], "constant"), "constant")
    assert constant == ["constant", "0.9000", "0.3000", "0.8000", "-"]
    assert critmom == ["critmom", "0.9000", "0.3000", "-", "-"]


def test_what_cannot_be_measured_is_an_error(refused: Any, measured: Path, tmp_path: Path) -> None:
    assert "holds no comparison" in refused(str(tmp_path / "nothing"))
    assert "invalid choice: 'fog'" in refused(str(measured), "--corruptions", "fog")
    assert "64 images, and 10 are requested" in refused(str(measured), *SOME, "--max_eval_samples", "10")
    assert "at least 1" in refused(str(measured), *SOME, "--max_eval_samples", "0")
    bare = tmp_path / "bare"
    shutil.copytree(measured, bare, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    assert "has its model" in refused(str(bare))
    other = tmp_path / "other"
    shutil.copytree(measured, other)
    plan = json.loads((other / "comparison.json").read_text())
    plan["arguments"]["data"]["max_eval_samples"] = 32
    (other / "comparison.json").write_text(json.dumps(plan))
    assert "not those of the comparison" in refused(str(other))


def test_an_early_plan_says_by_its_data_what_to_load(refused: Any, measured: Path, tmp_path: Path) -> None:
    """Early plans stored no flags; the command that they store is for people, and is not parsed."""
    folder = tmp_path / "out"
    shutil.copytree(measured, folder)
    plan = json.loads((folder / "comparison.json").read_text())
    del plan["arguments"]
    plan["command"] = "hf-critmom compare --max_eval_samples '"
    (folder / "comparison.json").write_text(json.dumps(plan))
    before = drift_of(folder, "critmom", 42)
    (folder / "runs" / "critmom" / "seed-42" / "drift.json").unlink()
    assert main(("drift", str(folder), *SOME)) == 0
    assert drift_of(folder, "critmom", 42) == before
    plan["task"]["source"] = "local folder pets"
    (folder / "comparison.json").write_text(json.dumps(plan))
    sentence = refused(str(folder))
    assert "name it with --task; it was the local folder pets" in sentence
    assert main(("drift", str(folder), *SOME, "--task", "digits")) == 0


def test_texts_cannot_be_corrupted(refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 400)
    words = ("--train_file", str(text), "--block_size", "16", "--hidden_size", "8", "--num_hidden_layers", "1")
    given = ("--arms", "adamw", "--num_seeds", "1", "--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2")
    sizes = (
        "--num_attention_heads",
        "1",
        "--max_eval_samples",
        "8",
        "--use_cpu",
        "--targets",
        "3",
        "--output_dir",
        str(tmp_path / "out"),
    )
    assert main(("compare", "--task", "text", *words, *given, *sizes)) == 0
    assert "Only images can be corrupted" in refused(str(tmp_path / "out"))
