"""Flags of the engines, which every command with many runs has."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from hf_critmom.engines.errors import EngineError
from hf_critmom.storage.workers import MAX_WORKERS

ENGINES = ("local", "ray")


@dataclass
class EngineArguments:
    """Flags that choose where the runs of an experiment are executed, and how many at the same time."""

    _argument_group_name: ClassVar[str] = (
        "workers and machines (a run: an arm with a seed, an attribution, or a repair)"
    )

    workers: int | None = field(
        default=None,
        metadata={
            "help": "Number of runs at the same time, each in its own process; results do not depend on it. Default: "
            "as many as the usable cores allow, and 1 on an accelerator."
        },
    )
    threads_per_worker: int | None = field(
        default=None,
        metadata={
            "help": "Number of CPU threads of each run; results depend on it in their last digits. Default: 1, or more "
            "if a short benchmark shows that steps speed up almost in proportion."
        },
    )
    engine: str = field(
        default="local",
        metadata={
            "metavar": "|".join(ENGINES),
            "help": "Where the runs are executed: local, in processes on this machine; or ray, on a Ray cluster, whose "
            "machines need the same packages and data, but not the output folder.",
        },
    )
    ray_address: str | None = field(
        default=None,
        metadata={
            "help": "Address of the Ray cluster that this machine belongs to, HOST:PORT or auto; default: a cluster is "
            "started on this machine, and stopped at the end."
        },
    )
    gpus_per_run: float | None = field(
        default=None,
        metadata={
            "help": "Number of GPUs per run with --engine ray; with 0.25, four runs share a GPU. Default: 1 if the "
            "cluster has any."
        },
    )
    cpus_per_run: float | None = field(
        default=None,
        metadata={"help": "Number of CPUs per run with --engine ray; default: --threads_per_worker."},
    )

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise EngineError(f"--engine must be one of {', '.join(ENGINES)}, got {self.engine!r}.")
        for flag in ("ray_address", "gpus_per_run", "cpus_per_run"):
            if getattr(self, flag) is not None and self.engine != "ray":
                raise EngineError(f"--{flag} applies only to --engine ray: give that, too, or leave it out.")
        if self.cpus_per_run is not None and not 0.0 < self.cpus_per_run < math.inf:
            raise EngineError(f"--cpus_per_run must be positive, got {self.cpus_per_run:g}.")
        gpus = self.gpus_per_run
        if gpus is not None and not (0.0 <= gpus <= 1.0 or (1.0 < gpus < math.inf and gpus.is_integer())):
            raise EngineError(
                f"--gpus_per_run must be a share of one GPU, such as 0.25, or a whole number, got {gpus:g}."
            )
        for flag in ("workers", "threads_per_worker"):
            value = getattr(self, flag)
            if value is not None and not 1 <= value <= MAX_WORKERS:
                raise EngineError(f"--{flag} must be at least 1 and at most {MAX_WORKERS:,}, got {value:,}.")

    @property
    def on_ray(self) -> bool:
        """Whether the runs are executed on a Ray cluster."""
        return self.engine == "ray"
