"""Claims about unmodified programs of other packages under ``hf-critmom compare --script``; needs other_trainers.

python -m pytest -m slow tests/experiments/comparison/script/test_other_programs.py
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.launches import without_seconds
from helpers.other_programs import EMBEDDINGS, write_encoder, write_language_model, write_texts
from helpers.script_comparisons import ARGUMENTS, result_of, write_script

from hf_critmom.commands import main

pytestmark = pytest.mark.slow

SFT = (
    *("--model_name_or_path", "model", "--dataset_name", "texts", "--max_length", "48", "--max_steps", "8"),
    *("--per_device_train_batch_size", "4", "--use_cpu", "--bf16", "false", "--dtype", "float32"),
)
LORA = ("--use_peft", "--lora_r", "4", "--lora_target_modules", "c_attn", "c_proj", "--learning_rate", "0.01")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("further", [(), LORA], ids=["full", "lora"])
def test_trl_fine_tunes_in_full_and_with_lora(further: tuple[str, ...], here: Path) -> None:
    pytest.importorskip("trl")
    write_language_model(here / "model")
    write_texts(here / "texts")
    arms = ("--arms", "adamw", "critmom_adamw", "torch.optim.RAdam[lr=0.01]", "--num_seeds", "1", "--targets", "5")
    flags = (*arms, "--output_dir", "out")
    assert main(["compare", "--script", "-m", "trl.scripts.sft", *flags, "--", *SFT, *further]) == 0
    results = [result_of(here / "out", arm) for arm in ("adamw", "critmom_adamw", "torch.optim.RAdam")]
    assert all(result["steps"] == 8 and len(result["evaluations"]) > 2 for result in results)
    assert len({result["pairing"]["weights"] for result in results}) == 1
    plan = json.loads((here / "out/comparison.json").read_text())
    assert plan["model"]["model"] == "GPT2LMHeadModel"
    trained, every = (plan["model"][name] for name in ("num_trained_parameters", "num_parameters"))
    assert (trained < every) is bool(further)
    assert list((here / "out/runs/adamw/seed-42").glob("adapter_model.*" if further else "model.safetensors"))


def test_sentence_transformers_learn_by_a_file_of_arguments(here: Path) -> None:
    pytest.importorskip("sentence_transformers")
    write_encoder(here / "encoder")
    (here / "train_embeddings.py").write_text(EMBEDDINGS)
    arguments = {"output_dir": "own", "num_train_epochs": 2, "per_device_train_batch_size": 8, "use_cpu": True}
    (here / "training.yaml").write_text(yaml.safe_dump({**arguments, "learning_rate": 0.01}))
    flags = ("--metric", "pairs_spearman_cosine", "--arms", "adamw", "critmom_adamw", "--num_seeds", "1")
    script = ("compare", "--script", "train_embeddings.py", *flags, "--targets", "0.1", "--output_dir", "out")
    assert main([*script, "--", "training.yaml"]) == 0
    results = [result_of(here / "out", arm) for arm in ("adamw", "critmom_adamw")]
    assert all("pairs_spearman_cosine" in result["evaluations"][-1] for result in results)
    assert all(result["steps"] == 14 for result in results)
    plan = json.loads((here / "out/comparison.json").read_text())
    assert plan["task"]["greater_is_better"] is True and plan["task"]["hub_task"] == "sentence-similarity"


def test_two_processes_train_one_run(here: Path) -> None:
    script = write_script(here)
    few = ("--arms", "critmom_adamw", "--num_seeds", "1", "--targets", "2.7", "--output_dir", "out")
    launcher = ("--launcher", "torchrun --standalone --nproc_per_node 2", "--threads_per_worker", "1")
    assert main(["compare", "--script", str(script), *launcher, *few, "--", *ARGUMENTS]) == 0
    result = result_of(here / "out", "critmom_adamw")
    assert result["steps"] == 6  # two processes share 24 examples in batches of 4
    assert json.loads((here / "out/comparison.json").read_text())["training"]["total_train_batch_size"] == 8


def test_a_comparison_that_is_killed_at_five_random_moments_ends_with_the_same_results(here: Path) -> None:
    script = write_script(here)
    flags = (
        "--arms",
        "adamw",
        "critmom",
        "--num_seeds",
        "2",
        "--targets",
        "2.7",
        "--workers",
        "2",
        "--evaluations_per_epoch",
        "2",
    )
    arguments = ("--", *ARGUMENTS, "--save_steps", "2")
    assert main(["compare", "--script", str(script), *flags, "--output_dir", "whole", *arguments]) == 0
    command = [sys.executable, "-m", "hf_critmom", "compare", "--script", str(script), *flags, "--output_dir", "killed"]
    draws = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL)
        time.sleep(draws.uniform(8.0, 40.0))
        process.send_signal(draws.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        process.wait()
    assert subprocess.run([*command, *arguments], check=False).returncode == 0
    for arm in ("adamw", "critmom"):
        for seed in (42, 43):
            whole, killed = (result_of(here / name, arm, seed) for name in ("whole", "killed"))
            assert without_seconds(whole) == without_seconds(killed)
