"""The command line: ``hf-critmom`` and ``python -m hf_critmom``, one small function per subcommand."""

import os
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import datasets
from huggingface_hub.utils import disable_progress_bars
from rich.console import Console
from transformers import HfArgumentParser
from transformers.utils import logging

from hf_critmom.comparison import (
    Comparison,
    ComparisonArguments,
    ComparisonTrainingArguments,
    run_comparison,
    write_report,
)
from hf_critmom.errors import InputError, reason
from hf_critmom.hub import REPO_TYPES, Pushed, Repository, Upload, push_comparison
from hf_critmom.tasks import DataArguments, ModelArguments, flag_defaults, task_name

PROGRAM = "hf-critmom"


class _Parser(HfArgumentParser):
    """A parser that answers words it cannot use with one sentence rather than with the usage of every flag."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: see {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        arguments: The words behind the program's name; default: those of this process.

    Returns:
        The exit status: 0, or 2 for input that cannot be used, with one sentence on standard error.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        print(f"{PROGRAM}: error: unknown command {command!r}: choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](rest)
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes on a machine one says it
            print(f"{PROGRAM} {command}: error: {error}", file=sys.stderr)
        return 2


def run(words: list[str]) -> int:
    """run SCRIPT [ARGS...], run -m MODULE [ARGS...]: run an unmodified training script with the optimizers registered

    The script sees the arguments, name and import path that it would see under plain ``python``.
    """
    if words[:1] == ["-m"] and len(words) > 1:
        sys.argv = words[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words and not words[0].startswith("-"):
        script = Path(words[0])
        if not script.exists():
            raise InputError(f"There is no script {script}: expected the path of a Python training script.")
        sys.argv = words
        sys.path[0] = str(script.resolve().parent)
        runpy.run_path(str(script.absolute()), run_name="__main__")
    else:
        print(f"usage: {PROGRAM} run SCRIPT [ARGS...] | {PROGRAM} run -m MODULE [ARGS...]", file=sys.stderr)
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    return 0


def compare(words: list[str]) -> int:
    """compare [--task NAME_OR_DATASET] [--arms ...] [...]: compare methods on a task, or continue a comparison"""
    asked = parse_comparison(words)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is in the error that it raises
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    folder = run_comparison(asked)
    if asked.training.process_index == 0:
        _print_report(folder)
    return 0


def report(words: list[str]) -> int:
    """report DIR: rebuild the report of a comparison from its results"""
    parser = _Parser(prog=f"{PROGRAM} report", description="Rebuild the report of a comparison.")
    parser.add_argument("folder", type=Path, help="folder of the comparison")
    _print_report(parser.parse_args(words).folder)
    return 0


def push(words: list[str]) -> int:
    """push DIR REPO_ID [--private] [--dry_run] [...]: bring a comparison and one of its models to the Hub"""
    parser = _Parser(prog=f"{PROGRAM} push", description="Bring a comparison to the Hub.", allow_abbrev=False)
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
    asked = vars(parser.parse_args(words))
    repository = Repository(asked.pop("repo_id"), asked.pop("repo_type"), asked.pop("revision"))
    if not sys.stderr.isatty():
        disable_progress_bars()
    upload, pushed = push_comparison(asked.pop("folder"), repository, **asked)
    _print_push(upload, pushed)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"run": run, "compare": compare, "report": report, "push": push}


def parse_comparison(words: list[str]) -> Comparison:
    """Turns the flags of ``compare`` into arguments; what no flag says comes from the task's own defaults.

    Raises:
        InputError: If a flag's value cannot be used.
    """
    dataclass_types = (ComparisonArguments, DataArguments, ModelArguments, ComparisonTrainingArguments)
    # Abbreviated flags would slip past the first, partial parse that finds the task.
    parser = _Parser(dataclass_types, prog=f"{PROGRAM} compare", allow_abbrev=False)
    chooser = _Parser((DataArguments, ModelArguments), prog=f"{PROGRAM} compare", add_help=False, allow_abbrev=False)
    told = [word for word in words if word not in ("-h", "--help")]
    data, model, _ = chooser.parse_args_into_dataclasses(told, return_remaining_strings=True)
    parser.set_defaults(output_dir=f"comparison-{task_name(data)}", **flag_defaults(data, model))
    try:
        comparison, data, model, training, unknown = parser.parse_args_into_dataclasses(
            words, return_remaining_strings=True
        )
    except InputError:
        raise
    except ValueError as error:  # TrainingArguments' own checks
        parser.error(reason(error))
    if unknown:
        parser.error(f"unknown arguments {shlex.join(unknown)}")
    return Comparison(comparison, data, model, training, command=shlex.join([PROGRAM, "compare", *words]))


def _print_report(folder: Path) -> None:
    console = Console()
    console.print(write_report(folder))
    console.print(f"Report: {folder / 'README.md'}", highlight=False, soft_wrap=True)


def _print_push(upload: Upload, pushed: Pushed | None) -> None:
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


def _usage() -> str:
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Critically damped momentum for Hugging Face Transformers.", ""]
    lines += [f"  {PROGRAM} {(command.__doc__ or '').splitlines()[0]}" for command in COMMANDS.values()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help tells more."])
