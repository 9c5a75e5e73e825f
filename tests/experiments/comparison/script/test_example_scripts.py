"""Claims about the scripts of this repository, which are in the form of the official examples, under a comparison."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.image_data import write_folder
from helpers.script_comparisons import compare, result_of

SCRIPTS = Path(__file__).parents[4] / "scripts"
SMALL_VIT = "image_size=16,patch_size=8,hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are converted into a folder of the test."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_language_models_are_compared_in_run_clm(warm: str, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("".join(f"{number} bottles of beer on the wall,\n" for number in range(99)))
    arguments = (
        *("--model_type", "gpt2", "--config_overrides", "n_layer=1,n_head=2,n_embd=16,n_positions=32"),
        *("--tokenizer_name", "bytes", "--train_file", str(tmp_path / "words.txt"), "--block_size", "16"),
        *("--max_train_samples", "48", "--max_eval_samples", "8", "--per_device_train_batch_size", "4"),
        *("--num_train_epochs", "1", "--do_train", "--do_eval", "--use_cpu", "--learning_rate", "0.01"),
    )
    flags = ("--arms", "adamw", "critmom", "--num_seeds", "1", "--targets", "5", "4.5", "--workers", "2")
    assert compare(warm, SCRIPTS / "run_clm.py", tmp_path / "out", *flags, arguments=arguments) == 0
    results = {arm: result_of(tmp_path / "out", arm) for arm in ("adamw", "critmom")}
    assert all(result["evaluations"][-1]["step"] == result["steps"] == 12 for result in results.values())
    assert results["adamw"]["pairing"]["weights"] == results["critmom"]["pairing"]["weights"]
    assert results["adamw"]["test"]["loss"] == pytest.approx(results["adamw"]["evaluations"][-1]["loss"])
    assert results["critmom"]["evaluations"][-1]["momentum"] > results["critmom"]["evaluations"][0]["momentum"]


def test_image_classifiers_are_compared_by_a_file_of_arguments(warm: str, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for split, count in (("train", 36), ("validation", 12)):
        labels = np.arange(count) % 3
        images = draws.integers(0, 99, (count, 3, 16, 16), dtype=np.uint8)
        images[np.arange(count), labels] += 150
        write_folder(tmp_path / split, images, labels)
    arguments = {
        "model_type": "vit",
        "config_overrides": SMALL_VIT,
        "train_dir": str(tmp_path / "train"),
        "validation_dir": str(tmp_path / "validation"),
        "output_dir": "set by each run",
        "optim": "sgd",
        "learning_rate": 0.05,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 12,
        "do_train": True,
        "do_eval": True,
        "use_cpu": True,
    }
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    flags = ("--metric", "eval_accuracy", "--arms", "critmom", "matched", "--num_seeds", "1", "--targets", "0.5")
    script, given = SCRIPTS / "run_image_classification.py", (str(tmp_path / "arguments.json"),)
    assert compare(warm, script, tmp_path / "out", *flags, "--workers", "2", arguments=given) == 0
    results = [result_of(tmp_path / "out", arm) for arm in ("critmom", "matched")]
    assert all(result["learning_rate"] == 0.05 and "accuracy" in result["test"] for result in results)
    plan = json.loads((tmp_path / "out/comparison.json").read_text())
    assert plan["task"]["hub_task"] == "image-classification" and plan["task"]["greater_is_better"] is True
