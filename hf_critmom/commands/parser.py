"""The argument parsers of the subcommands."""

import argparse
import inspect
import re
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


class _OneSentenceErrors:
    """A parser mixin that reports invalid arguments in one sentence, instead of printing the usage of all flags."""

    prog: str

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: see {self.prog} --help.")


class Parser(_OneSentenceErrors, ArgumentParser):
    """The parser of a subcommand without training flags.

    Args:
        command: Name of the subcommand.
        description: What it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"{program()} {command}", description=description, allow_abbrev=False)
        self.register("type", Path, _nonempty_path)


def _nonempty_path(text: str) -> Path:
    """Converts an argument to a path; an empty one would silently mean the current directory.

    Raises:
        argparse.ArgumentTypeError: If it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty, expected a path")
    return Path(text)


def dataclass_parser(
    command: str, dataclass_types: Sequence[type], *, usage: str = "", description: str = "", add_help: bool = True
) -> "HfArgumentParser":
    """The parser of a subcommand whose flags are the fields of dataclasses, which may include `TrainingArguments`.

    Its help lists the flags of each dataclass under the title ``_argument_group_name`` of that dataclass. Flags that
    `TrainingArguments` itself declares are only shown by ``--help_all``, which other parsers do not have.

    Args:
        command: Name of the subcommand.
        dataclass_types: The dataclasses.
        usage: Arguments in the first line of the help.
        description: What the subcommand does.
        add_help: Whether the parser has ``--help`` and ``--help_all``.
    """
    from transformers import HfArgumentParser, TrainingArguments
    from transformers.hf_argparser import string_to_bool

    placeholders = {**_PLACEHOLDERS, string_to_bool: "true|false"}
    hidden = {
        part.name
        for dataclass_type in dataclass_types
        if issubclass(dataclass_type, TrainingArguments)
        for part in fields(dataclass_type)
        if part.name in TrainingArguments.__dataclass_fields__ and not _is_redeclared(dataclass_type, part.name)
    }

    class Formatter(argparse.ArgumentDefaultsHelpFormatter):
        """Leaves out hidden flags."""

        def add_argument(self, action: argparse.Action) -> None:
            if action.dest not in hidden:
                super().add_argument(action)

        def _format_action_invocation(self, action: argparse.Action) -> str:
            """Shows only the first spelling of a flag, with a short placeholder."""
            if not action.option_strings or action.nargs == 0:
                return super()._format_action_invocation(action)
            placeholder = action.metavar or placeholders.get(action.type or str, "VALUE")
            if action.choices is not None:
                placeholder = "|".join(map(str, action.choices)) if len(list(action.choices)) < 6 else "NAME"
            if action.nargs == "?":  # of booleans the flag alone is enough
                placeholder = f"[{placeholder}]"
            several = f" [{placeholder} ...]" if action.nargs in ("+", "*") else ""
            return f"{action.option_strings[0]} {placeholder}{several}"

        def _get_help_string(self, action: argparse.Action) -> str | None:
            if isinstance(action, argparse._StoreFalseAction):  # which has the help text of the flag that it turns off
                return f"Turns off --{action.dest}."
            if action.default is None or _STATES_DEFAULT.search(action.help or ""):
                return action.help
            return super()._get_help_string(action)

    class ShowAll(argparse.Action):
        """Prints the help with all flags."""

        def __call__(self, parser: ArgumentParser, *args: Any, **kwargs: Any) -> None:
            hidden.clear()
            parser.print_help()
            parser.exit()

    class DataclassParser(_OneSentenceErrors, HfArgumentParser):
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
    if add_help and hidden:
        parser.add_argument(
            "--help_all",
            action=ShowAll,
            nargs=0,
            default=argparse.SUPPRESS,
            help="show this help message with all flags of TrainingArguments, and exit",
        )
    return parser


_PLACEHOLDERS: dict[Any, str] = {int: "N", float: "NUMBER", str: "TEXT"}
_STATES_DEFAULT = re.compile(r"\b(default:|the default\b|\(default\))", re.IGNORECASE)


def _is_redeclared(dataclass_type: type, name: str) -> bool:
    """Whether a subclass of `TrainingArguments` itself declares a field."""
    from transformers import TrainingArguments

    classes = dataclass_type.__mro__[: dataclass_type.__mro__.index(TrainingArguments)]
    return any(name in inspect.get_annotations(one) for one in classes)


def parse_dataclasses(parser: "HfArgumentParser", argv: Sequence[str]) -> tuple[Any, ...]:
    """Parses arguments into the parser's dataclasses, followed by a namespace if it has other arguments.

    Raises:
        InputError: If a flag is unknown, or its value is invalid.
    """
    check_lists(parser, argv)
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # from the checks of TrainingArguments
        parser.error(root_message(error))
    if unknown:
        parser.error(f"unknown arguments {shlex.join(recorded_arguments(unknown))}")
    for arguments in parsed:
        for name, value in vars(arguments).items():
            if value == "" and parser.get_default(name) != "":
                raise InputError(f"--{name} is empty: give a value, or leave it out.")
    return tuple(parsed)


def check_lists(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Checks that no flag with a list of values is given twice, because argparse would ignore the first list.

    Lists with a default are excepted: of these, as of single values, the last one given counts.

    Raises:
        InputError: If a flag is given twice.
    """
    lists = [action for action in parser._actions if action.nargs in ("+", "*") and action.default is None]
    several = {flag: action for action in lists for flag in action.option_strings}
    given = [several[flag].dest for argument in argv if (flag := argument.partition("=")[0]) in several]
    if twice := next((name for name in given if given.count(name) > 1), None):
        raise InputError(f"--{twice} is given twice: give it once, with all of its values.")


def given_flags(argv: Sequence[str]) -> frozenset[str]:
    """Names of the flags in command-line arguments."""
    return frozenset(flag.lstrip("-").partition("=")[0].replace("-", "_") for flag in argv if flag.startswith("--"))


def rename_flags(argv: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Replaces former names of flags in command-line arguments by the current ones."""
    renamed = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        renamed.append(f"{aliases.get(flag, flag)}{equals}{value}")
    return renamed


def silence_libraries() -> None:
    """Turns off logs and progress bars of Transformers and Datasets; the commands show their own progress."""
    import datasets
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its messages are in the errors that it raises
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
