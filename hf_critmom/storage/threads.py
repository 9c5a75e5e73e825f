"""How many threads a run computes with: measured before it is fixed, for another number gives other last digits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hf_critmom.errors import InputError
from hf_critmom.storage.cores import usable_cores
from hf_critmom.storage.workers import run_in_workers

LEAST_SECONDS = 0.25
"""Of a step, below which it is made of kernels that are too small to be divided."""
LEAST_GAIN = 1.8
"""By how much a step has to be faster for twice as many threads; several runs at a time gain nearly twice."""


def choose_threads(measure: Callable[[], float], seconds: float | None = None, *, cores: int | None = None) -> int:
    """Threads for each run: twice as many while a step gains from that what another worker would bring.

    Each measurement is made in a process of its own, since one that has computed with several threads cannot be forked.

    Args:
        measure: Measures the seconds of a step.
        seconds: What it measures with one thread, where that is known.
        cores: Cores that may be used; None: those of this process.
    """
    cores = usable_cores() if cores is None else cores
    if cores < 2:
        return 1
    threads = 1
    seconds = _measured(measure, 1) if seconds is None else seconds
    while seconds >= LEAST_SECONDS and 2 * threads <= cores:
        faster = _measured(measure, 2 * threads)
        if seconds < LEAST_GAIN * faster:
            break
        threads, seconds = 2 * threads, faster
    return threads


def settle_threads(
    stored: int | None,
    wanted: int | None,
    measure: Callable[[], float] | None,
    *,
    folder: Path,
    kind: str,
    error: type[InputError],
) -> int:
    """Threads that each run of an experiment computes with: those of its folder, the flag's, else as measured.

    Args:
        stored: The number that the experiment in the folder computes with, if there is one.
        wanted: What ``--threads_per_worker`` says.
        measure: See `choose_threads`; None: nothing is measured, and it is this process's number.
        folder: The folder.
        kind: What it holds, such as "repair".
        error: What is raised.

    Raises:
        InputError: If the flag contradicts the folder: another number of threads gives other results.
    """
    if stored is not None and wanted not in (None, stored):
        raise error(
            f"The {kind} in {folder} computes with {stored} thread{'s' if stored > 1 else ''}, and another number "
            f"gives other results: leave --threads_per_worker {wanted} out, or choose another --output_dir."
        )
    if stored is not None or wanted is not None:
        return int(stored or wanted or 1)
    return torch.get_num_threads() if measure is None else choose_threads(measure)


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Within it, this process computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(measure: Callable[[], float], threads: int) -> float:
    """What is measured in a process of its own with so many threads."""
    found: list[float] = []

    def handle(worker: int, kind: str, *content: object) -> None:
        if kind == "measured":
            found.append(float(str(content[0])))

    run_in_workers(lambda send: send("measured", measure()), workers=1, threads=threads, handle=handle)
    return found[0]
