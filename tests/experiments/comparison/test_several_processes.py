"""Claims about comparisons by several processes: the numbers of one, and each thing said and written once."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from helpers import distributed_comparisons as programs
from helpers.watched_comparisons import STEPS, TINY, read_result
from safetensors.torch import load_file

from hf_critmom.commands import main

pytestmark = pytest.mark.slow  # several processes under two launchers

CONFIGURATIONS = Path(__file__).parents[3] / "scripts" / "accelerate"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
any_comparison = pytest.mark.parametrize("name", programs.COMPARISONS)
any_run = pytest.mark.parametrize("run", ["text/runs/critmom", "vit/runs/critmom", "vit/runs/critmom_adamw"])


@dataclass
class Shared:
    """What two processes left behind and said."""

    folder: Path
    out: str
    err: str
    written: list[list[str]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    folder = tmp_path_factory.mktemp("processes") / "two"
    other_pilot = folder / "pilot" / ".pilot" / "comparison.json"  # what an earlier command left behind
    other_pilot.parent.mkdir(parents=True)
    other_pilot.write_text("{}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, *TORCHRUN, programs.__file__, str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    written = [json.loads(Path(f"{folder}-{rank}.json").read_text()) for rank in (0, 1)]
    return Shared(folder, done.stdout, done.stderr, written)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "one"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="clamped to 0"):
        patch.setattr(sys, "stdout", sys.__stderr__)
        for name in programs.COMPARISONS:
            assert main(programs.words_of(name, folder, 1)) == 0
    return folder


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number in a result by its place, but those that a clock measured."""
    if isinstance(value, dict):
        timed = ("second", "load", "wall", "versions")
        parts = {f"{path}.{key}": item for key, item in value.items() if not any(word in key for word in timed)}
    elif isinstance(value, list):
        parts = {f"{path}.{index}": item for index, item in enumerate(value)}
    else:
        return {path: value} if isinstance(value, (int, float)) else {}
    return {place: number for key, item in parts.items() for place, number in numbers(item, key).items()}


@pytest.mark.parametrize("file", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_configurations_and_each_says_what_was_tried(file: Path) -> None:
    found = load_config_from_file(str(file))
    assert (found.distributed_type == "FSDP") == (file.stem == "fsdp")
    assert found.mixed_precision == "no"  # precision is a flag of the command, and recorded
    words = file.read_text()
    assert "# Tried: " in words and "Not tried: " in words


@any_run
def test_two_processes_give_the_numbers_of_one(shared: Shared, alone: Path, run: str) -> None:
    found, expected = (
        numbers(json.loads((folder / run / "seed-42" / "result.json").read_text())) for folder in (shared.folder, alone)
    )
    assert len(expected) > 20 and any("test" in place for place in expected)
    if run.startswith("vit"):  # the last batch of its evaluations is filled up, which the Trainer's loss does not undo
        for place in [place for place in expected if place.endswith(".loss") and "training_log" not in place]:
            assert found.pop(place) == pytest.approx(expected.pop(place), rel=0.05)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@any_run
def test_two_processes_train_the_weights_of_one(shared: Shared, alone: Path, run: str) -> None:
    found, expected = (load_file(folder / run / "seed-42" / "model.safetensors") for folder in (shared.folder, alone))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # A bias of keys changes no attention: its gradient is rounding, which Adam makes as large as any other.
        if not (key.endswith("key.bias") and "adamw" in run):
            torch.testing.assert_close(found[key], value, rtol=0.0, atol=1e-6)


@any_comparison
def test_the_plans_differ_in_nothing(shared: Shared, alone: Path, name: str) -> None:
    found, expected = (json.loads((folder / name / "comparison.json").read_text()) for folder in (shared.folder, alone))
    for plan in (found, expected):
        for per_process in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            plan["training"].pop(per_process, None)
    for part in ("task", "model", "arms", "seeds", "targets", "training"):
        assert found[part] == expected[part]


def test_each_file_is_written_by_one_process(shared: Shared) -> None:
    main_process, other = (set(files) for files in shared.written)
    assert any(file.endswith("results.parquet") or "result" in file for file in main_process)
    assert not main_process & other
    assert not (shared.folder / "refused").exists()
    for name in programs.COMPARISONS:
        assert {path.name for path in (shared.folder / name).iterdir()} == {
            *("comparison.json", "results.parquet", "README.md", "report.html", "figures", "runs", ".locks")
        }


def test_everything_is_said_once(shared: Shared) -> None:
    assert shared.out.count("Report:") == len(programs.COMPARISONS)
    for line in ("critmom, seed 42: epoch 0.75, validation bits per byte", "critmom, seed 42: test bits per byte"):
        assert shared.err.count(line) == 1
    assert shared.err.count("2 processes cannot share batches of 7 equally") == 1
    assert shared.err.count("momentum is clamped to 0, which is plain SGD") == 1


def test_two_processes_make_one_comparison(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_critmom", "compare"]
    given = [*TINY, "--per_device_train_batch_size", "32", "--arms", "critmom", "--num_seeds", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words, *given, "--output_dir", str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report:") == 1
    result = read_result(tmp_path / "out", "critmom", 42)
    assert (result["status"], result["steps"]) == ("finished", STEPS)
    plan = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert plan["training"]["total_train_batch_size"] == 64
