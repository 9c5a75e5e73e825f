"""The report of an examination: a table for the terminal, and JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from hf_critmom.experiments.doctor.finding import Finding, State
from hf_critmom.experiments.doctor.log import TrainingLog
from hf_critmom.reporting.text import console_text
from hf_critmom.storage.files import replace_non_finite

COLORS: dict[State, str] = {"fine": "green", "note": "cyan", "warning": "yellow", "cannot tell": "bright_black"}


def findings_table(log: TrainingLog, findings: Sequence[Finding]) -> Table:
    """The findings for the terminal, one row each."""
    table = Table(title=console_text(log.folder), show_lines=True)
    table.add_column("about", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for one in findings:
        color = COLORS[one.state]
        table.add_row(console_text(one.topic), f"[{color}]{one.state}[/]", console_text(one.sentence))
    return table


def findings_as_json(log: TrainingLog, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for programs; numbers that are not finite are null."""
    return replace_non_finite({"run": str(log.folder), "findings": [asdict(one) for one in findings]})
