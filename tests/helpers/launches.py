"""Launches of the command line as processes of their own, forked from one that has imported everything already."""

import ctypes
import gc
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["transformers.trainer", "hf_critmom.experiments.comparison.running.execution"])

MEASURED = ("seconds", "train_seconds", "trainer_seconds", "wall_seconds", "load")
"""What a result holds that a clock has measured."""


def has_saved(run: Path) -> bool:
    """Whether a run's folder holds a checkpoint that was written to its end."""
    for state in run.glob("checkpoint-*/trainer_state.json"):
        try:
            json.loads(state.read_text())
        except (OSError, ValueError):
            continue
        return True
    return False


def launch(
    *words: str,
    said: Path,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], Any] | None = None,
) -> BaseProcess:
    """Starts ``hf-critmom`` with these words.

    Args:
        *words: The words behind the program's name.
        said: Receives what it prints.
        environment: Variables over those of this process.
        before: What runs in the process first.
    """
    process = FORKSERVER.Process(target=_main, args=(words, said, dict(environment or {}), before))
    process.start()
    return process


def _main(words: tuple[str, ...], said: Path, environment: dict[str, str], before: Callable[[], Any] | None) -> None:
    main = _settled(said, environment)
    if before is not None:
        before()
    sys.exit(main(words))


def _settled(said: Path, environment: dict[str, str]) -> Callable[[Sequence[str]], int]:
    """The program, in a process that is as those of a shell would be."""
    os.environ.update(CUDA_VISIBLE_DEVICES="", COLUMNS="300", **environment)
    with said.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    from hf_critmom.commands import main

    torch.set_num_threads(1)
    gc.freeze()
    return main


def status_of(process: BaseProcess, timeout: float = 300.0) -> int | None:
    """The exit status of a launch that has to end; minus the signal's number if it was killed."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the launch does not end")
    return process.exitcode


def wait_until(happened: Callable[[], object], *processes: BaseProcess, timeout: float = 300.0) -> None:
    """Waits for something that launches do while they run."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert all(process.is_alive() for process in processes) and time.monotonic() < deadline
        time.sleep(0.002)


def without_seconds(value: Any) -> Any:
    """A result, or a part of it, without what a clock measured."""
    if isinstance(value, dict):
        return {name: without_seconds(item) for name, item in value.items() if name not in MEASURED}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything of a comparison that has to be the same however it was made: results, weights, all to the bit."""
    results = {
        str(file.relative_to(folder)): without_seconds(json.loads(file.read_text()))
        for file in folder.glob("runs/**/result.json")
    }
    weights = {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("runs/**/*.safetensors")}
    return {**results, **weights}


# ------------------------------------------------------------------------------------------------------- a small disk

NOT_PERMITTED = 77


def launch_on_a_small_disk(
    disk: Path, steps: Sequence[tuple[str, Sequence[str]]], *, said: Path, kept: Path
) -> BaseProcess:
    """Starts a process that sees a file system of its own at `disk`, and runs the program in it step by step.

    Args:
        disk: An empty folder.
        steps: Options that tmpfs is mounted (and then remounted) with, such as ``size=100k``, and the words of the
            command that follows.
        said: Receives what is printed, with a line ``--- STATUS`` behind each command.
        kept: Receives a copy of the disk, and ``statuses.json``.

    Returns:
        The process, whose status is `NOT_PERMITTED` where a user may not mount.
    """
    process = FORKSERVER.Process(target=_on_a_small_disk, args=(disk, list(steps), said, kept))
    process.start()
    return process


def _on_a_small_disk(disk: Path, steps: list[tuple[str, list[str]]], said: Path, kept: Path) -> None:
    main = _settled(said, {})
    new_mounts, new_users, remount, private = 0x20000, 0x10000000, 0x20, 0x44000  # linux/sched.h, linux/mount.h
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.geteuid()
    if libc.unshare(new_mounts | (new_users if user else 0)):
        sys.exit(NOT_PERMITTED)
    if user:
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    if libc.mount(b"none", b"/", None, private, None):
        sys.exit(NOT_PERMITTED)
    statuses = []
    for number, (options, words) in enumerate(steps):
        flags = (remount if number else 0) | ("ro" in options.split(","))
        sizes = ",".join(option for option in options.split(",") if option.startswith("size="))
        if libc.mount(b"none", str(disk).encode(), b"tmpfs", flags, sizes.encode()):
            sys.exit(NOT_PERMITTED)
        statuses.append(main(words))
        print(f"--- {statuses[-1]}", flush=True)
    shutil.copytree(disk, kept)
    (kept / "statuses.json").write_text(json.dumps(statuses))
