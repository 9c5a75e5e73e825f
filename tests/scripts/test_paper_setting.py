"""Claims about ``scripts/paper_setting.py``: pieces run once, in order, within the time of a call."""

import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from helpers.script_modules import load_script

from hf_critmom.commands.compare import parse_comparison
from hf_critmom.experiments.comparison.arguments import ComparisonRequest
from hf_critmom.experiments.comparison.plan import Plan

setting: Any = load_script("paper_setting")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--minutes", "1"], "--minutes 1 leaves no time to measure: give at least 2."),
        (["--minutes", "nan"], "--minutes nan leaves no time to measure"),
        (["--workers", "0"], "--workers must be at least 1, got 0."),
        (["--pieces", "speed"], "invalid choice: 'speed' (choose from"),
        pytest.param(
            [],
            "torch finds no CUDA device: run this on a machine with a GPU, or try it with --rehearse.",
            marks=pytest.mark.skipif(setting.torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_invalid_input_is_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        setting.main(["--output_dir", str(tmp_path / "out"), *flags])
    assert refusal.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_comparison_is_that_of_the_paper(tmp_path: Path) -> None:
    piece = setting.pieces("digits", 6, str(tmp_path), setting.parse_flags("--num_seeds 3 --arms constant critmom"))
    request = parse_comparison([*piece["comparison"].command(False)[4:], "--use_cpu"])
    assert isinstance(request, ComparisonRequest)
    training = request.training
    assert request.model.width == 64 and training.bf16 and training.per_device_train_batch_size == 128
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (0.1, 5e-4, 100)
    assert training.lr_scheduler_type == "cosine" and request.comparison.targets == [0.9, 0.94, 0.95]
    assert request.engine.workers == 6
    assert request.comparison.num_seeds == 3 and request.comparison.arms == ["constant", "critmom"]  # as given


def test_a_program_that_exceeds_its_time_is_stopped_and_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = "import time; print('begun', flush=True); time.sleep(60)"
    assert setting.run_piece("steps", [sys.executable, "-c", slow], tmp_path, 2.0) == setting.TIME_IS_UP
    assert "begun" in (tmp_path / "steps.unfinished").read_text() and not (tmp_path / "steps.txt").exists()
    assert "steps: stopped after" in capsys.readouterr().out
    rate = "print('      bare loop: median    10000 images/s (8000 to 12000)')"
    assert setting.run_piece("steps", [sys.executable, "-c", rate], tmp_path, 60.0) == 0
    assert "10000 images/s" in (tmp_path / "steps.txt").read_text() and not (tmp_path / "steps.unfinished").exists()
    assert "50,000 images: bare loop 5.0 s" in capsys.readouterr().out


def test_a_failed_program_does_not_count_as_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert setting.run_piece("reads", [sys.executable, "-c", "raise SystemExit('no such device')"], tmp_path, 60.0) == 1
    assert not (tmp_path / "reads.txt").exists()
    said = capsys.readouterr().out
    assert "reads: failed after" in said and "no such device" in said


@pytest.mark.slow
def test_a_rehearsal_continues_where_its_time_was_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rehearse", "--output_dir", str(tmp_path), "--pieces", "steps", "comparison", "--workers", "1"]
    longer = ["--", "--num_train_epochs", "40"]
    assert setting.main([*flags, "--minutes", "2", *longer]) == setting.TIME_IS_UP
    assert "Left: comparison. Repeat the command." in capsys.readouterr().out
    results = {file: file.stat().st_mtime for file in tmp_path.glob("comparison/runs/*/*/result.json")}
    assert results and list(tmp_path.glob("comparison/runs/*/*/checkpoint-*"))
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        names = archive.getnames()
    assert "steps.txt" in names and "comparison/README.md" in names
    assert sum(name.endswith("result.json") for name in names) == len(results)
    assert setting.main([*flags, "--minutes", "20", *longer]) == 0
    assert capsys.readouterr().out.rstrip().endswith("Nothing is left.")
    assert {file: file.stat().st_mtime for file in results} == results
    plan = Plan.read(tmp_path / "comparison")
    assert all((tmp_path / "comparison" / run.folder / "result.json").exists() for run in plan.runs())
