"""File locks, so that processes and machines that share a folder do not do the same work twice."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from hf_critmom.errors import InputError

LOCKS_FOLDER = ".locks"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.ENOSYS)
"""Errors of file systems without reliable locks, such as mounted buckets and some NFS servers."""

_SINGLE_WRITER: ContextVar[bool] = ContextVar("single_writer", default=False)


class NoFileLocksError(InputError):
    """A folder's file system has no file locks: launches that share it could do the same work twice."""


@contextmanager
def single_writer(single: bool = True) -> Iterator[None]:
    """Inside of this context, missing file locks are no error, because a single command writes the folder.

    Args:
        single: Whether that is known to be so.
    """
    token = _SINGLE_WRITER.set(single)
    try:
        yield
    finally:
        _SINGLE_WRITER.reset(token)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Waits for a lock in a folder, and holds it.

    Raises:
        NoFileLocksError: If the folder's file system has no file locks.
    """
    lock = _lock(folder, name)
    with _explain(folder):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def try_lock(folder: Path, name: str) -> Iterator[bool]:
    """Tries to acquire a lock for this launch, without waiting.

    The operating system releases the lock when the process that holds it ends, even if it is killed. In a distributed
    launch, the main process acquires the lock for all processes.

    Args:
        folder: The shared folder.
        name: Name of the lock.

    Yields:
        Whether this launch holds the lock; False if another one does.

    Raises:
        NoFileLocksError: If the folder's file system has no file locks.
    """
    from accelerate import PartialState  # imported late, because it imports torch

    process, lock = PartialState(), _lock(folder, name)
    acquired = process.is_main_process and _acquire(folder, lock)
    try:
        yield broadcast_from_main(acquired)
    finally:
        if acquired:
            lock.release()


def is_locked(folder: Path, *, ignore: str = "") -> bool:
    """Whether any process holds a lock in a folder, as every launch does that works in it.

    Args:
        folder: The folder.
        ignore: Name of a lock that does not count, such as the caller's own.

    Raises:
        NoFileLocksError: If the folder's file system has no file locks.
    """
    for file in (folder / LOCKS_FOLDER).glob("*.lock"):
        if file.stem == ignore:
            continue
        lock = _file_lock(file)
        try:
            if not _acquire(folder, lock):
                return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            continue  # in a read-only folder, this cannot be known
        lock.release()
    return False


def broadcast_from_main(value: bool) -> bool:
    """Broadcasts the main process's value, for decisions on files, which processes may see at different moments."""
    from accelerate.utils import broadcast_object_list  # imported late, because it imports torch

    return bool(broadcast_object_list([value])[0])


def _lock(folder: Path, name: str) -> FileLock:
    file = folder / LOCKS_FOLDER / f"{name}.lock"
    file.parent.mkdir(exist_ok=True)
    return _file_lock(file)


def _file_lock(file: Path) -> FileLock:
    # A soft lock, which is a mere file, would outlive a killed process.
    return FileLock(file, fallback_to_soft=False)


def _acquire(folder: Path, lock: FileLock) -> bool:
    try:
        with _explain(folder):
            lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


@contextmanager
def _explain(folder: Path) -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", None)
        if isinstance(error, OSError) and number not in _NO_LOCKS:
            raise
        if _SINGLE_WRITER.get():
            return
        why = os.strerror(number) if number else str(error)
        raise NoFileLocksError(
            f"{folder} is on a file system without working file locks ({why}), so launches that share it could repeat "
            "each other's runs: choose an --output_dir on a local disk. Other machines can help with --engine ray, or "
            "with a folder of their own, which hf-critmom merge joins."
        ) from error
