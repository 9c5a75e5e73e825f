"""Locks of a folder, so that processes and machines that share it do not do the same work twice."""

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
def try_lock(folder: Path, name: str) -> Iterator[bool]:
    """Tries to lock a piece of work for this launch, without waiting.

    The operating system holds the lock, so that it ends with the process that took it, also with one that is killed.
    Under several processes the main process takes it for all of them.

    Args:
        folder: The shared folder.
        name: Name of the work.

    Yields:
        Whether this launch holds the lock; False: another one does.
    """
    process, lock = PartialState(), _lock(folder, name)
    acquired = False
    if process.is_main_process:
        try:
            lock.acquire(blocking=False)
            acquired = True
        except Timeout:
            pass
    try:
        yield broadcast_from_main(acquired)
    finally:
        if acquired:
            lock.release()


def broadcast_from_main(value: bool) -> bool:
    """The main process's value, on every process: files may look different to the others at the same moment."""
    return bool(broadcast_object_list([value])[0])


def _lock(folder: Path, name: str) -> FileLock:
    file = folder / LOCKS_FOLDER / f"{name}.lock"
    file.parent.mkdir(exist_ok=True)
    return FileLock(file)
