"""Command lines of a comparison as text: flags that are read, replaced, left out, or added from an earlier command."""

import dataclasses
import shlex
from collections.abc import Iterable, Sequence

from hf_critmom.engines.arguments import EngineArguments

_NOT_COMPLETED = {one.name for one in dataclasses.fields(EngineArguments)} - {"threads_per_worker"} | {
    *("output_dir", "until_decided", "max_seeds"),
}
"""Flags that say where and how long a command works; a plan keeps what the others say."""

JOINT = " && "
"""What stands between the commands in what `joint_command` returns."""


def with_flag(argv: Sequence[str], flag: str, values: Sequence[str] = ()) -> list[str]:
    """A command in which a flag has these values, instead of those that it may have had.

    Args:
        argv: The command.
        flag: The flag, such as "--num_seeds".
        values: Its values.
    """
    own, of_script = _split(without_flag(argv, flag))
    return [*own, flag, *values, *of_script]


def without_flag(argv: Sequence[str], *flags: str) -> list[str]:
    """A command without some flags and their values.

    Args:
        argv: The command.
        flags: The flags.
    """
    dropped = {_name(flag) for flag in flags}
    own, of_script = _split(argv)
    kept: list[str] = []
    dropping = False
    for argument in own:
        if argument.startswith("--"):
            dropping = _name(argument) in dropped
        if not dropping:
            kept.append(argument)
    return [*kept, *of_script]


def flag_values(argv: Sequence[str], flag: str) -> list[str] | None:
    """The values of a flag in a command; None if the command does not have it.

    Example:
        >>> flag_values(["compare", "--arms", "constant", "critmom", "--num-seeds=3"], "--arms")
        ['constant', 'critmom']
        >>> flag_values(["compare", "--arms", "constant", "critmom", "--num-seeds=3"], "--num_seeds")
        ['3']

    Args:
        argv: The command.
        flag: The flag.
    """
    found = _flags(_split(argv)[0]).get(_name(flag))
    if found is None:
        return None
    _, equals, value = found[0].partition("=")
    return [value] if equals else found[1:]


def script_has_flag(argv: Sequence[str], *flags: str) -> bool:
    """Whether a script's own arguments, those after ``--``, have one of some flags."""
    return not _flags(_split(argv)[1][1:]).keys().isdisjoint(map(_name, flags))


def completed(command: str, earlier: str, *, seeds: int) -> str:
    """A command with the flags that only an earlier one has, so that it makes the same comparison in an empty folder.

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
    (own, of_script), (others, _) = _split(argv), _split(before)
    known = _flags(own)
    omitted = omitted_flags(argv, before) - ({"seed"} if "num_seeds" in known else set())  # it counts from its own
    missing = {name: flag for name, flag in _flags(others).items() if name in omitted}
    if "num_seeds" in missing:
        missing["num_seeds"] = ["--num_seeds", str(seeds)]
    if not argv or not missing or "&&" in before:
        return command
    return shlex.join([*own, *(argument for flag in missing.values() for argument in flag), *of_script])


def omitted_flags(argv: Sequence[str], earlier: Sequence[str]) -> set[str]:
    """Names of the flags that a command leaves out and an earlier one has, or one of the joint commands that it is.

    Flags that say where and how long a command works are not among them.

    Args:
        argv: The command.
        earlier: The earlier one.
    """
    ends = [place for place, argument in enumerate(earlier) if argument == JOINT.strip()]
    singles = [earlier[start:end] for start, end in zip([0, *ends], [*ends, len(earlier)], strict=True)]
    said = {name for one in singles for name in _flags(_split(one)[0])}
    return said - {*_flags(_split(argv)[0]), *_NOT_COMPLETED}


def is_completed(command: str, given: str) -> bool:
    """Whether a command is another one, maybe with flags that `completed` added to it.

    Args:
        command: The command.
        given: The other one.
    """
    if command == given:
        return True
    try:
        (own, of_script), (others, of_other) = _split(shlex.split(command)), _split(shlex.split(given))
    except ValueError:
        return False
    added = own[len(others) :]
    return own[: len(others)] == others and of_script == of_other and added[:1] != [] and added[0].startswith("--")


def joint_command(commands: Iterable[str]) -> str:
    """Commands one after another, each once, such as those of the parts of a merged comparison."""
    return JOINT.join(dict.fromkeys(one for command in commands for one in command.split(JOINT)))


def single_commands(command: str) -> list[list[str]]:
    """The commands in what `joint_command` returned, as arguments.

    Raises:
        ValueError: If one is not quoted as a shell would have it.
    """
    return [shlex.split(one) for one in command.split(JOINT)]


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the script's with the ``--`` before them."""
    end = argv.index("--") if "--" in argv else len(argv)
    return list(argv[:end]), list(argv[end:])


def _flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """Each flag with its values, as arguments, by its name."""
    flags: dict[str, list[str]] = {}
    arguments: list[str] = []
    for argument in argv:
        if argument.startswith("--"):
            arguments = flags[_name(argument)] = []
        arguments.append(argument)
    return flags


def _name(flag: str) -> str:
    return flag.partition("=")[0].removeprefix("--").replace("-", "_")
