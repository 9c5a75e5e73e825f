"""Commands that must fail: what a person would see of them."""

import re
from collections.abc import Callable
from pathlib import Path

from hf_critmom.commands import main

TINY = (
    *("--width", "2", "--num_train_epochs", "1", "--max_train_samples", "32", "--max_eval_samples", "16"),
    *("--use_cpu", "--workers", "1"),
)

Refused = Callable[..., str]


def files_below(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "datasets-cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def status_of(words: tuple[str, ...]) -> int:
    """The exit status that a shell would see."""
    try:
        return main(words)
    except SystemExit as leave:
        assert leave.code is None or isinstance(leave.code, int), leave.code
        return leave.code or 0


def the_sentence(stderr: str) -> str:
    """What stands on standard error, if it is one sentence."""
    assert "Traceback" not in stderr
    lines = [line for line in re.split(r"[\n\r]", stderr) if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].endswith("."), stderr
    return lines[0]
