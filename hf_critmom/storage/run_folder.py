"""Folders of runs: a run trains in its folder and writes its result last, and launches divide runs among themselves."""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hf_critmom.storage.checkpoint_folders import remove_checkpoints
from hf_critmom.storage.files import finite, write_json
from hf_critmom.storage.locks import broadcast_from_main, try_lock

RESULT_FILE = "result.json"
SECONDS_BETWEEN_LOOKS = 0.5

Run = TypeVar("Run", bound=Hashable)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, a Trainer's output folder with a result.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def result_file(self) -> Path:
        """The file whose presence says that the run is finished."""
        return self.path / RESULT_FILE

    def finished(self) -> bool:
        """Whether the run is finished, as the main process sees it."""
        return broadcast_from_main(self.result_file.exists())

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes the result, completely or not at all, and removes what only an unfinished run needs."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.result_file, finite(dict(result)))
        remove_checkpoints(self.path)


def run_all(
    folder: Path,
    runs: Iterable[Run],
    *,
    path: Callable[[Run], Path],
    execute: Callable[[Run, RunFolder], None],
    is_finished: Callable[[Run], bool] | None = None,
    finished: Callable[[Run, RunFolder, bool], None] = lambda run, run_folder, earlier: None,
    waiting: Callable[[int], None] = lambda number: None,
) -> None:
    """Makes those runs that nobody has made, and waits for those that other launches are making.

    A launch that dies leaves its run to the others.

    Args:
        folder: The experiment's folder, which launches share.
        runs: The runs, in the order in which they are made.
        path: A run's folder, relative to the experiment's.
        execute: Makes a run, including its result.
        is_finished: Whether a run is finished; by default, whether the result is in its folder.
        finished: Called with every run that is finished, and whether it was before.
        waiting: Called with the number of runs that are left to others, each time that nothing else is left.
    """
    left = list(runs)
    is_made = is_finished or (lambda run: RunFolder(folder / path(run)).finished())
    while left:
        remaining = []
        for run in left:
            run_folder = RunFolder(folder / path(run))
            if (earlier := _make(folder, run, run_folder, path(run), execute, is_made)) is None:
                remaining.append(run)
            else:
                finished(run, run_folder, earlier)
        if len(remaining) == len(left):
            waiting(len(remaining))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        left = remaining


def lock_name(path: Path) -> str:
    """Name of the lock under which a run is made.

    Args:
        path: The run's folder, relative to the experiment's.
    """
    return "-".join(path.parts)


def _make(
    folder: Path,
    run: Run,
    run_folder: RunFolder,
    path: Path,
    execute: Callable[[Run, RunFolder], None],
    is_finished: Callable[[Run], bool],
) -> bool | None:
    """Makes a run unless it is made; whether it was made earlier, or None if another launch is making it."""
    if is_finished(run):
        return True
    with try_lock(folder, lock_name(path)) as acquired:
        if not acquired:
            return None
        if is_finished(run):
            return True
        execute(run, run_folder)
    return False
