"""Runs of a script that failed: kept in their folders with the last lines of their logs, and told in the report."""

from collections.abc import Sequence
from pathlib import Path

from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.storage.files import write_json
from hf_critmom.storage.redaction import redact
from hf_critmom.storage.run_folder import RESULT_FILE
from hf_critmom.storage.typed import RecordError, read_json

FAILURE_FILE = "failure.json"


def keep_lines(folder: Path, message: str, lines: Sequence[str]) -> None:
    """Keeps why a run failed, with the last lines of its log."""
    write_json(
        folder / FAILURE_FILE, {"message": redact(message, sentence=True), "lines": [redact(line) for line in lines]}
    )


def failures_in(folder: Path, plan: Plan) -> tuple[str, ...]:
    """What failed of a comparison, as sentences; runs that were made since are not among it.

    Args:
        folder: The comparison's folder.
        plan: Its plan.
    """
    said = []
    for run in (*plan.trials(), *plan.runs()):
        file = folder / run.folder / FAILURE_FILE
        if not file.exists() or (folder / run.folder / RESULT_FILE).exists():
            continue
        try:
            message = str(read_json(file).get("message", "")).rstrip(".")
        except (OSError, RecordError):
            message = "its record is damaged"
        said.append(f"The run {run.title} failed: {message}. The same command tries it again.")
    return tuple(said)
