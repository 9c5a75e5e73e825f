"""Claims about comparisons that are killed, interrupted or diverge: they end as if nothing had been, or say so."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.launches import has_saved, without_seconds
from helpers.watched_comparisons import (
    SMALL,
    STEPS,
    TINY,
    read_result,
    snapshot,
    weights_in,
)
from huggingface_hub import ModelCard

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import ARMS, Arm
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.storage.checkpoints import last_complete_checkpoint
from hf_critmom.tasks.images import ImageDataset


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], Path]:
    """A command, and the folder of it that was killed when its second run had written a checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "out"
    command = ("compare", *TINY, "--num_train_epochs", "40", "--arms", "constant", "critmom", "--num_seeds", "1")
    words = [sys.executable, "-m", "hf_critmom", *command, "--save_strategy", "epoch", "--output_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300.0
        while not has_saved(folder / "runs" / "critmom" / "seed-42"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    return command, folder


@pytest.mark.slow
def test_a_killed_comparison_ends_as_if_it_had_not_been(
    killed: tuple[tuple[str, ...], Path], again: Any, tmp_path: Path
) -> None:
    command, folder = killed
    run = folder / "runs" / "critmom" / "seed-42"
    assert not (run / "result.json").exists()
    whole = last_complete_checkpoint(run)
    assert whole is not None
    steps_done = json.loads((Path(whole) / "trainer_state.json").read_text())["global_step"]
    assert 0 < steps_done < 80
    shutil.copytree(whole, run / "checkpoint-79")
    (run / "checkpoint-79" / "trainer_state.json").unlink()  # as if killed while it was being written
    constant = snapshot(folder / "runs" / "constant")

    _, continued = again(*command, "--save_strategy", "epoch", "--output_dir", str(folder))
    assert snapshot(folder / "runs" / "constant") == constant
    assert list(continued.runs) == [("critmom", 42)]
    again(*command, "--output_dir", str(tmp_path))  # undisturbed, and without checkpoints
    for arm in ("constant", "critmom"):
        expected = read_result(tmp_path, arm, 42)
        assert len(expected["evaluations"]) == 40
        assert without_seconds(read_result(folder, arm, 42)) == without_seconds(expected)
        assert weights_in(folder, arm, 42) == weights_in(tmp_path, arm, 42)
    seen = continued.runs["critmom", 42]
    assert len(seen.batches) == 80 - steps_done  # it went on from the checkpoint
    seconds = [evaluation["seconds"] for evaluation in read_result(folder, "critmom", 42)["evaluations"]]
    assert seconds == sorted(seconds) and seconds[0] > 0.0
    assert not list(folder.glob("runs/*/*/checkpoint-*"))


def test_a_run_interrupted_within_an_epoch_goes_on_from_its_last_checkpoint(
    again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--num_train_epochs", "4", "--arms", "hybrid", "--num_seeds", "1", "--targets", "0.05")
    saving = ("--save_strategy", "steps", "--save_steps", "3")
    again("compare", *TINY, *given, "--output_dir", str(tmp_path / "undisturbed"))
    run, hand_out, fetched = execution.execute_run, ImageDataset.__getitems__, []

    def interrupted(dataset: ImageDataset, indices: Any) -> dict[str, torch.Tensor]:
        if dataset.augmentation is not None:
            fetched.append(indices)
        if len(fetched) == 6:
            raise KeyboardInterrupt
        return hand_out(dataset, indices)

    def run_interrupted(*words: Any) -> Any:
        monkeypatch.setattr(ImageDataset, "__getitems__", interrupted)
        return run(*words)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "execute_run", run_interrupted)
        assert main(("compare", *TINY, *given, *saving, "--output_dir", str(tmp_path / "out"))) == 130
    monkeypatch.setattr(ImageDataset, "__getitems__", hand_out)
    checkpoints = [path.name for path in (tmp_path / "out" / "runs" / "hybrid" / "seed-42").glob("checkpoint-*")]
    assert checkpoints == ["checkpoint-3"]  # the middle of the second epoch

    _, continued = again("compare", *TINY, *given, *saving, "--output_dir", str(tmp_path / "out"))
    assert len(continued.runs["hybrid", 42].batches) == 8 - 3
    expected, found = (read_result(tmp_path / name, "hybrid", 42) for name in ("undisturbed", "out"))
    assert without_seconds(found) == without_seconds(expected)
    assert weights_in(tmp_path / "out", "hybrid", 42) == weights_in(tmp_path / "undisturbed", "hybrid", 42)


def test_a_run_that_was_interrupted_after_it_diverged_ends_as_it_would_have(
    again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--learning_rate", "1e6", "--arms", "constant", "--num_seeds", "1", "--targets", "0.05")
    again("compare", *TINY, *given, "--output_dir", str(tmp_path / "undisturbed"))

    def interrupted(*words: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution.ArmTrainer, "create_model_card", interrupted)  # the trial step calls no such
        saving = ("--save_strategy", "epoch", "--output_dir", str(tmp_path / "out"))
        assert main(("compare", *TINY, *given, *saving)) == 130
    again("compare", *TINY, *given, "--save_strategy", "epoch", "--output_dir", str(tmp_path / "out"))
    expected, found = (read_result(tmp_path / name, "constant", 42) for name in ("undisturbed", "out"))
    assert expected["status"] == "diverged"
    assert without_seconds(found) == without_seconds(expected)


# ---------------------------------------------------------------------------------------------------------- divergence


def test_a_run_that_diverges_is_recorded_and_the_rest_goes_on(
    again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exploding = Arm("exploding", "sgd", {"momentum": 0.9}, learning_rate=1e6, help="SGD, a learning rate of a million")
    monkeypatch.setitem(ARMS, "exploding", exploding)
    given = ("--arms", "exploding", "critmom", "--num_seeds", "1", "--targets", "0.05")
    printed, _ = again("compare", *TINY, *given, "--output_dir", str(tmp_path))
    diverged, whole = (read_result(tmp_path, arm, 42) for arm in ("exploding", "critmom"))
    assert diverged["status"] == "diverged" and diverged["steps"] < STEPS
    assert diverged["test"]["loss"] is None
    assert whole["status"] == "finished" and whole["steps"] == STEPS
    assert "1, 1 diverged" in printed
    assert "1, 1 diverged" in (tmp_path / "README.md").read_text()
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert set(table[table["arm"] == "exploding"]["status"]) == {"diverged"}
    _, repeated = again("compare", *TINY, *given, "--output_dir", str(tmp_path))
    assert repeated.runs == {}


def test_a_comparison_in_which_every_run_diverges_before_its_first_evaluation_has_a_report(
    again: Any, tmp_path: Path
) -> None:
    given = ("--arms", "constant", "--num_seeds", "1", "--targets", "0.9")
    given += ("--learning_rate", "1e6", "--weight_decay", "1e6")  # 1e12 times the weights in every step
    evaluations = ("--eval_strategy", "steps", "--eval_steps", "4")
    printed, _ = again("compare", *SMALL, *given, *evaluations, "--output_dir", str(tmp_path))
    result = read_result(tmp_path, "constant", 42)
    assert (result["status"], result["evaluations"]) == ("diverged", [])
    assert "not reached" in printed and "1, 1 diverged" in printed
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and "diverged" in card.text  # no test value stands for what was not learned
