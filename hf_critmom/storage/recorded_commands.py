"""Command lines as they are recorded: without secrets, and without paths that identify a machine or its user.

Whatever stores a command line, an argument or a path in a file passes it through this module.
"""

import math
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from hf_critmom.storage.redaction import (
    MIN_SECRET_LENGTH,
    REDACTED,
    is_secret_name,
    is_secret_value,
    normalize_name,
    redact,
)


def recorded_command(program: str, argv: Sequence[str]) -> str:
    """Turns a command line into one that may be stored in a file and published.

    Example:
        >>> recorded_command("hf-critmom compare", ["--hub_token", "abc", "--arms", "critmom", "--task=/data/cats"])
        'hf-critmom compare --hub_token REDACTED --arms critmom --task=cats'

    Args:
        program: Name of the program, with its subcommand.
        argv: Its arguments.

    Returns:
        The command, quoted for a shell. Values of secret flags (``--hub_token X``, ``--api-key=X``) and anything that
        looks like a secret become `REDACTED`. Absolute paths become relative to the working directory if they lie
        below it; of others, only the last part is kept.
    """
    return shlex.join([*shlex.split(program), *recorded_arguments(argv)])


def recorded_arguments(argv: Sequence[str], *, text: Callable[[str], str] | None = None) -> list[str]:
    """Does what `recorded_command` does, argument by argument.

    Args:
        argv: The arguments.
        text: Applied to arguments that are not secret by name; by default, redacts secrets and shortens paths.
    """
    text = text or _recorded_text
    recorded: list[str] = []
    num_secret = 0.0  # number of arguments ahead that are values of a secret flag
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if re.fullmatch(r"--?[A-Za-z][\w.-]*", flag) is None or (num_secret and not argument.startswith("--")):
            recorded.append(_recorded_secret(argument) if num_secret else text(argument))
            num_secret = max(num_secret - 1.0, 0.0)
            continue
        num_secret = 0.0
        if not _is_secret_flag(flag):
            recorded.append(f"{flag}={text(value)}" if equals else text(argument))
        elif equals:
            recorded.append(f"{flag}={_recorded_secret(value)}")
        else:
            recorded.append(flag)
            num_secret = math.inf if flag.endswith("s") else 1.0
    return recorded


def secret_arguments(argv: Sequence[str]) -> set[str]:
    """Values of secret flags, except those that are so short that they could be any word."""
    found = set()
    for argument, recorded in zip(argv, recorded_arguments(argv), strict=True):
        if recorded == REDACTED:
            found.add(argument)
        elif recorded.endswith(f"={REDACTED}"):
            found.add(argument.partition("=")[2])
    return {secret for secret in found if len(secret) >= MIN_SECRET_LENGTH}


def secret_values(value: Any) -> set[str]:
    """Values that are secret by the names of their keys, anywhere in a JSON-like value; see `secret_arguments`."""
    if isinstance(value, list | tuple):
        return {secret for item in value for secret in secret_values(item)}
    if not isinstance(value, Mapping):
        return set()
    found = {item for name, item in value.items() if is_secret_name(str(name)) and is_secret_value(item)}
    found |= {secret for item in value.values() for secret in secret_values(item)}
    return {secret for secret in found if len(secret) >= MIN_SECRET_LENGTH}


def recorded_value(value: Any, *, text: Callable[[str], str] | None = None) -> Any:
    """Does what `recorded_command` does to every string in a JSON-like value.

    Args:
        value: The value.
        text: See `recorded_arguments`.
    """
    text = text or _recorded_text
    if isinstance(value, Mapping):
        return {
            name: REDACTED if is_secret_name(str(name)) and is_secret_value(item) else recorded_value(item, text=text)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [recorded_value(item, text=text) for item in value]
    return text(value) if isinstance(value, str) else value


def recorded_path(path: str | Path) -> str:
    """Removes from a path what identifies the machine or its user.

    Example:
        >>> recorded_path("/data/cats"), recorded_path("data/cats"), recorded_path("google/vit")
        ('cats', 'data/cats', 'google/vit')

    Args:
        path: A path, or a name on the Hub, which stays as it is.

    Returns:
        For an absolute path, or one that begins with ``~``: the path relative to the working directory if it lies
        below it, else its last part. Other paths stay as they are, unless they lead through a home directory.
    """
    text = str(path)
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return PureWindowsPath(text).name or _NAMELESS
    if text.startswith("~"):
        owner, _, below = text.partition("/")
        if owner != "~":
            return Path(below).name or _NAMELESS
        text = str(Path.home() / below)
    normal = Path(os.path.normpath(text))
    if not normal.is_absolute():
        leads_home = normal.parts[:1] == ("..",) and {"home", "Users", Path.home().name} & set(normal.parts)
        return normal.name if leads_home else text
    if (relative := _relative_to_cwd(normal)) is not None:
        return relative
    is_home = normal == Path.home() or (len(normal.parts) == 3 and normal.parts[1] in ("home", "Users"))
    return "~" if is_home else normal.name or "/"


def shorten_paths(text: str, *, home_only: bool = False) -> str:
    """Replaces every absolute path in a text by what `recorded_path` makes of it.

    Example:
        >>> shorten_paths("trained on `/data/cats`, see https://example.org/a/b")
        'trained on `cats`, see https://example.org/a/b'

    Args:
        text: A card, JSON or a shell command. Absolute paths with a single part, such as ``/tmp``, stay.
        home_only: Shorten only paths through a home directory or the working directory; for source code, where a
            slash need not begin a path.
    """

    def shortened(match: re.Match[str]) -> str:
        path = match["path"].rstrip(".")
        rest = match["path"][len(path) :]  # punctuation at the end of a sentence
        return match[0] if home_only and not _is_private(path) else recorded_path(path) + rest

    return _PATH.sub(shortened, text)


_NAMELESS = "folder"
_SECRET_FLAGS = ("hub_token", "push_to_hub_token", "hf_token", "access_token", "auth_token", "api_key", "secret_key")
_PATH = re.compile(
    r"(?:(?<=^)|(?<=[\s\"'`=,:;(\[{|>]))(?:file://(?:localhost)?)?"
    r"(?P<path>~[\w.-]*(?:/[^\s\"'`,;:()\[\]{}<>|\\]*)+"
    r"|(?:/[^\s\"'`,;:()\[\]{}<>|\\/]+){2,}/?"
    r"|[A-Za-z]:\\(?:[^\s\"'`,;:()\[\]{}<>|]*))",
    re.MULTILINE,
)


def _is_secret_flag(flag: str) -> bool:
    """Whether a flag takes a secret; abbreviations such as ``--hub_tok`` count, because argparse may accept them."""
    name = normalize_name(flag)
    if is_secret_name(name):
        return True
    stems = {known: known.rpartition("_")[0] + "_" for known in _SECRET_FLAGS}
    abbreviates = any(known.startswith(name) and len(name) > len(stem) for known, stem in stems.items())
    return abbreviates or (len(name) > 2 and any(word.startswith(name) for word in ("token", "password")))


def _recorded_secret(value: str) -> str:
    return REDACTED if is_secret_value(value) else value


def _recorded_text(value: str) -> str:
    """Redacts secrets and shortens paths in an argument or value that is not secret by name."""
    redacted = redact(value)
    begins_as_path = re.match(r"/(?!/)|~[\w.-]*(?:/|$)|[A-Za-z]:\\|\.\./", redacted) is not None
    is_list = "\n" in redacted or re.search(r"[,;:=|]\s*(?:/|~|\.\./)", redacted) is not None
    return recorded_path(redacted) if begins_as_path and not is_list else shorten_paths(redacted)


def _relative_to_cwd(path: Path) -> str | None:
    """An absolute path relative to the working directory, also through symbolic links; None if it is not below it."""
    here = Path.cwd()
    for absolute, folder in ((path, Path(os.environ.get("PWD", here))), (path, here), (path.resolve(), here)):
        if folder != Path(folder.anchor) and absolute.is_relative_to(folder):
            return absolute.relative_to(folder).as_posix()
    return None


def _is_private(path: str) -> bool:
    """Whether a path leads through a home directory or the working directory."""
    if re.match(r"~|/(?:home|Users|root)(?:/|$)|[A-Za-z]:\\+Users\\", path):
        return True
    normal = Path(os.path.normpath(path))
    return normal.is_relative_to(Path.home()) or _relative_to_cwd(normal) is not None
