"""The attributions that `AttributionCallback` keeps in the output folder during a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.results import Attribution
from hf_critmom.errors import root_message
from hf_critmom.storage.files import write_json
from hf_critmom.storage.typed import RecordError, from_json, read_json

HISTORY_FILE = "attribution_history.json"


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """The entries in an output folder: `Attribution`s as JSON, with step, epoch and prefix of the evaluation.

    Raises:
        AttributionError: If the file is damaged.
    """
    file = Path(folder) / HISTORY_FILE
    if not file.exists():
        return []
    try:
        history = read_json(file).get("history")
        if not isinstance(history, list):
            raise RecordError("it has no history")
        for entry in history:
            read_entry(entry)
        return history
    except (OSError, RecordError) as error:
        raise AttributionError(
            f"{file} is corrupt ({root_message(error)}): remove it, or continue in another output folder."
        ) from None


def read_entry(entry: Any) -> tuple[float, Attribution]:
    """The epoch and the attribution of an entry.

    Raises:
        RecordError: If the entry is not valid.
    """
    if not isinstance(entry, dict):
        raise RecordError(f"an entry is {str(entry)[:40]!r} instead of an object")
    place = from_json(_Place, {name: entry[name] for name in ("step", "epoch", "prefix") if name in entry})
    rest = {name: value for name, value in entry.items() if name not in ("step", "epoch", "prefix")}
    return place.epoch or 0.0, from_json(Attribution, rest, f"the entry of step {place.step}")


@dataclass(frozen=True)
class _Place:
    step: int
    epoch: float | None
    prefix: str


def write_history(folder: str | Path, history: Sequence[dict[str, Any]]) -> None:
    """Writes the entries to an output folder, completely or not at all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / HISTORY_FILE, {"history": list(history)})
