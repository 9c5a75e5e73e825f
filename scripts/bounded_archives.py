"""Files out of a ``.tar.gz`` archive, read up to a limit; nothing is unpacked to disk, and nothing of it is run."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


class ArchiveTooLarge(ValueError):
    """An archive that holds more than it may."""


class _Bounded:
    """The part of a stream that `tarfile` needs, of which no more than a number of bytes can be read."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.limit, self.left = stream, limit, limit

    def read(self, size: int) -> bytes:
        content = self.stream.read(min(size, self.left + 1))
        self.left -= len(content)
        if self.left < 0:
            raise ArchiveTooLarge(f"it unpacks to more than {self.limit / 2**20:,.0f} MiB")
        return content


def read_members(archive: Path, wanted: Callable[[str], bool], limit: int) -> dict[str, bytes]:
    """Reads some members of a compressed archive.

    Args:
        archive: Path of the archive.
        wanted: Called with the name of each regular file in it; whether the file is read.
        limit: Bytes that the archive may unpack to, with the members that are passed over and all headers.

    Returns:
        The contents by name; of several members of one name, the first.

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
