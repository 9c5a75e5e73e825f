"""Claims about locks: held locks are seen, and a file system without locks is one sentence that says what to do."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from hf_critmom.commands import main
from hf_critmom.storage.locks import NoFileLocksError, is_locked, locked, single_writer, try_lock


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with try_lock(tmp_path, "run") as acquired:
        assert acquired and is_locked(tmp_path)
        with try_lock(tmp_path, "run") as again, try_lock(tmp_path, "another") as other:
            assert not again and other
    with locked(tmp_path, "run"):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("name", ["ENOLCK", "EOPNOTSUPP", "EIO", "ENOSYS"])
def test_a_file_system_without_locks_is_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for lock in (locked, try_lock):
        with pytest.raises(NoFileLocksError, match=r"--engine ray.*hf-critmom merge"), lock(tmp_path, "run"):
            pass
    tiny = ("--max_train_samples", "64", "--max_eval_samples", "32", "--width", "2", "--evaluations_per_epoch", "1")
    if name == "EOPNOTSUPP":
        assert main(("compare", *tiny, "--use_cpu", "--output_dir", str(tmp_path / "out"))) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "working file locks (Operation not supported)" in line


def test_a_command_that_writes_alone_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with single_writer(), locked(tmp_path, "run"), try_lock(tmp_path, "another") as acquired:
        assert acquired
    with pytest.raises(NoFileLocksError), locked(tmp_path, "run"):
        pass


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No space left"), locked(tmp_path, "run"):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder_counts_as_unlocked(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path, "run"):
        assert is_locked(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert not is_locked(tmp_path)
