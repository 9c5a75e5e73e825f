"""Workers: forked processes of one command that share out its runs by file locks, as several launches do.

Because of the locks (see `run_folder.run_all`), workers need not communicate, and if one dies, another takes over its
run. They are forked because they then share the code and data that the command has loaded; spawned processes would
load them again, which takes six seconds for the imports alone. A process that uses an accelerator cannot be forked, so
a command has one worker there.
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
"""Sends an event, which consists of picklable values, from a worker to the command."""

MAX_WORKERS = 1000
"""Largest number of workers, and of threads per worker, that is accepted."""

_number: int | None = None


def worker_number() -> int | None:
    """The number of this worker, from 0; None if this process is not a worker."""
    return _number


class WorkersDiedError(InputError):
    """All workers died before the work was done."""


def resolve_workers(requested: int | None, threads: int, num_jobs: int | None = None) -> int:
    """The number of workers: as requested, else as many as the usable cores allow; at most one per job.

    Args:
        requested: Value of ``--workers``; None if the flag is not given.
        threads: Number of threads of each worker.
        num_jobs: Number of jobs, if it is known.

    Raises:
        InputError: If a number of workers or threads is out of range.
    """
    for flag, value in (("workers", requested), ("threads_per_worker", threads)):
        if value is not None and not 1 <= value <= MAX_WORKERS:
            raise InputError(f"--{flag} must be at least 1 and at most {MAX_WORKERS:,}, got {value:,}.")
    workers = max(1, usable_cores() // threads) if requested is None else requested
    return workers if num_jobs is None else max(1, min(workers, num_jobs))


def check_workers(workers: int, threads: int) -> None:
    """Checks that this process can start a number of workers.

    Args:
        workers: Number of workers.
        threads: Number of threads of each.

    Raises:
        InputError: If it cannot, because of a launcher or an accelerator, or a number is below 1.
    """
    for flag, value in (("workers", workers), ("threads_per_worker", threads)):
        if value < 1:
            raise InputError(f"--{flag} must be at least 1, got {value}.")
    if workers == 1:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"--workers {workers} cannot be combined with a distributed launch, whose processes share each run: use "
            "--workers 1."
        )
    import torch  # imported late: an engine's workers may not need it

    if torch.cuda.is_initialized():
        raise InputError(
            f"--workers {workers} cannot share the accelerator that this process already uses: use --workers 1, and "
            "start the same command several times."
        )


def run_in_workers(
    work: Callable[[Send], None],
    *,
    workers: int,
    threads: int = 1,
    on_event: Callable[..., None] = lambda worker, *event: None,
    on_forked: Callable[[], None] = lambda: None,
    on_death: Callable[[int, str], None] = lambda worker, how: None,
) -> None:
    """Calls the same function in several workers, and waits for all of them.

    Args:
        work: The function; its argument is a function that sends events to this process.
        workers: Number of workers.
        threads: Number of torch's threads in each.
        on_event: Called in this process with a worker's number and each event that it sends. Each line that a worker
            writes to standard error is an event, too: ``"message"`` and the line.
        on_forked: Called in this process when all workers have been forked: threads may be started from now on.
        on_death: Called in this process with the number of a worker that was killed or exited before its function
            returned, and how, such as "killed (signal 9)".

    Raises:
        InputError: If the function raised one in a worker; the other workers finish first.
        WorkersDiedError: If all workers died.
        RuntimeError: If the function raised any other error; the message holds its traceback.
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
    died: list[str] = []
    on_forked()
    try:
        _handle_events(pool, on_event, on_death, errors, died)
    finally:
        _stop_workers(process for _, process in pool.values())
    if errors:
        raise errors[0]
    if len(died) == workers:
        who = "The worker was" if workers == 1 else f"All {workers} workers were"
        raise WorkersDiedError(
            f"{who} {died[0]}, perhaps because memory ran out, or because code that it ran ends its process: repeat "
            "the command with fewer --workers, or change that code; what is finished is kept."
        )


def _handle_events(
    pool: dict[Connection, tuple[int, BaseProcess]],
    on_event: Callable[..., None],
    on_death: Callable[[int, str], None],
    errors: list[Exception],
    died: list[str],
) -> None:
    """Handles events until every worker has ended; one that ends without saying why has died."""
    listening = dict(pool)
    explained: set[int] = set()
    while listening:
        for receiver in wait(list(listening)):
            assert isinstance(receiver, Connection)
            number, process = listening[receiver]
            try:
                kind, content = receiver.recv()
            except (EOFError, OSError):
                del listening[receiver]
                process.join()
                if number not in explained:
                    code = process.exitcode or 0
                    died.append(f"killed (signal {-code})" if code < 0 else f"ended (exit status {code})")
                    on_death(number, died[-1])
                continue
            if kind == "event":
                on_event(number, *content)
                continue
            explained.add(number)
            if kind == "refused":
                errors.append(content)
            elif kind == "failed":
                errors.append(RuntimeError(f"A worker failed:\n{content}"))


def _stop_workers(processes: Iterable[BaseProcess]) -> None:
    """Terminates the workers that are still running, and kills those that do not end within five seconds."""
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the command stops its workers
    signal.signal(signal.SIGTERM, _raise_terminated)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock:
            sender.send((kind, content))

    gc.freeze()  # keeps the memory of loaded objects shared with the other workers
    finish_relay = _relay_stderr(lambda line: send("event", ("message", line)))
    try:
        work(lambda *event: send("event", event))
        send("finished", None)
    except InputError as error:
        send("refused", error)
    except Exception:
        send("failed", traceback.format_exc())
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        finish_relay()
        sender.close()


def _relay_stderr(send: Callable[[str], None]) -> Callable[[], None]:
    """Sends what this process writes to standard error, line by line; returns a function that ends that."""
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
        os.close(2)  # ends the loop over lines
        thread.join(5.0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    return finish


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a worker after it has removed its partial files; code that it runs may raise SystemExit."""


def _raise_terminated(*_: Any) -> None:
    raise _Terminated


def _exit_with_parent(parent: int) -> None:
    """Exits when the command has ended, even if it was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
