"""Attributions over the course of a training run, as `AttributionCallback` keeps them in the output folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.storage.files import write_json

HISTORY_FILE = "attribution_history.json"


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """The entries of an output folder, each an `Attribution` as JSON with step, epoch and prefix of its evaluation.

    Raises:
        AttributionError: If the file is corrupt.
    """
    file = Path(folder) / HISTORY_FILE
    if not file.exists():
        return []
    try:
        history = json.loads(file.read_text(encoding="utf-8"))["history"]
        return [entry for entry in history if isinstance(entry["step"], int)]
    except (KeyError, TypeError, ValueError):
        raise AttributionError(f"{file} is corrupt: remove it, or continue in another output folder.") from None


def write_history(folder: str | Path, history: Sequence[dict[str, Any]]) -> None:
    """Writes the entries of an output folder, whole or not at all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / HISTORY_FILE, {"history": list(history)})
