"""Workers: forked processes of one command that divide its runs by their claims, as several launches do.

Runs are claimed by file locks (`run_folder.run_all`), so workers need nothing of each other, and one that dies leaves
its run to the others. They are forked, because data and code that the command has loaded are then there at once and
shared; a pool of spawned processes would load them again, six seconds for the imports alone. A process that holds an
accelerator cannot be forked: there a command has one worker.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from hf_critmom.errors import InputError
from hf_critmom.storage.cores import usable_cores

Send = Callable[..., None]
"""Sends an event, of values that can be pickled, from a worker to the command."""


MOST_WORKERS = 1000
"""And threads of each, that anybody means."""


_number: int | None = None


def worker_number() -> int | None:
    """Number of the worker that this process is, from 0; None in any other process."""
    return _number


class WorkersDied(InputError):
    """Every worker died before the work was done."""


def settle_workers(wanted: int | None, threads: int, work: int | None = None) -> int:
    """Processes that work at the same time: one for each core, or as many as are wanted; never more than there is work.

    Args:
        wanted: The number on the command line; None: none was given.
        threads: Threads of each.
        work: Pieces of work, where the number is known.

    Raises:
        InputError: If one of them is no number of workers or threads.
    """
    for flag, value in (("workers", wanted), ("threads_per_worker", threads)):
        if value is not None and not 1 <= value <= MOST_WORKERS:
            raise InputError(f"--{flag} must be at least 1 and at most {MOST_WORKERS:,}, got {value:,}.")
    workers = max(1, usable_cores() // threads) if wanted is None else wanted
    return workers if work is None else max(1, min(workers, work))


def check_workers(workers: int, threads: int) -> None:
    """Checks that a command can have workers.

    Args:
        workers: Number of workers.
        threads: Threads of each.

    Raises:
        InputError: If it cannot.
    """
    for flag, value in (("workers", workers), ("threads_per_worker", threads)):
        if value < 1:
            raise InputError(f"--{flag} must be at least 1, got {value}.")
    if workers == 1:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"--workers {workers} under a launcher of several processes: these share each run, so use --workers 1."
        )
    import torch  # only where it is used: workers of an engine may compute without

    if torch.cuda.is_initialized():
        raise InputError(
            f"--workers {workers} cannot share an accelerator that this process has begun to use: use --workers 1, and "
            "start the same command several times."
        )


def run_in_workers(
    work: Callable[[Send], None],
    *,
    workers: int,
    threads: int = 1,
    handle: Callable[..., None] = lambda worker, *event: None,
    forked: Callable[[], None] = lambda: None,
    died: Callable[[int, int], None] = lambda worker, signal_number: None,
) -> None:
    """Does the same work in several workers, and waits for all of them.

    Args:
        work: What each worker does; it is given a function that sends events to this process.
        workers: Number of workers.
        threads: Threads that each computes with.
        handle: Called in this process with a worker's number and each event that it sends; lines that it writes to
            standard error are events, too: ``"said"`` and the line.
        forked: Called in this process when all workers are there: what needs a thread may begin.
        died: Called with the number of a worker that was killed, and the signal.

    Raises:
        InputError: If the work raised one in a worker; the other workers went on first.
        WorkersDied: If all workers were killed.
        RuntimeError: If the work raised another error, with its traceback.
    """
    context = multiprocessing.get_context("fork")
    pool: dict[Connection, tuple[int, BaseProcess]] = {}
    for number in range(workers):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(work, number, sender, threads, os.getpid()), name=f"worker-{number}"
        )
        process.start()
        sender.close()
        pool[receiver] = (number, process)
    errors: list[Exception] = []
    killed: list[int] = []
    forked()
    try:
        _attend(pool, handle, died, errors, killed)
    finally:
        _stop(process for _, process in pool.values())
    if errors:
        raise errors[0]
    if len(killed) == workers:
        raise WorkersDied(
            f"All {workers} workers were killed (signal {killed[0]}), perhaps since memory ran out: repeat the command "
            "with fewer --workers; what is finished is kept."
        )


def _attend(
    pool: dict[Connection, tuple[int, BaseProcess]],
    handle: Callable[..., None],
    died: Callable[[int, int], None],
    errors: list[Exception],
    killed: list[int],
) -> None:
    """Handles events until every worker has ended."""
    listening = dict(pool)
    while listening:
        for receiver in wait(list(listening)):
            assert isinstance(receiver, Connection)
            number, process = listening[receiver]
            try:
                kind, content = receiver.recv()
            except (EOFError, OSError):
                del listening[receiver]
                process.join()
                if process.exitcode is not None and process.exitcode < 0:
                    killed.append(-process.exitcode)
                    died(number, -process.exitcode)
                continue
            if kind == "event":
                handle(number, *content)
            elif kind == "refused":
                errors.append(content)
            else:
                errors.append(RuntimeError(f"A worker failed:\n{content}"))


def _stop(processes: Iterable[BaseProcess]) -> None:
    """Ends the workers that are left: first so that they can clean up, then by force."""
    left = [process for process in processes if process.is_alive()]
    for process in left:
        process.terminate()
    deadline = time.monotonic() + 5.0
    for process in left:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _work(work: Callable[[Send], None], number: int, sender: Connection, threads: int, parent: int) -> None:
    global _number
    _number = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the command ends its workers
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock:
            sender.send((kind, content))

    gc.freeze()  # what was loaded before stays shared with the other workers
    said = _relay_errors(lambda line: send("event", ("said", line)))
    try:
        work(lambda *event: send("event", event))
    except InputError as error:
        send("refused", error)
    except Exception:
        send("failed", traceback.format_exc())
    finally:
        said()
        sender.close()


def _relay_errors(send: Callable[[str], None]) -> Callable[[], None]:
    """Sends what this process writes to standard error line by line; what is returned sends the rest."""
    receiving, writing = os.pipe()
    sys.stderr.flush()
    os.dup2(writing, 2)
    os.close(writing)

    def relay() -> None:
        with os.fdopen(receiving, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    send(line.rstrip("\n"))

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()

    def finish() -> None:
        sys.stderr.flush()
        os.close(2)  # the end of the lines
        thread.join(5.0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    return finish


def _leave(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _end_with(parent: int) -> None:
    """Ends this process when the command has ended, also if that was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
