"""Claims on work, so that processes and machines that share a folder do not do the same twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

LOCKS_FOLDER = ".locks"


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Waits for a lock of a folder, and holds it."""
    with _lock(folder, name).acquire():
        yield


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Tries to claim a piece of work for this launch.

    The operating system holds the claim, so that it ends with the process that made it, also with one that is killed.
    Under several processes the main process claims for all of them.

    Args:
        folder: The shared folder.
        name: What is claimed.

    Yields:
        Whether the claim succeeded; False: another launch holds it.
    """
    process, lock = PartialState(), _lock(folder, name)
    mine = False
    if process.is_main_process:
        try:
            lock.acquire(blocking=False)
            mine = True
        except Timeout:
            pass
    try:
        yield told_by_main(mine)
    finally:
        if mine:
            lock.release()


def told_by_main(value: bool) -> bool:
    """What the main process says: files may look different to the others at the same moment."""
    return bool(broadcast_object_list([value])[0])


def _lock(folder: Path, name: str) -> FileLock:
    file = folder / LOCKS_FOLDER / f"{name}.lock"
    file.parent.mkdir(exist_ok=True)
    return FileLock(file)
