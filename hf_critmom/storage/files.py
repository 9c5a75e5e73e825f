"""Files that are written completely or not at all, and checks of the folders that they are written to."""

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
    """Yields a temporary file to write to, which is then renamed to ``file``: all of it appears, or nothing.

    The temporary file is locked while it is written, so that `remove_partial_files` can tell it from one that a killed
    process left.
    """
    # Not the process id: it is not unique among the machines that share the folder.
    partial = file.with_name(f".{file.stem}.{uuid.uuid4().hex}.partial{file.suffix}")
    with partial.open("xb") as lock:
        try:
            _lock(lock)
            yield partial
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            partial.replace(file)
        finally:
            with suppress(OSError):  # if the folder is gone or read-only by now, the first error says so
                partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a folder and its subfolders.

    Those that other processes are writing at this moment stay.
    """
    for partial in folder.rglob(".*.partial*"):
        if not _PARTIAL.fullmatch(partial.name):
            continue
        with suppress(OSError), partial.open("rb+") as file:  # another launch removed it first, or is writing it
            if _lock(file):
                partial.unlink()


_PARTIAL = re.compile(r"\..+\.partial(\.\w+)?")


def _lock(file: BinaryIO) -> bool:
    """Locks an open file for this process; returns False if the operating or file system has no such locks.

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


MAX_TEXT_BYTES = 256 * 2**20
"""Largest text file that is read, in bytes; ours are far smaller."""


def read_text(file: Path) -> str:
    """Reads a regular UTF-8 text file.

    Raises:
        OSError: If it cannot be read, or is a device or pipe, which may never end.
        ValueError: If it is larger than `MAX_TEXT_BYTES`, or not UTF-8.
    """
    size = file.stat().st_size
    if not file.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"it has {size:,} bytes, and at most {MAX_TEXT_BYTES:,} are read")
    return file.read_text(encoding="utf-8")


def find_irregular_file(folder: Path) -> Path | None:
    """Finds a pipe, socket or device in a folder, which might never end when read; None if there is none."""
    try:
        found = [path for path in folder.iterdir() if path.exists() and not (path.is_file() or path.is_dir())]
    except OSError:  # missing or unreadable, which whoever reads it next reports
        return None
    return min(found, default=None)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, completely or not at all."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def replace_non_finite(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON cannot hold, by None, also in dictionaries, lists and tuples."""
    if isinstance(value, dict):
        return {name: replace_non_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def create_or_open_folder(
    folder: Path, kind: str, plan_file: str | None, error: type[InputError], *, write: bool
) -> None:
    """Creates an output folder, or accepts an existing one of the same kind.

    Args:
        folder: The folder.
        kind: What the folder is for, such as "comparison".
        plan_file: Name of the file that is written first to a folder of this kind. A folder with other files but
            without this one is refused. None: accept any folder.
        error: Type of the error to raise.
        write: Whether this is the process that writes; others only check the folder's name.

    Raises:
        InputError: Of the given type, if the folder holds other files, or cannot be written.
    """
    check_folder_name(folder, error)
    if not write:
        return
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        # Hidden files are locks, and what another launch may be writing right now.
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
    """Checks before any work that a path can be an output folder, and that its name holds no secret.

    Raises:
        InputError: Of the given type, if it is a file, a broken link, too long, or looks like a secret.
    """
    kinds = find_secrets(folder.name, names=False)
    if kinds and not re.search("[0-9a-f]{40}", folder.name):  # that may be a commit hash
        raise error(f"--output_dir holds what looks like {' and '.join(kinds)}: choose another name.")
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.stat()  # fails if links form a loop, or the name is too long
        if folder.exists() and not folder.is_dir():
            raise error(f"{folder} is a file: --output_dir must be a folder, or not exist yet.")
        if folder.is_symlink() and not folder.exists():
            raise OSError(errno.ENOENT, "the link leads nowhere")
    except OSError as problem:
        raise error(f"{folder} cannot be a folder ({problem.strerror}): choose another --output_dir.") from None


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@contextmanager
def explain_write_errors(folder: Path, error: type[InputError], kept: str) -> Iterator[None]:
    """Turns a failure to write to a folder, such as a full disk, into an error of one sentence.

    Args:
        folder: The folder that is written to inside of the context.
        error: Type of the error to raise.
        kept: Which part of the work is kept, as the end of the sentence.

    Raises:
        InputError: Of the given type, if the folder could not be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as problem:
        if not (why := why_unwritable(folder, problem)):
            raise
        raise error(
            f"{folder} cannot be written any more ({why}): free some space or fix its permissions, then repeat the "
            f"command; {kept}."
        ) from problem


def why_unwritable(folder: Path, error: BaseException) -> str:
    """Why a folder could not be written, if that is what caused an error; empty for any other cause.

    If the folder is gone, every error counts. A full disk is an `OSError` only if Python itself writes: safetensors
    puts the error number into its message, and torch raises a `RuntimeError` about positions in a stream. After one of
    those, a test file is written.

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
