"""Files that are written completely or not at all, and the folders that they are written to."""

import errno
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from hf_critmom.errors import InputError
from hf_critmom.storage.redaction import find_secrets

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yields a temporary file to write to, which then takes the name of ``file``: all of it appears, or nothing.

    The temporary file is locked meanwhile, so that `remove_partial_files` knows what a killed process has left.
    """
    # Not the process's number: machines that share the folder may have processes of the same number.
    partial = file.with_name(f".{file.stem}.{uuid.uuid4().hex}.partial{file.suffix}")
    with partial.open("xb") as lock:
        try:
            _lock(lock)
            yield partial
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            partial.replace(file)
        finally:
            with suppress(OSError):  # where the folder is gone or read-only by now, the first error says so
                partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left in a folder and the folders in it.

    Files that other processes are writing at this moment stay.
    """
    for partial in folder.rglob(".*.partial*"):
        if not _PARTIAL.fullmatch(partial.name):
            continue
        with suppress(OSError), partial.open("rb+") as file:  # another launch was quicker, or is writing it
            if _lock(file):
                partial.unlink()


_PARTIAL = re.compile(r"\..+\.partial(\.\w+)?")


def _lock(file: BinaryIO) -> bool:
    """Locks an open file for this process; False where the system or the file system has no such locks.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return fcntl is not None


LARGEST_TEXT = 256 * 2**20
"""Bytes of the largest file of text that is read as a whole; ours are far smaller."""


def read_text(file: Path) -> str:
    """The text of a regular file, UTF-8.

    Raises:
        OSError: If it cannot be read, or is a device or a pipe, which may never end.
        ValueError: If it is larger than any such file, or not UTF-8.
    """
    size = file.stat().st_size
    if not file.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    if size > LARGEST_TEXT:
        raise ValueError(f"it has {size:,} bytes, and {LARGEST_TEXT:,} at most are read")
    return file.read_text(encoding="utf-8")


def irregular_file(folder: Path) -> Path | None:
    """A pipe, socket or device among the files of a folder, whose reading may never end; None where there is none."""
    try:
        found = [path for path in folder.iterdir() if path.exists() and not (path.is_file() or path.is_dir())]
    except OSError:  # no folder, or none that may be read: whoever reads it says so
        return None
    return min(found, default=None)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, completely or not at all."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The value with None in the place of numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def create_or_open_folder(
    folder: Path, kind: str, plan_file: str | None, error: type[InputError], *, write: bool
) -> None:
    """Creates an output folder or opens one of the same kind; a folder with other files is refused.

    Of several processes one writes.

    Args:
        folder: The folder.
        kind: What is to be kept there, such as "comparison".
        plan_file: Name of the file that a folder of this kind holds from the first on; None: it may hold any others.
        error: What is raised.
        write: Whether this process is the one that writes.

    Raises:
        InputError: Of the type given, if it holds other files, or cannot be written.
    """
    check_folder_name(folder, error)
    if not write:
        return
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        # Hidden ones are locks, and what another launch may just be writing.
        others = plan_file is not None and plan_file not in names
        if others and any(not name.startswith(".") for name in names):
            raise error(f"{folder} holds files, but no {kind}: choose an empty or new --output_dir.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise error(
            f"{folder} cannot be written ({problem.strerror}): choose an --output_dir where you may write."
        ) from None


def check_folder_name(folder: Path, error: type[InputError]) -> None:
    """Refuses an output folder that cannot be one, before any work: a file, a link that leads nowhere, too long a name.

    Raises:
        InputError: Of the type given.
    """
    kinds = find_secrets(folder.name, names=False)
    if kinds and not re.search("[0-9a-f]{40}", folder.name):  # which may be a commit
        raise error(f"--output_dir holds what looks like {' and '.join(kinds)}: choose another name.")
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.stat()  # fails where links lead in a circle, or the name is too long
        if folder.exists() and not folder.is_dir():
            raise error(f"{folder} is a file: --output_dir must be a folder, or not exist yet.")
        if folder.is_symlink() and not folder.exists():
            raise OSError(errno.ENOENT, "the link leads nowhere")
    except OSError as problem:
        raise error(f"{folder} cannot be a folder ({problem.strerror}): choose another --output_dir.") from None


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@contextmanager
def explain_write_errors(folder: Path, error: type[InputError], kept: str) -> Iterator[None]:
    """Says in one sentence that a folder could not be written.

    Args:
        folder: The folder that is written to within.
        error: The error that is raised.
        kept: What is kept of the work, for the sentence.

    Raises:
        InputError: Of the type given, if it could not.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as problem:
        if not (why := why_unwritable(folder, problem)):
            raise
        raise error(
            f"{folder} cannot be written any more ({why}): make room there, or let it be written, then repeat the "
            f"command; {kept}."
        ) from problem


def why_unwritable(folder: Path, error: BaseException) -> str:
    """Why writing to a folder failed, if that is what an error means; empty if it is another error.

    Where the folder is gone, any error of a file means that. A full disk reaches us as an `OSError` from Python's own
    writing only: safetensors gives the number within its text, and torch raises a `RuntimeError` about positions in a
    stream, upon which a file is tried.

    Args:
        folder: The folder that was written to.
        error: The error.
    """
    for number in UNWRITABLE:
        if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
            return os.strerror(number)
    if not folder.is_dir():
        return "it was removed"
    if isinstance(error, RuntimeError):
        try:
            with tempfile.TemporaryFile(dir=folder) as tried:
                tried.write(bytes(2**16))
                tried.flush()
                os.fsync(tried.fileno())
        except OSError as found:
            return found.strerror or str(found)
    return ""
