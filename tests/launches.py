"""Launches of the command line as processes of their own, forked from one that has imported everything already."""

import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["hf_critmom.cli"])


def launch(*words: str, said: Path, before: Callable[[], None] | None = None) -> BaseProcess:
    """Starts ``hf-critmom`` with these words; `said` receives what it prints, `before` runs in the process first."""
    process = FORKSERVER.Process(target=_main, args=(words, said, before))
    process.start()
    return process


def _main(words: tuple[str, ...], said: Path, before: Callable[[], None] | None) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with said.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    from hf_critmom.cli import main

    torch.set_num_threads(1)
    gc.freeze()
    if before is not None:
        before()
    sys.exit(main(words))


def status_of(process: BaseProcess, timeout: float = 300.0) -> int | None:
    """The exit status of a launch that has to end, minus the signal's number if it was killed."""
    process.join(timeout)
    assert process.exitcode is not None, "the launch does not end"
    return process.exitcode


def wait_until(happened: Callable[[], object], *processes: BaseProcess, timeout: float = 300.0) -> None:
    """Waits for something that launches do while they run."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert all(process.is_alive() for process in processes) and time.monotonic() < deadline
        time.sleep(0.002)
