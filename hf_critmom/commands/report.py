"""``hf-critmom report``: rebuild the report of a comparison, an attribution or a repair from its results."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_critmom.commands.parser import Parser

if TYPE_CHECKING:
    from rich.console import RenderableType


def parser() -> Parser:
    """The flags of ``report``."""
    found = Parser("report", "Rebuild the report of a comparison, an attribution or a repair.")
    found.add_argument("folder", type=Path, help="folder of the experiment")
    found.add_argument("--json", action="store_true", help="print what was found as JSON, for programs")
    return found


def main(argv: list[str]) -> int:
    """Rebuilds the report of an experiment and prints it."""
    args = parser().parse_args(argv)
    if args.json:
        print(json.dumps(as_json(args.folder), indent=2))
    else:
        print_report(args.folder)
    return 0


def print_report(folder: Path) -> None:
    """Builds the report of an experiment and prints its tables."""
    from rich.console import Console

    console = Console()
    for shown in _write(folder):
        console.print(shown, highlight=False)
    console.print(f"Report: {folder / 'README.md'}", highlight=False, markup=False, soft_wrap=True)


def as_json(folder: Path) -> dict[str, Any]:
    """What an experiment found, for programs; nothing in its folder changes."""
    if (folder / "attribution.json").exists():
        from hf_critmom.experiments.diagnosis.summary import attribution_as_json

        return attribution_as_json(folder)
    if (folder / "repair.json").exists():
        from hf_critmom.experiments.repair.results import read_repair
        from hf_critmom.experiments.repair.summary import repair_as_json

        return repair_as_json(read_repair(folder))
    from hf_critmom.experiments.comparison.report import verdicts_as_json

    return verdicts_as_json(folder)


def _write(folder: Path) -> "list[RenderableType]":
    if (folder / "attribution.json").exists():
        from hf_critmom.experiments.diagnosis.report import write_attribution_report

        return write_attribution_report(folder)
    if (folder / "repair.json").exists():
        from hf_critmom.experiments.repair.report import write_repair_report
        from hf_critmom.experiments.repair.results import read_repair

        return [write_repair_report(read_repair(folder))]
    from hf_critmom.experiments.comparison import write_report

    return [write_report(folder)]
