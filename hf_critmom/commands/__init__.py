"""The command line: ``hf-critmom``, ``python -m hf_critmom`` and ``hf critmom``, with a module per subcommand.

This module imports nothing heavy: help, version and errors of the command line answer without importing torch.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_critmom.errors import InputError

PROGRAM = "hf-critmom"


@dataclass(frozen=True)
class Command:
    """A subcommand, imported when it is called.

    Attributes:
        usage: Its arguments, for the overview.
        help: What it does, in a line.
        module: Module in this package, with a function ``main(argv) -> int``.
    """

    usage: str
    help: str
    module: str

    def main(self) -> Callable[[list[str]], int]:
        """The function that runs the subcommand."""
        return importlib.import_module(f"hf_critmom.commands.{self.module}").main


COMMANDS: dict[str, Command] = {
    "run": Command(
        "SCRIPT [ARGS...] | -m MODULE [ARGS...]",
        "run an unmodified training script with the optimizers registered",
        "run",
    ),
    "compare": Command(
        "[--task NAME_OR_DATASET] [--arms ...] [...]", "compare methods on a task, or continue a comparison", "compare"
    ),
    "report": Command("DIR", "rebuild the report of a comparison from its results", "report"),
    "attribute": Command(
        "CHECKPOINT [CHECKPOINT ...] [--task ...] [...]",
        "find the layers that the remaining mistakes lie in",
        "attribute",
    ),
    "repair": Command(
        "CHECKPOINT [--task ...] [--groups auto|NAMES] [--controls]",
        "retrain the layers to blame, and verify",
        "repair",
    ),
    "drift": Command(
        "DIR [--corruptions ...] [--max_eval_samples N]", "test a comparison's networks on corrupted images", "drift"
    ),
    "push": Command(
        "DIR REPO_ID [--private] [--dry_run] [...]", "bring a comparison and one of its models to the Hub", "push"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: Command-line arguments; ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 0, or 2 for input that cannot be used, with one sentence on standard error.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        print(f"{PROGRAM}: error: unknown command {name!r}: choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return COMMANDS[name].main()(rest)
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes on a machine, one says it
            print(f"{PROGRAM} {name}: error: {error}", file=sys.stderr)
        return 2


def usage() -> str:
    """The overview of the subcommands."""
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Critically damped momentum for Hugging Face Transformers.", ""]
    lines += [f"  {PROGRAM} {name} {command.usage}: {command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help tells more."])
