"""Claims about workers: they share out the work, take over from dead ones, and end with the command."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hf_critmom.errors import InputError
from hf_critmom.storage import run_folder
from hf_critmom.storage.run_folder import RunFolder, run_all
from hf_critmom.storage.workers import Send, WorkersDiedError, check_workers, run_in_workers, usable_cores


@pytest.fixture(autouse=True)
def fast_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "POLL_SECONDS", 0.05)


def divide(folder: Path, send: Send, *, dies_in: str = "", seconds: float = 0.05) -> None:
    def execute(run: str, at: RunFolder) -> None:
        send("begun", run)
        time.sleep(seconds)
        if run == dies_in and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        torch.manual_seed(ord(run))
        at.finish({"loss": torch.randn(64, 64).matmul(torch.randn(64, 64)).sum().item()})

    run_all(folder, "abcdef", path=lambda run: Path("runs", run), execute=execute)


def results(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("runs/*/result.json")}


def test_results_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    found = []
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        events = []
        run_in_workers(
            lambda send, folder=folder: divide(folder, send),
            workers=workers,
            on_event=lambda worker, *event, events=events: events.append((worker, *event)),
        )
        assert sorted(run for _, _, run in events) == list("abcdef")
        assert {worker for worker, _, _ in events} <= set(range(workers))
        found.append(results(folder))
    assert found[0] == found[1] == found[2] and len(found[0]) == 6


def test_the_run_of_a_dead_worker_is_taken_over(tmp_path: Path) -> None:
    died = []
    run_in_workers(
        lambda send: divide(tmp_path, send, dies_in="c"),
        workers=2,
        on_death=lambda worker, how: died.append(how),
    )
    assert len(results(tmp_path)) == 6 and died == ["killed (signal 9)"]


ENDS = {
    "killed (signal 9)": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "killed (signal 15)": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "ended (exit status 3)": lambda: sys.exit(3),
    "ended (exit status 0)": lambda: sys.exit(),
    "ended (exit status 4)": lambda: os._exit(4),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_worker_that_ends_before_its_work_is_done_has_died_however_it_ends(how: str, tmp_path: Path) -> None:
    def work(send: Send) -> None:
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:
            divide(tmp_path, send)
        else:
            ENDS[how]()

    died = []
    run_in_workers(work, workers=2, on_death=lambda worker, how: died.append(how))
    assert len(results(tmp_path)) == 6 and died == [how]
    with pytest.raises(WorkersDiedError, match=f"All 2 workers were {re.escape(how)}, .*fewer --workers"):
        run_in_workers(lambda send: ENDS[how](), workers=2)


def test_an_input_error_in_a_worker_is_raised_after_the_others_have_finished(tmp_path: Path) -> None:
    def work(send: Send) -> None:
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:
            divide(tmp_path, send)
        else:
            raise InputError("The disk is full: make room.")

    with pytest.raises(InputError, match="The disk is full"):
        run_in_workers(work, workers=2)
    assert len(results(tmp_path)) == 6


def test_another_error_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_in_workers(lambda send: send(1 // 0), workers=1)


PROGRAM = """
import sys, time
from pathlib import Path
from hf_critmom.storage.workers import run_in_workers
def work(send):
    import os
    Path(f"worker-{os.getpid()}").touch()
    time.sleep(60)
print("begun", flush=True)
try:
    run_in_workers(work, workers=2)
except KeyboardInterrupt:
    sys.exit(130)
"""


def default_sigint() -> None:
    """Background jobs of a shell ignore Ctrl-C, and children inherit that: restores the default."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_command(tmp_path: Path, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, stdout=subprocess.PIPE, preexec_fn=default_sigint
    )
    deadline = time.monotonic() + 60
    while len(found := list(tmp_path.glob("worker-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(found) == 2
    process.send_signal(sent)
    assert process.wait(30) == (130 if sent == signal.SIGINT else -9)
    for path in found:
        number = int(path.name.split("-")[1])
        while _runs(number) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _runs(number)


def _runs(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (-1, 1), (1, 0)])
def test_numbers_of_workers_out_of_range_are_refused(workers: int, threads: int) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        check_workers(workers, threads)


def test_workers_under_a_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_workers(1, 1)
    with pytest.raises(InputError, match="use --workers 1"):
        check_workers(2, 1)


def test_usable_cores_respect_the_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {0}); from hf_critmom.storage.workers import usable_cores as u; print(u())"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert finished.stdout.strip() == "1", finished.stderr
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
