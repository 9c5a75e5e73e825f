"""Locks of a folder, so that processes and machines that share it do not do the same work twice."""

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
"""What a file system answers that has no locks, or none that hold, as buckets that are mounted and some NFS."""


_ONLY_WRITER: ContextVar[bool] = ContextVar("only_writer", default=False)


class NoFileLocks(InputError):
    """A folder whose file system has no locks: launches that share it could do the same work twice."""


@contextmanager
def only_writer(only: bool = True) -> Iterator[None]:
    """Within it, a folder without file locks is no error: one command alone is known to write it.

    Args:
        only: Whether that is known.
    """
    token = _ONLY_WRITER.set(only)
    try:
        yield
    finally:
        _ONLY_WRITER.reset(token)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Waits for a lock of a folder, and holds it.

    Raises:
        NoFileLocks: If its file system has none.
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
    """Tries to lock a piece of work for this launch, without waiting.

    The operating system holds the lock, so that it ends with the process that took it, also with one that is killed.
    Under several processes the main process takes it for all of them.

    Args:
        folder: The shared folder.
        name: Name of the work.

    Yields:
        Whether this launch holds the lock; False: another one does.

    Raises:
        NoFileLocks: If the folder's file system has none.
    """
    from accelerate import PartialState  # only where it is used: it imports torch

    process, lock = PartialState(), _lock(folder, name)
    acquired = process.is_main_process and _acquire(folder, lock)
    try:
        yield broadcast_from_main(acquired)
    finally:
        if acquired:
            lock.release()


def is_locked(folder: Path, *, besides: str = "") -> bool:
    """Whether a process holds any lock of a folder, as a launch does that works in it.

    Args:
        folder: The folder.
        besides: Name of a lock that does not count, for instance the caller's own.

    Raises:
        NoFileLocks: If the folder's file system has none.
    """
    for file in (folder / LOCKS_FOLDER).glob("*.lock"):
        if file.stem == besides:
            continue
        lock = _file_lock(file)
        try:
            if not _acquire(folder, lock):
                return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            continue  # a folder that may only be read: whether somebody works in it cannot be known
        lock.release()
    return False


def broadcast_from_main(value: bool) -> bool:
    """The main process's value, on every process: files may look different to the others at the same moment."""
    from accelerate.utils import broadcast_object_list  # as above

    return bool(broadcast_object_list([value])[0])


def _lock(folder: Path, name: str) -> FileLock:
    file = folder / LOCKS_FOLDER / f"{name}.lock"
    file.parent.mkdir(exist_ok=True)
    return _file_lock(file)


def _file_lock(file: Path) -> FileLock:
    # A lock that is a mere file would outlive a process that is killed.
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
        if _ONLY_WRITER.get():
            return
        why = os.strerror(number) if number else str(error)
        raise NoFileLocks(
            f"{folder} lies on a file system without file locks that hold ({why}), so launches that share it could "
            "make the same run twice: choose an --output_dir on a local disk; other machines make runs for it by "
            "--engine ray, or in folders of their own that hf-critmom merge joins."
        ) from error
