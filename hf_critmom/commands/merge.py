"""``hf-critmom merge``: join comparisons of the same conditions from several folders or machines."""

from pathlib import Path

from hf_critmom.commands.parser import Parser
from hf_critmom.commands.report import print_report


def build_parser() -> Parser:
    """The flags of ``merge``."""
    parser = Parser("merge", "Join comparisons of the same conditions from several folders or machines.")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="DIR",
        help="folder of a comparison, or repository with one: hf://datasets/OWNER/NAME, with @REVISION for a branch; "
        "the first one determines the baseline and the order of the arms",
    )
    parser.add_argument(
        "--output_dir",
        "--output-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the joined comparison; if it already holds one, the others are added to it",
    )
    parser.add_argument(
        "--token", help="token for private repositories; default: HF_TOKEN, or the token of hf auth login"
    )
    return parser


def main(argv: list[str]) -> int:
    """Joins comparisons, and prints the joint report."""
    import tempfile

    from rich.console import Console

    from hf_critmom.experiments.comparison.merging import Source, merge_comparisons
    from hf_critmom.hub.pulling import is_repository, pull_comparison
    from hf_critmom.reporting.text import printable

    args = build_parser().parse_args(argv)
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
