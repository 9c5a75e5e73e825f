"""``hf-critmom report``: rebuild the report of a comparison, an attribution or a repair from its results."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_critmom.commands.kinds import find_kind, results_as_json, write_report
from hf_critmom.commands.output import print_json
from hf_critmom.commands.parser import Parser
from hf_critmom.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType


def build_parser() -> Parser:
    """The flags of ``report``."""
    parser = Parser(
        "report", "Rebuild the report of a comparison, attribution or repair, or a page of several comparisons."
    )
    parser.add_argument("folder", type=Path, nargs="+", help="folder of the experiment, or of each comparison")
    parser.add_argument("--output_dir", type=Path, help="folder for the page of several comparisons; default: overview")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and write nothing")
    return parser


def main(argv: list[str]) -> int:
    """Rebuilds and prints the report of an experiment, or of several comparisons on one page."""
    args = build_parser().parse_args(argv)
    if len(args.folder) > 1:
        return _overview(args.folder, args.output_dir or Path("overview"), as_json=args.json)
    if args.output_dir is not None:
        raise InputError("--output_dir is for the page of several comparisons: leave it out, or name several folders.")
    (folder,) = args.folder
    if args.json:
        print_json(results_as_json(folder))
    else:
        print_report(folder)
    return 0


def _overview(folders: list[Path], output: Path, *, as_json: bool) -> int:
    from hf_critmom.experiments.comparison.rendering.overview import overview_as_json, read_overview

    overview = read_overview(folders)
    if as_json:
        print_json(overview_as_json(overview))
        return 0
    if kind := find_kind(output):
        raise InputError(f"{output} holds a {kind}, whose page this would replace: choose another --output_dir.")
    from hf_critmom.experiments.comparison.rendering.overview_page import write_overview

    _print(write_overview(overview, output), output / "report.html")
    return 0


def print_report(folder: Path) -> None:
    """Writes the report of an experiment, and prints its tables."""
    _print(write_report(folder), folder / "README.md")


def _print(tables: "list[RenderableType]", file: Path) -> None:
    from rich.console import Console

    from hf_critmom.reporting.text import printable

    console = Console()
    for shown in tables:
        console.print(shown, highlight=False)
    console.print(printable(f"Report: {file}"), highlight=False, markup=False, soft_wrap=True)
