"""Flags of the programs in this folder: invalid ones end a program with one sentence instead of a traceback."""

import argparse
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from hf_critmom.errors import InputError


def parse_dataclasses(*dataclass_types: type, description: str | None) -> tuple[Any, ...]:
    """Parses the command line into dataclasses; ends the program if a flag is unknown or its value is invalid.

    Args:
        dataclass_types: The dataclasses. Their ``__post_init__`` raises `ValueError` for an invalid value.
        description: What the program does, for ``--help``.
    """
    parser = HfArgumentParser(dataclass_types, description=description, allow_abbrev=False)
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    except ValueError as error:
        parser.error(str(error))
    if unknown:
        parser.error(f"unknown arguments {shlex.join(unknown)}")
    return tuple(parsed)


def check_positive(flags: Any, *names: str) -> None:
    """Checks that numbers, or lists of numbers, are positive.

    Raises:
        ValueError: If one is not.
    """
    for name in names:
        value = getattr(flags, name)
        for number in value if isinstance(value, list) else [value]:
            if not 0 < number < math.inf:
                raise ValueError(f"--{name} must be positive, got {number}.")


def positive_int(text: str) -> int:
    """Converts the value of a flag to a positive integer.

    Raises:
        argparse.ArgumentTypeError: If it is not one.
    """
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with one sentence if its input cannot be used, such as a task that does not exist."""
    try:
        yield
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
