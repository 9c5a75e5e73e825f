"""Which accelerators the run of a script sees, where several runs are made at the same time."""

import os
from dataclasses import dataclass

import torch

from hf_critmom.storage.workers import worker_number

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as `VISIBLE` names them; none of them is initialized."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(named[:count]) or tuple(map(str, range(count)))


@dataclass(frozen=True)
class Devices:
    """The GPUs of this machine, which workers divide.

    A single worker leaves all of them to its runs, as the user's environment does: plain Python then trains on all by
    the Trainer's `DataParallel`. Of several workers each has its own, one for plain Python and an equal share for a
    launcher; where there are fewer GPUs than workers, they are shared.

    Attributes:
        workers: Runs that are made at the same time.
        has_launcher: Whether a launcher starts a run's processes.
        names: The GPUs.
    """

    workers: int
    has_launcher: bool
    names: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """Variables that give a run of this worker its GPUs; what is made before there are workers has the first's."""
        if self.workers < 2 or not self.names:
            return {}
        share = max(1, len(self.names) // self.workers) if self.has_launcher else 1
        first = (worker_number() or 0) * share % len(self.names)
        return {VISIBLE: ",".join(self.names[first : first + share])}
