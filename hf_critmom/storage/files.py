"""Files that are written completely or not at all, and the folders that they are written to."""

import errno
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_critmom.errors import InputError


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yields a temporary file to write to, which then takes the name of ``file``: all of it appears, or nothing."""
    # Not the process's number: machines that share the folder may have processes of the same number.
    partial = file.with_name(f".{file.stem}.{uuid.uuid4().hex}.partial{file.suffix}")
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


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


def create_or_open_folder(folder: Path, kind: str, plan_file: str, error: type[InputError], *, write: bool) -> None:
    """Creates an output folder or opens one of the same kind; a folder with other files is refused.

    Of several processes one writes.

    Args:
        folder: The folder.
        kind: What is to be kept there, such as "comparison".
        plan_file: Name of the file that a folder of this kind holds from the first on.
        error: What is raised.
        write: Whether this process is the one that writes.

    Raises:
        InputError: Of the type given, if it holds other files, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise error(f"{folder} is a file: --output_dir must be a folder, or not exist yet.")
    if not write:
        return
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        # Hidden ones are locks, and what another launch may just be writing.
        if plan_file not in names and any(not name.startswith(".") for name in names):
            raise error(f"{folder} holds files, but no {kind}: choose an empty or new --output_dir.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise error(
            f"{folder} cannot be written ({problem.strerror}): choose an --output_dir where you may write."
        ) from None


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def why_unwritable(folder: Path, error: BaseException) -> str:
    """Why writing to a folder failed, if that is what an error means; empty if it is another error.

    A full disk reaches us as an `OSError` from Python's own writing only: safetensors gives the number within its
    text, and torch raises a `RuntimeError` about positions in a stream, upon which a file is tried.

    Args:
        folder: The folder that was written to.
        error: The error.
    """
    for number in _UNWRITABLE:
        if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
            return os.strerror(number)
    if isinstance(error, RuntimeError):
        try:
            with tempfile.TemporaryFile(dir=folder) as tried:
                tried.write(bytes(2**16))
                tried.flush()
                os.fsync(tried.fileno())
        except OSError as found:
            return found.strerror or str(found)
    return ""
