"""``hf-critmom report``: rebuild the report of a comparison from its results."""

from pathlib import Path

from hf_critmom.commands.parser import Parser


def main(argv: list[str]) -> int:
    """Rebuilds the report of a comparison and prints it."""
    parser = Parser("report", "Rebuild the report of a comparison.")
    parser.add_argument("folder", type=Path, help="folder of the comparison")
    print_report(parser.parse_args(argv).folder)
    return 0


def print_report(folder: Path) -> None:
    """Builds the report of a comparison and prints its tables."""
    from rich.console import Console

    from hf_critmom.experiments.comparison import write_report

    console = Console()
    console.print(write_report(folder))
    console.print(f"Report: {folder / 'README.md'}", highlight=False, soft_wrap=True)
