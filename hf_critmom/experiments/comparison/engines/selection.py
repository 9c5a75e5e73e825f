"""The engine that a request asks for."""

import os

import torch

from hf_critmom.experiments.comparison.arguments import ComparisonArguments
from hf_critmom.experiments.comparison.engines.interface import Engine
from hf_critmom.experiments.comparison.engines.local import LocalEngine
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.storage.workers import check_workers


def select_engine(comparison: ComparisonArguments, *, workers: int, threads: int, on_cpu: bool = False) -> Engine:
    """The engine that flags ask for; nothing is started yet.

    Args:
        comparison: The flags.
        workers: Processes of the local engine.
        threads: Threads that each run computes with.
        on_cpu: Whether no run may use an accelerator.

    Raises:
        InputError: If they contradict each other.
    """
    if comparison.engine == "local":
        check_workers(workers, threads)
        if workers == 1:
            torch.set_num_threads(threads)
        return LocalEngine(workers, threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ComparisonError("--engine ray starts processes of its own: start the command once, without a launcher.")
    if on_cpu and comparison.gpus_per_run:
        raise ComparisonError(
            f"--gpus_per_run {comparison.gpus_per_run:g} and --use_cpu contradict each other: leave one of them out."
        )
    from hf_critmom.experiments.comparison.engines.ray import RayEngine  # its parts are needed by nobody else
    from hf_critmom.experiments.comparison.engines.ray_cluster import Share

    torch.set_num_threads(threads)
    share = Share(comparison.cpus_per_run or threads, 0.0 if on_cpu else comparison.gpus_per_run)
    return RayEngine(comparison.ray_address, share, comparison.workers, threads)
