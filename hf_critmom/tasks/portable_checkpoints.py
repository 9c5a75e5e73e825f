"""Checkpoints that carry their files to another machine."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TRAINING_STATE = (".pt", ".pth")
"""Endings of files that are needed only to resume training."""


class PortableCheckpoint:
    """A checkpoint that can be pickled: a local one with its files, one on the Hub by its name.

    Args:
        name: A folder, or a name on the Hub.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._files: dict[str, bytes] | None = None

    @contextmanager
    def located(self) -> Iterator[str]:
        """The folder or name from which this machine can load the checkpoint within the context."""
        if self._files is None:
            yield self.name
            return
        with tempfile.TemporaryDirectory(prefix="hf-critmom-", ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch, Path(self.name).name)
            folder.mkdir()
            for name, content in self._files.items():
                (folder / name).write_bytes(content)
            yield str(folder)

    def __getstate__(self) -> dict[str, Any]:
        folder, files = Path(self.name), self._files
        if files is None and folder.is_dir():
            found = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix not in _TRAINING_STATE]
            files = {file.name: file.read_bytes() for file in found}
        return {"name": self.name, "_files": files}
