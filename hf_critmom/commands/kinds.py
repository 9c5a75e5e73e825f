"""The kinds of experiments that a folder can hold, and their reports."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_critmom.storage.files import explain_write_errors, remove_partial_files

if TYPE_CHECKING:
    from rich.console import RenderableType

MARKER_FILES = {"attribution": "attribution.json", "repair": "repair.json", "comparison": "comparison.json"}
"""The file that identifies a folder with an experiment of each kind."""


def find_kind(folder: Path) -> str | None:
    """The kind of experiment in a folder; None if there is none."""
    return next((kind for kind, name in MARKER_FILES.items() if (folder / name).exists()), None)


def results_as_json(folder: Path) -> dict[str, Any]:
    """The results of an experiment as JSON types; nothing in its folder changes."""
    kind = find_kind(folder)
    if kind == "attribution":
        from hf_critmom.experiments.diagnosis.summary import attribution_as_json

        return attribution_as_json(folder)
    if kind == "repair":
        from hf_critmom.experiments.repair.results import read_repair
        from hf_critmom.experiments.repair.summary import repair_as_json

        return repair_as_json(read_repair(folder))
    from hf_critmom.experiments.comparison.report import verdicts_as_json

    return verdicts_as_json(folder)


def write_report(folder: Path) -> "list[RenderableType]":
    """Writes the report of an experiment, and returns its tables for the terminal."""
    remove_partial_files(folder)
    kind = find_kind(folder)
    if kind == "attribution":
        from hf_critmom.experiments.diagnosis.errors import DiagnosisError
        from hf_critmom.experiments.diagnosis.report import write_attribution_report

        with explain_write_errors(folder, DiagnosisError, "finished studies are kept"):
            return write_attribution_report(folder)
    if kind == "repair":
        from hf_critmom.experiments.repair.errors import RepairError
        from hf_critmom.experiments.repair.report import write_repair_report
        from hf_critmom.experiments.repair.results import read_repair

        with explain_write_errors(folder, RepairError, "finished runs are kept"):
            return [write_repair_report(read_repair(folder))]
    from hf_critmom.experiments import comparison

    return [comparison.write_report(folder)]
