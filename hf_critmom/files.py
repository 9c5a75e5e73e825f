"""Files that are written whole or not at all, and folders that cannot be written."""

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Gives a neighbour to write to, which then takes the name: the file appears whole or not at all."""
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
    """Writes JSON whole or not at all."""
    with written_whole(file) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


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
