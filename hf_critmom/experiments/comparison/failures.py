"""Failed runs of a script: each leaves its message and the last lines of its log, and the report mentions it."""

from collections.abc import Sequence
from pathlib import Path

from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.storage.files import write_json
from hf_critmom.storage.redaction import redact
from hf_critmom.storage.run_folder import RESULT_FILE
from hf_critmom.storage.typed import RecordError, read_json

FAILURE_FILE = "failure.json"


def write_failure(folder: Path, message: str, lines: Sequence[str]) -> None:
    """Writes why a run failed, and the last lines of its log, to the run's folder."""
    write_json(
        folder / FAILURE_FILE, {"message": redact(message, sentence=True), "lines": [redact(line) for line in lines]}
    )


def failure_messages(folder: Path, plan: Plan) -> tuple[str, ...]:
    """A sentence for each run of a comparison that failed and has not succeeded since.

    Args:
        folder: The comparison's folder.
        plan: The comparison's plan.
    """
    messages = []
    for run in (*plan.trials(), *plan.runs()):
        file = folder / run.folder / FAILURE_FILE
        if not file.exists() or (folder / run.folder / RESULT_FILE).exists():
            continue
        try:
            message = str(read_json(file).get("message", "")).rstrip(".")
        except (OSError, RecordError):
            message = f"its {FAILURE_FILE} is damaged"
        messages.append(f"The run {run.title} failed: {message}. The same command tries it again.")
    return tuple(messages)
