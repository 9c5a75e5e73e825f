"""The parser that the subcommands share, and what all of them do before and after their work."""

import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hf_critmom.commands import PROGRAM
from hf_critmom.errors import InputError, root_message
from hf_critmom.storage.commands import recorded_arguments

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
        super().__init__(prog=f"{PROGRAM} {command}", description=description, allow_abbrev=False)


def dataclass_parser(command: str, dataclass_types: Sequence[type], **kwargs: Any) -> "HfArgumentParser":
    """The parser of a subcommand whose flags are the fields of dataclasses, `TrainingArguments` among them.

    Args:
        command: Name of the subcommand.
        dataclass_types: The dataclasses.
        kwargs: Passed to the parser.
    """
    from transformers import HfArgumentParser

    class DataclassParser(_ErrorsInOneSentence, HfArgumentParser):
        pass

    return DataclassParser(dataclass_types, prog=f"{PROGRAM} {command}", allow_abbrev=False, **kwargs)


def parse_dataclasses(parser: "HfArgumentParser", argv: Sequence[str]) -> tuple[Any, ...]:
    """Parses arguments into the parser's dataclasses, followed by a namespace of its other arguments, if any.

    Raises:
        InputError: If a flag is unknown or its value cannot be used.
    """
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # TrainingArguments' own checks
        parser.error(root_message(error))
    if unknown:
        parser.error(f"unknown arguments {shlex.join(recorded_arguments(unknown))}")
    return tuple(parsed)


def quieten_libraries() -> None:
    """Silences what Transformers and Datasets print: errors are raised, and the commands show their own progress."""
    import datasets
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is in the error that it raises
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
