"""Files that are written whole or not at all, in folders that belong to nobody else."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_critmom.errors import InputError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all: into a neighbour that then takes the name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def claim_folder(folder: Path, kind: str, error: type[InputError], *, write: bool) -> None:
    """Makes an output folder that does not hold results of its kind yet; several processes may ask, one writes.

    Args:
        folder: The folder.
        kind: What is to be kept there, such as "comparison".
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
        if folder.is_dir() and any(folder.iterdir()):
            raise error(f"{folder} holds files, but no {kind}: choose an empty or new --output_dir.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise error(
            f"{folder} cannot be written ({problem.strerror}): choose an --output_dir where you may write."
        ) from None
