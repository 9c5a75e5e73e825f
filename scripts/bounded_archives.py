"""Reads files from a ``.tar.gz`` archive up to a size limit, without unpacking it to disk or running any of it."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


class ArchiveTooLarge(ValueError):
    """An archive unpacks to more than its limit."""


class _Bounded:
    """The methods of a stream that `tarfile` needs, with a limit on the number of bytes that can be read."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.limit, self.left = stream, limit, limit

    def read(self, size: int) -> bytes:
        content = self.stream.read(min(size, self.left + 1))
        self.left -= len(content)
        if self.left < 0:
            raise ArchiveTooLarge(f"it unpacks to more than {self.limit / 2**20:,.0f} MiB")
        return content


def read_members(archive: Path, wanted: Callable[[str], bool], limit: int) -> dict[str, bytes]:
    """Reads selected members of a compressed archive.

    Args:
        archive: Path of the archive.
        wanted: Called with the name of each regular file in it; returns whether to read the file.
        limit: Largest unpacked size of the archive in bytes, including headers and skipped members.

    Returns:
        Contents by name; of members with the same name, the first.

    Raises:
        ArchiveTooLarge: If it unpacks to more than the limit.
    """
    members: dict[str, bytes] = {}
    with gzip.open(archive) as stream, tarfile.open(fileobj=_Bounded(stream, limit), mode="r|") as tar:
        for member in tar:
            if member.isfile() and member.name not in members and wanted(member.name):
                content = tar.extractfile(member)
                members[member.name] = content.read() if content else b""
    return members
