"""Claims about writing: completely or not at all, leftovers are removed, and failures to write are one sentence."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_critmom.errors import InputError
from hf_critmom.storage.files import atomic_write, explain_write_errors, remove_partial_files, write_json


class SampleError(InputError):
    pass


def partial_files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*.partial*")]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a.json") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert "old" in (tmp_path / "a.json").read_text() and not partial_files(tmp_path)


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from hf_critmom.storage.files import atomic_write\n"
        f"with atomic_write(pathlib.Path({str(tmp_path / 'below' / 'b.json')!r})) as partial:\n"
        "    partial.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "below").mkdir()
    (tmp_path / ".notes").write_text("the user's own")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        remove_partial_files(tmp_path)
        assert len(partial_files(tmp_path)) == 1
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    remove_partial_files(tmp_path)
    assert not partial_files(tmp_path) and (tmp_path / ".notes").exists()


def test_a_full_disk_and_a_missing_folder_are_one_sentence_and_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"No space left.*; nothing is lost"):  # noqa: SIM117
        with explain_write_errors(tmp_path, SampleError, "nothing is lost"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), explain_write_errors(tmp_path, SampleError, "nothing is lost"):
        (tmp_path / "nothing").read_text()
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(SampleError, match="it was removed"):  # noqa: SIM117
        with explain_write_errors(folder, SampleError, "nothing is lost"):
            shutil.rmtree(folder)
            write_json(folder / "a.json", {})
