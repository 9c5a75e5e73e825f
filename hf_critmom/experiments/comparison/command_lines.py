"""Command lines of a comparison as text: flags that are replaced, left out, or completed from an earlier command."""

import dataclasses
import shlex
from collections.abc import Sequence

from hf_critmom.engines.arguments import EngineArguments

_NOT_COMPLETED = {one.name for one in dataclasses.fields(EngineArguments)} - {"threads_per_worker"} | {
    *("output_dir", "until_decided", "max_seeds"),
}
"""Flags that say where and how long a command works; a plan keeps what the others say."""


def with_flag(argv: Sequence[str], flag: str, values: Sequence[str]) -> list[str]:
    """A command in which a flag has these values, in the place of those that it had.

    Args:
        argv: The command.
        flag: The flag, such as "--num_seeds".
        values: Its values.
    """
    rest = without_flag(argv, flag)
    end = rest.index("--") if "--" in rest else len(rest)  # what follows is a script's own
    return [*rest[:end], flag, *values, *rest[end:]]


def without_flag(argv: Sequence[str], flag: str) -> list[str]:
    """A command without a flag and its values.

    Args:
        argv: The command.
        flag: The flag.
    """
    kept: list[str] = []
    dropping = False
    for place, argument in enumerate(argv):
        if argument == "--":
            return [*kept, *argv[place:]]
        if argument.startswith("--"):
            dropping = _name(argument) == _name(flag)
        if not dropping:
            kept.append(argument)
    return kept


def completed(command: str, earlier: str, *, seeds: int) -> str:
    """A command with what only an earlier one says, so that it makes the same comparison in an empty folder.

    A command that continues a comparison may leave out what its plan knows, such as arms and targets.

    Example:
        >>> completed("compare --num_seeds 5 --bf16", "compare --arms adamw --num_seeds 3 --bf16", seeds=5)
        'compare --num_seeds 5 --bf16 --arms adamw'

    Args:
        command: The command.
        earlier: The earlier one.
        seeds: Number of seeds of the comparison.
    """
    try:
        argv, before = shlex.split(command), shlex.split(earlier)
    except ValueError:  # an early plan keeps a command for people
        return command
    own, others = _flags(argv), _flags(before)
    missing = {name: words for name, words in others.items() if name not in own and name not in _NOT_COMPLETED}
    if "num_seeds" in missing:
        missing["num_seeds"] = ["--num_seeds", str(seeds)]
    if not argv or not missing or "&&" in before:
        return command
    end = argv.index("--") if "--" in argv else len(argv)
    return shlex.join([*argv[:end], *(word for words in missing.values() for word in words), *argv[end:]])


def _flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """The words of each flag, itself among them, by its name."""
    flags: dict[str, list[str]] = {}
    words: list[str] = []
    for argument in argv:
        if argument == "--":
            break
        if argument.startswith("--"):
            words = flags[_name(argument)] = []
        words.append(argument)
    return flags


def _name(flag: str) -> str:
    return flag.partition("=")[0].removeprefix("--").replace("-", "_")
