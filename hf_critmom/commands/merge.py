"""``hf-critmom merge``: join comparisons of the same conditions that were made in several folders."""

from pathlib import Path

from hf_critmom.commands.parser import Parser
from hf_critmom.commands.report import print_report


def parser() -> Parser:
    """The flags of ``merge``."""
    found = Parser("merge", "Join comparisons of the same conditions, such as the shares of several machines.")
    found.add_argument(
        "sources",
        nargs="+",
        metavar="DIR",
        help="folder of a comparison, or repository that holds one: hf://datasets/OWNER/NAME, with @REVISION for a "
        "branch; the first decides about the baseline and the order of the arms",
    )
    found.add_argument(
        "--output_dir",
        "--output-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the joined comparison; one that it holds already is added to",
    )
    found.add_argument("--token", help="access token for private repositories; default: HF_TOKEN, or the stored one")
    return found


def main(argv: list[str]) -> int:
    """Joins comparisons, and prints the report of all of them together."""
    import tempfile

    from rich.console import Console

    from hf_critmom.experiments.comparison.merging import Source, merge_comparisons
    from hf_critmom.hub.pulling import is_repository, pull_comparison
    from hf_critmom.reporting.text import printable

    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="hf-critmom-") as pulled:
        sources = [
            Source(name, pull_comparison(name, Path(pulled, str(number)), token=args.token), is_pulled=True)
            if is_repository(name)
            else Source(name, Path(name))
            for number, name in enumerate(args.sources)
        ]
        notes = merge_comparisons(sources, args.output_dir)
    console = Console(stderr=True, highlight=False, markup=False)
    for note in notes:
        console.print(printable(note), soft_wrap=True)
    print_report(args.output_dir)
    return 0
