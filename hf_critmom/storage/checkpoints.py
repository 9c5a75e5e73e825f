"""Checkpoints of unfinished runs."""

import json
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a run that was written to its end; half-written ones are removed.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint that has a readable one is whole.
    """
    while folder.is_dir() and (checkpoint := get_last_checkpoint(str(folder))) is not None:
        try:
            json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            return checkpoint
        except (FileNotFoundError, json.JSONDecodeError):
            shutil.rmtree(checkpoint)
    return None


def remove_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a run."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
