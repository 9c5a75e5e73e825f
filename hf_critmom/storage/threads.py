"""The number of threads of each run: measured before it is fixed, because results depend on it in their last digits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hf_critmom.errors import InputError
from hf_critmom.storage.cores import usable_cores
from hf_critmom.storage.workers import run_in_workers

MIN_STEP_SECONDS = 0.25
"""Shortest training step whose kernels are large enough to be split over threads."""
MIN_SPEEDUP = 1.8
"""Speedup that a step needs to get twice as many threads; twice as many workers would speed up runs almost by 2."""


def choose_threads(measure: Callable[[], float], seconds: float | None = None, *, cores: int | None = None) -> int:
    """Chooses the number of threads of each run: doubles it while a step speeds up as much as with another worker.

    Each measurement is made in its own process, because one that has computed with several threads cannot be forked.

    Args:
        measure: Measures the seconds of a training step.
        seconds: The seconds of a step with one thread, if already measured.
        cores: Number of usable cores; None: those of this process.
    """
    cores = usable_cores() if cores is None else cores
    if cores < 2:
        return 1
    threads = 1
    seconds = _measured(measure, 1) if seconds is None else seconds
    while seconds >= MIN_STEP_SECONDS and 2 * threads <= cores:
        faster = _measured(measure, 2 * threads)
        if seconds < MIN_SPEEDUP * faster:
            break
        threads, seconds = 2 * threads, faster
    return threads


def resolve_threads(
    stored: int | None,
    requested: int | None,
    default: Callable[[], int],
    *,
    folder: Path,
    kind: str,
    error: type[InputError],
) -> int:
    """The number of threads of each run: the stored one, else that of the flag, else the default.

    Args:
        stored: The number in the plan of the experiment; None if it is new.
        requested: Value of ``--threads_per_worker``; None if the flag is not given.
        default: Called for the number if it is neither stored nor requested; may measure it with `choose_threads`.
        folder: The experiment's folder.
        kind: Kind of the experiment, such as "repair".
        error: Type of the error to raise.

    Raises:
        InputError: Of the given type, if the flag contradicts the plan.
    """
    if stored is not None and requested not in (None, stored):
        raise error(
            f"The {kind} in {folder} uses {stored} thread{'s' if stored > 1 else ''} per run, and results depend on "
            f"that number: leave --threads_per_worker {requested} out, or choose another --output_dir."
        )
    if stored is not None or requested is not None:
        return int(stored or requested or 1)
    return default()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Sets torch's number of threads until the end of the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(measure: Callable[[], float], threads: int) -> float:
    """Measures in a separate process with the given number of threads."""
    found: list[float] = []

    def handle(worker: int, kind: str, *content: object) -> None:
        if kind == "measured":
            found.append(float(str(content[0])))

    run_in_workers(lambda send: send("measured", measure()), workers=1, threads=threads, on_event=handle)
    return found[0]
