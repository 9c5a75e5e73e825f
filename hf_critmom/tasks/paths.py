"""Local paths, taken literally: a path is exactly that file or folder, whatever characters it has."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_critmom.tasks.errors import TaskError

_PATTERN = re.compile(r"[*?\[\]{}]|::|://")
"""Characters by which `datasets` and `fsspec` take a path for a pattern or an address."""


@dataclass(frozen=True)
class FilesBelow:
    """Files below a folder, sorted by path; hidden ones (``.name``, ``__name``) are left out.

    Attributes:
        files: Regular files, and links to them.
        broken: Links without a target.
    """

    files: tuple[Path, ...]
    broken: tuple[Path, ...]


def files_below(folder: Path) -> FilesBelow:
    """Walks through a folder; links to folders are followed, unless they lead back to a folder above.

    Raises:
        TaskError: If a folder cannot be read.
    """
    files: list[Path] = []
    broken: list[Path] = []

    def walk(directory: Path, above: frozenset[str]) -> None:
        for entry in os.scandir(directory):
            path = directory / entry.name
            if entry.name.startswith((".", "__")):
                continue
            if entry.is_dir():
                if (real := os.path.realpath(path)) not in above:
                    walk(path, above | {real})
            elif entry.is_file():
                files.append(path)
            elif entry.is_symlink():
                broken.append(path)

    try:
        walk(folder, frozenset((os.path.realpath(folder),)))
    except OSError as error:
        raise TaskError(f"{error.filename} cannot be read ({error.strerror}): make it readable.") from error
    return FilesBelow(tuple(sorted(files, key=str)), tuple(sorted(broken, key=str)))


@contextmanager
def literal_path(path: str | Path) -> Iterator[Path]:
    """A path to a file or folder that no reader takes for a pattern.

    It is the path itself, made absolute; or, if that has characters of a pattern, a temporary folder or file whose
    links lead to the same files.

    Raises:
        TaskError: If the folder for temporary files has such characters, too, or a folder cannot be read.
    """
    resolved = Path(path).resolve()
    if not is_pattern(resolved):
        yield resolved
        return
    with TemporaryDirectory() as folder:
        if is_pattern(folder := os.path.realpath(folder)):
            raise TaskError(f"The folder for temporary files {folder} looks like a pattern: set TMPDIR to another one.")
        mirror = Path(folder) / ("data" + resolved.suffix if resolved.is_file() else "data")
        if resolved.is_file():
            mirror.symlink_to(resolved)
        else:
            mirror.mkdir()
            for file in files_below(resolved).files:
                linked = mirror / file.relative_to(resolved)
                linked.parent.mkdir(parents=True, exist_ok=True)
                linked.symlink_to(file)
        yield mirror


def is_folder(name: str | Path) -> bool:
    """Whether a folder of this name exists; names that no path can have are allowed."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def is_file(name: str | Path) -> bool:
    """Whether a file of this name exists; names that no path can have are allowed."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def is_pattern(path: str | Path) -> bool:
    """Whether a reader would take a path for a pattern or an address."""
    return _PATTERN.search(str(path)) is not None
