"""The parser that the subcommands share, and what all of them do before and after their work."""

import argparse
import inspect
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hf_critmom.commands import program
from hf_critmom.errors import InputError, root_message
from hf_critmom.storage.recorded_commands import recorded_arguments

if TYPE_CHECKING:
    from transformers import HfArgumentParser


class _ErrorsInOneSentence:
    """A parser that answers arguments it cannot use with one sentence rather than with the usage of every flag."""

    prog: str

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: see {self.prog} --help.")


class Parser(_ErrorsInOneSentence, ArgumentParser):
    """The parser of a subcommand without training arguments.

    Args:
        command: Name of the subcommand.
        description: What it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"{program()} {command}", description=description, allow_abbrev=False)
        self.register("type", Path, _named_path)


def _named_path(text: str) -> Path:
    """A path; an empty one would be the current folder, which nobody has named.

    Raises:
        argparse.ArgumentTypeError: If it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty, give a path")
    return Path(text)


def dataclass_parser(
    command: str, dataclass_types: Sequence[type], *, usage: str = "", description: str = "", add_help: bool = True
) -> "HfArgumentParser":
    """The parser of a subcommand whose flags are the fields of dataclasses, `TrainingArguments` among them.

    Its help shows our own flags by dataclass, under the title that the dataclass has as ``_argument_group_name``; the
    flags that are `TrainingArguments`' own are shown by ``--help_all`` only.

    Args:
        command: Name of the subcommand.
        dataclass_types: The dataclasses.
        usage: Arguments in the first line of its help.
        description: What it does.
        add_help: Whether it answers ``--help``.
    """
    from transformers import HfArgumentParser, TrainingArguments

    inherited = {
        part.name
        for dataclass_type in dataclass_types
        if issubclass(dataclass_type, TrainingArguments)
        for part in fields(dataclass_type)
        if part.name in TrainingArguments.__dataclass_fields__ and not _is_ours(dataclass_type, part.name)
    }

    hidden = set(inherited)

    class Formatter(argparse.ArgumentDefaultsHelpFormatter):
        """Leaves out the flags that are hidden."""

        def add_argument(self, action: argparse.Action) -> None:
            if action.dest not in hidden:
                super().add_argument(action)

        def _format_action_invocation(self, action: argparse.Action) -> str:
            """A flag by its first spelling, with a short placeholder; others are accepted all the same."""
            if not action.option_strings or action.nargs == 0:
                return super()._format_action_invocation(action)
            placeholder = _PLACEHOLDERS.get(action.type or str, "VALUE")
            if action.choices is not None:
                placeholder = "|".join(map(str, action.choices)) if len(list(action.choices)) < 6 else "NAME"
            several = f" [{placeholder} ...]" if action.nargs in ("+", "*") else ""
            return f"{action.option_strings[0]} {placeholder}{several}"

        def _get_help_string(self, action: argparse.Action) -> str | None:
            return action.help if action.default is None else super()._get_help_string(action)

    class ShowAll(argparse.Action):
        """Shows the help with every flag."""

        def __call__(self, parser: ArgumentParser, *args: Any, **kwargs: Any) -> None:
            hidden.clear()
            parser.print_help()
            parser.exit()

    class DataclassParser(_ErrorsInOneSentence, HfArgumentParser):
        pass

    parser = DataclassParser(
        dataclass_types,
        prog=f"{program()} {command}",
        usage=f"{program()} {command} {usage or '[flags]'}",
        description=description or None,
        formatter_class=Formatter,
        allow_abbrev=False,
        add_help=add_help,
    )
    if add_help:
        parser.add_argument(
            "--help_all",
            action=ShowAll,
            nargs=0,
            default=argparse.SUPPRESS,
            help="show this help message with all flags of TrainingArguments, and exit",
        )
    return parser


_PLACEHOLDERS: dict[Any, str] = {int: "N", float: "NUMBER", str: "TEXT"}


def _is_ours(dataclass_type: type, name: str) -> bool:
    """Whether a subclass of `TrainingArguments` declares a field itself."""
    from transformers import TrainingArguments

    classes = dataclass_type.__mro__[: dataclass_type.__mro__.index(TrainingArguments)]
    return any(name in inspect.get_annotations(one) for one in classes)


def parse_dataclasses(parser: "HfArgumentParser", argv: Sequence[str]) -> tuple[Any, ...]:
    """Parses arguments into the parser's dataclasses, followed by a namespace of its other arguments, if any.

    Raises:
        InputError: If a flag is unknown or its value cannot be used.
    """
    check_lists(parser, argv)
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # TrainingArguments' own checks
        parser.error(root_message(error))
    if unknown:
        parser.error(f"unknown arguments {shlex.join(recorded_arguments(unknown))}")
    for arguments in parsed:
        for name, value in vars(arguments).items():
            if value == "" and parser.get_default(name) != "":
                raise InputError(f"--{name} is empty: give a value, or leave it out.")
    return tuple(parsed)


def check_lists(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Refuses a list, such as that of the arms, that is given twice: the first values would be dropped in silence.

    A flag with a default, as of any program, has its last value.

    Raises:
        InputError: If there is one.
    """
    lists = [action for action in parser._actions if action.nargs in ("+", "*") and action.default is None]
    several = {flag: action for action in lists for flag in action.option_strings}
    given = [several[flag].dest for argument in argv if (flag := argument.partition("=")[0]) in several]
    if twice := next((name for name in given if given.count(name) > 1), None):
        raise InputError(f"--{twice} is given twice: give it once, with all of its values.")


def given_flags(argv: Sequence[str]) -> frozenset[str]:
    """Names of the flags among command-line arguments."""
    return frozenset(flag.lstrip("-").partition("=")[0].replace("-", "_") for flag in argv if flag.startswith("--"))


def rename_flags(argv: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Command-line arguments with the earlier spellings of flags replaced by those of today."""
    renamed = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        renamed.append(f"{aliases.get(flag, flag)}{equals}{value}")
    return renamed


def silence_libraries() -> None:
    """Silences what Transformers and Datasets print: errors are raised, and the commands show their own progress."""
    import datasets
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is in the error that it raises
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
