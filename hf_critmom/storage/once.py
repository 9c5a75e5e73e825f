"""Values that several launches need, and one of them computes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState

from hf_critmom.storage.locks import broadcast_from_main, try_lock
from hf_critmom.storage.run_folder import POLL_SECONDS

Value = TypeVar("Value")


def compute_once(
    file: Path, *, compute: Callable[[], Value], write: Callable[[Value], object], read: Callable[[], Value]
) -> Value:
    """Reads a value from a file; if the file does not exist, one launch computes it first while the others wait.

    If that launch dies, another one takes over.

    Args:
        file: The file, in an experiment's folder.
        compute: Computes the value; called in every process of the launch.
        write: Writes the value to the file, completely or not at all; called in the main process.
        read: Reads the value from the file.

    Returns:
        The value that `read` returns.
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
        time.sleep(POLL_SECONDS)
    return read()
