"""Checkpoint folders in a run's output folder: listing, renaming and removing them, without reading what they hold."""

import re
import shutil
from pathlib import Path

SET_ASIDE = "incomplete-"
"""Prefix of the folders of checkpoints that a run skipped."""
STEP = re.compile(r"checkpoint-(\d+)")
"""Folder name of a checkpoint; the group is its step."""


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in an output folder, complete or not, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def set_aside(skipped: list[Path]) -> None:
    """Renames checkpoints that a run skipped, so that the Trainer does not count them towards ``save_total_limit``.

    The Trainer could otherwise keep a damaged checkpoint and delete a good one in its place. Only the process that
    trains in the folder may call this.
    """
    for checkpoint in skipped:
        target = checkpoint.with_name(SET_ASIDE + checkpoint.name)
        if target.exists():
            shutil.rmtree(target)
        checkpoint.rename(target)


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints of a finished run, including those that it skipped."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    remove_set_aside(folder)


def has_set_aside(folder: Path) -> bool:
    """Whether a folder holds checkpoints that were renamed by `set_aside`."""
    return any(folder.glob(f"{SET_ASIDE}checkpoint-*"))


def remove_set_aside(folder: Path) -> None:
    """Removes the checkpoints that were renamed by `set_aside`."""
    for checkpoint in folder.glob(f"{SET_ASIDE}checkpoint-*"):
        shutil.rmtree(checkpoint)
