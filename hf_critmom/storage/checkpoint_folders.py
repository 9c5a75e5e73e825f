"""Folders of checkpoints in a run's folder: which there are, and removing them; what they hold is not looked at."""

import re
import shutil
from pathlib import Path

SET_ASIDE = "incomplete-"
"""Prefix of checkpoints that a run has skipped."""
STEP = re.compile(r"checkpoint-(\d+)")
"""Name of a checkpoint, with its step."""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of an output folder, complete or not, the oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def set_aside(skipped: list[Path]) -> None:
    """Renames checkpoints that a run has skipped, so that the Trainer does not count them among its own.

    It keeps the newest of its checkpoints, and would keep a damaged one rather than those that follow. Only the
    process that trains in the folder may call this.
    """
    for checkpoint in skipped:
        target = checkpoint.with_name(SET_ASIDE + checkpoint.name)
        if target.exists():
            shutil.rmtree(target)
        checkpoint.rename(target)


def remove_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a run that is finished, those that it skipped among them."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    remove_set_aside(folder)


def has_set_aside(folder: Path) -> bool:
    """Whether a folder holds checkpoints that a run has skipped: see `set_aside`."""
    return any(folder.glob(f"{SET_ASIDE}checkpoint-*"))


def remove_set_aside(folder: Path) -> None:
    """Removes them."""
    for checkpoint in folder.glob(f"{SET_ASIDE}checkpoint-*"):
        shutil.rmtree(checkpoint)
