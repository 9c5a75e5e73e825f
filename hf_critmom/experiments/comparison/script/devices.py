"""The GPUs that a run of a script can use, if several runs are made at the same time."""

import os
from dataclasses import dataclass

import torch

from hf_critmom.storage.workers import worker_number

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as `VISIBLE` names them; this does not initialize them."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(named[:count]) or tuple(map(str, range(count)))


@dataclass(frozen=True)
class Devices:
    """The GPUs of this machine, and how they are assigned to workers.

    The runs of a single worker see all GPUs that the user's environment shows: plain Python then trains on all of them
    with the Trainer's `DataParallel`. With several workers, each gets its own: one GPU for plain Python, an equal share
    for a launcher. If there are fewer GPUs than workers, workers share them.

    Attributes:
        workers: Number of runs that are made at the same time.
        has_launcher: Whether a launcher starts a run's processes.
        names: Names of the GPUs.
    """

    workers: int
    has_launcher: bool
    names: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """Environment variables that assign this worker's GPUs to a run; before there are workers, the first one's."""
        if self.workers < 2 or not self.names:
            return {}
        share = max(1, len(self.names) // self.workers) if self.has_launcher else 1
        first = (worker_number() or 0) * share % len(self.names)
        return {VISIBLE: ",".join(self.names[first : first + share])}
