"""Claims about the workers of a comparison: the same results for any number, and one progress display."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.launches import outcome

from hf_critmom.commands import main
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.experiments.comparison import runner
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.storage import threads, workers
from hf_critmom.tasks import image_task

TINY = (
    *("compare", "--width", "2", "--num_train_epochs", "1", "--max_train_samples", "64", "--max_eval_samples", "32"),
    *("--arms", "constant", "critmom", "--num_seeds", "2", "--use_cpu"),
)


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_results_are_bit_identical_for_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of several epochs: the augmentation's seed and epoch lie in memory that loader workers share with a run.

    And whether images come from a loader or from a device's memory, of which the CPU's is one here.
    """
    found = []
    for number in ("1", "2", "3"):
        assert main((*TINY, "--num_train_epochs", "6", "--workers", number, "--output_dir", number)) == 0
        shown = capfd.readouterr().err
        assert shown.count("s of training") == 4 and "done before" not in shown
        found.append(outcome(tmp_path / number))
    assert found[0] == found[1] == found[2]
    monkeypatch.setattr(image_task, "has_room", lambda splits, device: True)
    assert main((*TINY, "--num_train_epochs", "6", "--workers", "1", "--output_dir", "device")) == 0
    assert outcome(tmp_path / "device") == found[0]
    loads = [json.loads(file.read_text())["load"]["data"] for file in tmp_path.glob("*/runs/*/*/result.json")]
    assert (loads.count("device"), loads.count("loader")) == (4, 12)


@pytest.mark.slow
def test_finished_runs_are_not_repeated_by_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main((*TINY, "--workers", "2", "--output_dir", "c")) == 0
    results = {path: path.stat().st_mtime_ns for path in Path("c").glob("runs/*/*/result.json")}
    next(iter(results)).unlink()
    capfd.readouterr()
    assert main((*TINY, "--workers", "2", "--output_dir", "c")) == 0
    assert capfd.readouterr().err.count("done before") == 3
    changed = [path for path, time in results.items() if path.stat().st_mtime_ns != time]
    assert changed == [next(iter(results))]


def test_a_killed_worker_leaves_its_run_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main((*TINY, "--workers", "1", "--output_dir", "calm")) == 0
    command, execute = os.getpid(), execution.execute_run

    def dies_once(*args: Any) -> Any:
        if os.getpid() != command and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return execute(*args)

    monkeypatch.setattr(execution, "execute_run", dies_once)
    assert main((*TINY, "--workers", "2", "--output_dir", "killed")) == 0
    assert "A worker was killed (signal 9)" in capfd.readouterr().err
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")


@pytest.mark.parametrize("flag", ["--workers", "--threads_per_worker"])
def test_absurd_numbers_are_an_error(flag: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main((*TINY, flag, "0")) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_the_default_is_one_worker_per_usable_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 3)
    assert runner._settle_workers(parse_comparison(["--use_cpu"]), 1) == 3
    assert runner._settle_workers(parse_comparison(["--use_cpu", "--workers", "2"]), 1) == 2
    assert runner._settle_workers(parse_comparison(["--use_cpu"]), 2) == 1


def test_a_run_records_the_threads_that_it_computed_with(tmp_path: Path) -> None:
    assert main((*TINY, "--workers", "2", "--output_dir", "c")) == 0
    for file in Path("c").glob("runs/*/*/result.json"):
        assert "1 thread" in json.loads(file.read_text())["versions"]["hardware"] or os.cpu_count() == 1


@pytest.mark.slow
def test_threads_are_measured_where_steps_are_long_and_stay_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "MIN_STEP_SECONDS", 0.0)
    monkeypatch.setattr(threads, "MIN_SPEEDUP", 0.0)
    words = (*TINY[:-6], "--arms", "constant", "--num_seeds", "2", "--use_cpu", "--workers", "2", "--output_dir", "c")
    assert main(words) == 0
    assert json.loads(Path("c", "comparison.json").read_text())["threads"] == 2
    file, _ = sorted(Path("c").glob("runs/*/*/result.json"))
    assert json.loads(file.read_text())["threads"] == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    file.unlink()
    assert main(words) == 0  # what was measured is not measured again, nor is it another number where one run is left
    assert json.loads(file.read_text())["threads"] == 2
    assert torch.get_num_threads() == 1
