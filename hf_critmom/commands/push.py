"""``hf-critmom push``: bring a comparison and one of its models to the Hub."""

import sys
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars
from rich.console import Console

from hf_critmom.commands.parser import Parser
from hf_critmom.hub import REPO_TYPES, Pushed, Repository, Upload, push_comparison


def main(argv: list[str]) -> int:
    """Pushes a comparison, or lists what would be pushed."""
    parser = Parser("push", "Bring a comparison to the Hub.")
    parser.add_argument("folder", type=Path, help="folder of the comparison; it is only read")
    parser.add_argument("repo_id", help="repository to push to, NAMESPACE/NAME; it is created if need be")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="only list what would be pushed")
    parser.add_argument("--repo_type", "--repo-type", choices=REPO_TYPES, default="model", help="kind of repository")
    parser.add_argument("--revision", help="branch to push to; default: the main one")
    parser.add_argument("--arm", help="push this arm's model; default: the best by final validation")
    parser.add_argument("--seed", type=int, help="push this seed's model; default: the best by final validation")
    parser.add_argument("--dataset_id", help="data set of the Hub that the test result is on, for .eval_results")
    parser.add_argument("--task_id", default="default", help="its task there")
    parser.add_argument("--message", "--commit_message", help="summary of the commit")
    parser.add_argument("--token", help="access token; default: HF_TOKEN, or what hf auth login has stored")
    args = vars(parser.parse_args(argv))
    repository = Repository(args.pop("repo_id"), args.pop("repo_type"), args.pop("revision"))
    if not sys.stderr.isatty():
        disable_progress_bars()
    upload, pushed = push_comparison(args.pop("folder"), repository, **args)
    _print(upload, pushed)
    return 0


def _print(upload: Upload, pushed: Pushed | None) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    sizes = upload.sizes()
    files = f"{len(sizes)} files, {sum(sizes.values()):,} bytes"
    if pushed is None:
        console.print(f"Would push {files}, to {upload.repository}:")
        for path, size in sizes.items():
            console.print(f"{size:>13,}  {path}")
    for note in [*upload.notes, *(pushed.notes if pushed else ())]:
        console.print(note)
    if pushed is not None:
        console.print(f"Pushed: {files}." if pushed.changed else f"Nothing new: {upload.repository} has all {files}.")
        console.print(pushed.url)
