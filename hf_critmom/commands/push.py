"""``hf-critmom push``: push a comparison and one of its models to the Hub."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_critmom.commands.output import print_json
from hf_critmom.commands.parser import Parser

if TYPE_CHECKING:
    from hf_critmom.hub import Pushed, Upload

_REPO_TYPES = ("model", "dataset", "space")


def build_parser() -> Parser:
    """The flags of ``push``."""
    parser = Parser("push", "Push a comparison and one of its models to the Hub.")
    parser.add_argument("folder", type=Path, help="folder of the comparison; nothing is written to it")
    parser.add_argument("repo_id", help="repository to push to, NAMESPACE/NAME; it is created if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository private if it is created")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="only list what would be pushed")
    parser.add_argument(
        "--repo_type",
        "--repo-type",
        choices=_REPO_TYPES,
        default="model",
        help="type of repository; default: model",
    )
    parser.add_argument("--revision", help="branch to push to; default: main")
    parser.add_argument("--arm", help="push a model of this arm; default: the model with the best final validation")
    parser.add_argument("--seed", type=int, help="push a model of this seed; default: as for --arm")
    parser.add_argument("--dataset_id", help="Hub dataset of the test split, to publish the result in .eval_results")
    parser.add_argument("--task_id", default="default", help="task of that dataset; default: %(default)s")
    parser.add_argument("--message", "--commit_message", help="commit message; default: what was compared")
    parser.add_argument("--token", help="access token; default: HF_TOKEN, or the token of hf auth login")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(argv: list[str]) -> int:
    """Pushes a comparison, or lists what would be pushed."""
    args = vars(build_parser().parse_args(argv))

    from huggingface_hub.utils import disable_progress_bars, logging

    from hf_critmom.hub import Repository, push_comparison

    repository = Repository(args.pop("repo_id"), args.pop("repo_type"), args.pop("revision"))
    as_json = args.pop("json")
    if as_json or not sys.stderr.isatty():
        disable_progress_bars()
        logging.set_verbosity_error()  # an error is reported in one sentence
    upload, pushed = push_comparison(args.pop("folder"), repository, **args)
    if as_json:
        print_json(_result(upload, pushed))
    else:
        _print(upload, pushed)
    return 0


def _result(upload: "Upload", pushed: "Pushed | None") -> dict[str, Any]:
    """The result of a push or a dry run as JSON types."""
    return {
        "repo_id": upload.repository.repo_id,
        "repo_type": upload.repository.repo_type,
        "revision": upload.repository.revision,
        "url": upload.repository.url,
        "dry_run": pushed is None,
        "changed": None if pushed is None else pushed.changed,
        "commit_url": None if pushed is None else pushed.url,
        "message": upload.message,
        "files": [{"path": path, "bytes": size} for path, size in upload.sizes().items()],
        "notes": [*upload.notes, *(pushed.notes if pushed else ())],
    }


def _print(upload: "Upload", pushed: "Pushed | None") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False)
    sizes = upload.sizes()
    files = f"{len(sizes)} files, {sum(sizes.values()):,} bytes"
    if pushed is None:
        console.print(f"Would push {files} to {upload.repository}:")
        for path, size in sizes.items():
            console.print(f"{size:>13,}  {path}")
    for note in [*upload.notes, *(pushed.notes if pushed else ())]:
        console.print(note)
    if pushed is not None:
        console.print(
            f"Pushed: {files}." if pushed.changed else f"Nothing to push: {upload.repository} already has all {files}."
        )
        console.print(pushed.url)
