"""Claims about the flags of the programs in ``scripts/``: an invalid one ends a program with one sentence."""

import sys

import pytest
from helpers.script_modules import load_script


@pytest.mark.parametrize(
    ("program", "args", "sentence"),
    [
        ("simulate_verdicts", ("--nope", "1"), "unknown arguments --nope 1"),
        ("simulate_verdicts", ("--comparisons", "0"), "--comparisons must be positive, got 0."),
        ("simulate_verdicts", ("--seed", "-1"), "--seed must be at least 0, got -1."),
        ("benchmark_optimizers", ("--shapes", "gpt7"), "--shapes: expected names among resnet18, gpt2, got 'gpt7'."),
        ("benchmark_optimizers", ("--threads", "-1"), "--threads must be positive, got -1."),
        ("benchmark_trainer", ("--lr", "nan"), "--lr must be positive, got nan."),
        ("benchmark_attribution", ("--memory_examples", "9", "0"), "--memory_examples must be positive, got 0."),
        ("check_doubtful_labels", ("--flipped", "1"), "--flipped must be between 0 and 1, got 1.0."),
        ("benchmark_startup", ("--rounds", "none"), "expected a positive integer, got 'none'"),
        ("benchmark_workers", ("--workers", "2", "0"), "expected a positive integer, got '0'"),
        ("benchmark_ray", ("--runs", "1"), "--runs at least 2"),
        ("benchmark_script", ("--width", "6"), "--width a multiple of 4"),
    ],
)
def test_an_invalid_flag_is_one_sentence(
    program: str,
    args: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script(program)
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *args])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert line.startswith(f"{program}.py: error: ") and sentence in line


@pytest.mark.parametrize("program", ["benchmark_trainer", "benchmark_attribution", "check_doubtful_labels"])
def test_a_task_without_images_is_one_sentence(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script(program)
    monkeypatch.setattr(sys, "argv", [f"{program}.py", "--task", "text"])
    with pytest.raises(SystemExit) as ended, script.one_sentence():
        script.main()
    assert ended.value.code == f"{program}.py: error: text is not an image task: name one with --task."
