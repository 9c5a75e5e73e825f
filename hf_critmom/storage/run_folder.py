"""Run folders: a run trains in its own folder and writes its result last, and launches share out the runs."""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hf_critmom.storage.checkpoint_folders import remove_checkpoints
from hf_critmom.storage.files import replace_non_finite, write_json
from hf_critmom.storage.locks import broadcast_from_main, try_lock

RESULT_FILE = "result.json"
POLL_SECONDS = 0.5
"""Interval at which a process checks whether others have finished."""

Run = TypeVar("Run", bound=Hashable)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: a Trainer's output folder with a result file.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def result_file(self) -> Path:
        """The result file, which exists if and only if the run is finished."""
        return self.path / RESULT_FILE

    def finished(self) -> bool:
        """Whether the run is finished, as the main process sees it."""
        return broadcast_from_main(self.result_file.exists())

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes the result, completely or not at all, and removes the checkpoints."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.result_file, replace_non_finite(dict(result)))
        remove_checkpoints(self.path)


def run_all(
    folder: Path,
    runs: Iterable[Run],
    *,
    path: Callable[[Run], Path],
    execute: Callable[[Run, RunFolder], None],
    is_finished: Callable[[Run], bool] | None = None,
    on_finished: Callable[[Run, RunFolder, bool], None] = lambda run, run_folder, earlier: None,
    on_waiting: Callable[[int], None] = lambda number: None,
) -> None:
    """Executes the unfinished runs, and waits for those that other launches are executing.

    If a launch dies, another one takes over its run.

    Args:
        folder: The experiment's folder, which launches share.
        runs: The runs, in the order in which they are started.
        path: Maps a run to its folder, relative to the experiment's.
        execute: Executes a run, and stores its result.
        is_finished: Whether a run is finished; by default, whether its folder holds a result.
        on_finished: Called with each finished run, its folder, and whether it was finished before this call.
        on_waiting: Called with the number of runs left, each time that all of them are being executed by others.
    """
    left = list(runs)
    check_finished = is_finished or (lambda run: RunFolder(folder / path(run)).finished())
    while left:
        remaining = []
        for run in left:
            run_folder = RunFolder(folder / path(run))
            if (earlier := _execute(folder, run, run_folder, path(run), execute, check_finished)) is None:
                remaining.append(run)
            else:
                on_finished(run, run_folder, earlier)
        if len(remaining) == len(left):
            on_waiting(len(remaining))
            time.sleep(POLL_SECONDS)
        left = remaining


def lock_name(path: Path) -> str:
    """Name of the lock that a launch holds while it executes a run.

    Args:
        path: The run's folder, relative to the experiment's.
    """
    return "-".join(path.parts)


def _execute(
    folder: Path,
    run: Run,
    run_folder: RunFolder,
    path: Path,
    execute: Callable[[Run, RunFolder], None],
    is_finished: Callable[[Run], bool],
) -> bool | None:
    """Executes a run if it is unfinished; returns whether it already was, or None if another launch executes it."""
    if is_finished(run):
        return True
    with try_lock(folder, lock_name(path)) as acquired:
        if not acquired:
            return None
        if is_finished(run):
            return True
        execute(run, run_folder)
    return False
