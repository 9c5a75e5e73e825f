"""Work that several launches may come to, and one of them does."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState

from hf_critmom.storage.locks import broadcast_from_main, try_lock
from hf_critmom.storage.run_folder import SECONDS_BETWEEN_LOOKS

Value = TypeVar("Value")


def compute_once(
    file: Path, *, compute: Callable[[], Value], write: Callable[[Value], object], read: Callable[[], Value]
) -> Value:
    """What a file holds; if there is none it is computed and written, by one launch while the others wait.

    A launch that dies leaves the work to the others.

    Args:
        file: The file, in an experiment's folder.
        compute: Computes the value, in every process of the launch.
        write: Stores it in the file, completely or not at all; called in the main process.
        read: Reads it back.
    """
    while not broadcast_from_main(file.exists()):
        with try_lock(file.parent, file.stem) as acquired:
            if acquired:
                if not broadcast_from_main(file.exists()):
                    value = compute()
                    if PartialState().is_main_process:
                        write(value)
                    PartialState().wait_for_everyone()
                continue
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return read()
