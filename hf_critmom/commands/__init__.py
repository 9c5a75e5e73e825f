"""The command line: ``hf-critmom``, ``python -m hf_critmom`` and ``hf critmom``, with a module per subcommand.

This module imports nothing heavy, so that ``--help``, ``--version`` and an unknown command need not import torch.
"""

import difflib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hf_critmom import __version__
from hf_critmom.errors import InputError
from hf_critmom.storage.files import UNWRITABLE
from hf_critmom.storage.recorded_commands import secret_arguments
from hf_critmom.storage.redaction import declared_secrets, redact

PROGRAM = "hf-critmom"
CONTINUE = "repeat the command to continue it; what is finished is kept"
REPEAT = "repeat the command; nothing was lost"


@dataclass(frozen=True)
class Command:
    """A subcommand, whose module is imported when it is called.

    Attributes:
        usage: Its arguments, for the overview.
        help: What it does, in a line.
        interrupted: What to do after an interruption; empty for a command that handles signals itself.
    """

    usage: str
    help: str
    interrupted: str = REPEAT


COMMANDS: dict[str, Command] = {
    "run": Command(
        "[--no_damping_log] SCRIPT [ARGS...] | -m MODULE [ARGS...]",
        "run an unmodified training script with the optimizer names registered",
        interrupted="",
    ),
    "compare": Command(
        "[--task NAME_OR_DATASET] [--arms ...] [...]",
        "compare optimizers on a task, or continue a comparison",
        interrupted=CONTINUE,
    ),
    "merge": Command(
        "DIR [DIR ...] --output_dir DIR",
        "join comparisons of the same conditions from several folders or machines",
    ),
    "report": Command(
        "DIR [DIR ...] [--output_dir DIR] [--json]",
        "rebuild the report of a comparison, attribution or repair, or a page of several comparisons",
    ),
    "attribute": Command(
        "CHECKPOINT [CHECKPOINT ...] [--task ...] [...]",
        "show in which layers the gradient on misclassified examples is concentrated",
        interrupted=CONTINUE,
    ),
    "repair": Command(
        "CHECKPOINT [--task ...] [--groups auto|NAMES] [--controls]",
        "retrain chosen layers, and verify the result on the test split",
        interrupted=CONTINUE,
    ),
    "drift": Command(
        "DIR [--corruptions ...] [--max_eval_samples N]",
        "test the networks of a comparison on corrupted images",
        interrupted=CONTINUE,
    ),
    "doctor": Command(
        "RUN [--metric NAME] [--targets VALUE ...] [--json]",
        "examine the log of any Trainer run: steps, damping, what critmom would do",
    ),
    "push": Command("DIR REPO_ID [--private] [--dry_run] [...]", "push a comparison and one of its models to the Hub"),
}
"""The subcommands; each is the function ``main`` of the module with its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: Command-line arguments; ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 0; 2 for invalid input, with one sentence on standard error; 130 after Ctrl-C, 143 after
        SIGTERM, and 141 if the reader of standard output is gone.
    """
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:  # the reader of our output, such as head, is gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  # so that flushing at exit does not fail again
        return 141


def _main(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        sys.stdout.flush()
        return 0 if args else 2
    if args[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? The commands are" if near else "choose one of"
        return _fail(program(), f"unknown command {name!r}: {hint} {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    if not command.interrupted:
        return _run(name, rest)
    if odd := next((arg for arg in rest if not _is_text(arg)), None):
        return _fail(
            f"{program()} {name}", f"the argument {odd!r} is not valid UTF-8, so it cannot be recorded: rename it."
        )
    _escape_unencodable_output()
    try:
        with _raise_on_sigterm():
            return _run(name, rest)
    except _Terminated:
        return _fail(f"{program()} {name}", f"terminated: {command.interrupted}.", status=143)
    except KeyboardInterrupt:
        return _fail(f"{program()} {name}", f"interrupted: {command.interrupted}.", status=130)


def program() -> str:
    """The program as it was called: ``hf-critmom``, ``python -m hf_critmom`` or ``hf critmom``.

    The ``hf`` command keeps its extensions in its own folder, which is how a call through it is recognised.
    """
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "hf_critmom":
        return "python -m hf_critmom"
    return "hf critmom" if "extensions" in called.parts and "hf" in called.parts else PROGRAM


def usage() -> str:
    """The overview of all subcommands."""
    lines = [f"usage: {program()} COMMAND ...", "", "Critically damped momentum for Hugging Face Transformers.", ""]
    for name, command in COMMANDS.items():
        lines += [f"  {program()} {name} {command.usage}", f"      {command.help}"]
    lines += ["", f"{program()} COMMAND --help shows the flags of a command, {program()} --version the version."]
    return "\n".join(lines)


def _run(name: str, argv: list[str]) -> int:
    run: Callable[[list[str]], int] = importlib.import_module(f"hf_critmom.commands.{name}").main
    with declared_secrets(secret_arguments(argv)):
        try:
            return run(argv)
        except InputError as error:
            return _fail(f"{program()} {name}", f"error: {error}")
        except (OSError, RuntimeError) as error:
            if name == "run" or not (sentence := _explain_file_error(error)):  # a script's errors are its own
                raise
            return _fail(f"{program()} {name}", f"error: {sentence}.")


def _explain_file_error(error: OSError | RuntimeError) -> str:
    """Explains an invalid path, a missing file or a full disk in a sentence; empty for other errors.

    This is the fallback of commands that do not explain the error themselves.
    """
    if not isinstance(error, OSError):
        return f"{error}: check the given paths" if str(error).startswith("Symlink loop from") else ""
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{error.filename} is not a valid path ({error.strerror}): check the given paths"
    if error.errno in UNWRITABLE and not isinstance(error, PermissionError):
        what = error.filename or "A file of this command"
        return f"{what} cannot be written ({error.strerror}): free some space or fix its permissions, then {REPEAT}"
    if isinstance(error, _PATH_ERRORS) and error.filename is not None:
        return f"{error.filename} cannot be used ({error.strerror}): check the path and its permissions, then {REPEAT}"
    return ""


_PATH_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def _escape_unencodable_output() -> None:
    """Escapes characters that the terminal's encoding lacks, as in the C locale, so that printing them cannot fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_text(argument: str) -> bool:
    """Whether an argument can be stored: Python represents bytes that are not UTF-8 by surrogates."""
    return "\0" not in argument and not any("\ud800" <= char <= "\udfff" for char in argument)


def _fail(where: str, message: str, *, status: int = 2) -> int:
    """Prints why a command ended, in one line without control characters or secrets, and returns its exit status."""
    rank = os.environ.get("LOCAL_RANK", "0")
    if rank == "0" or not rank.isdecimal():  # one process per machine prints it
        text = message if message.startswith(("error: ", "interrupted", "terminated")) else f"error: {message}"
        text = redact(text, sentence=True)
        line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
        print(f"{where}: {line}", file=sys.stderr)
    return status


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: it releases its locks and removes its partial files."""


@contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """Raises an exception on SIGTERM in this process, but not in processes that it forks."""
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # only the main thread can handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
