"""Creates the engine that the flags select."""

import os

import torch

from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.engines.errors import EngineError
from hf_critmom.engines.interface import Engine
from hf_critmom.engines.local import LocalEngine
from hf_critmom.storage.workers import check_workers


def select_engine(args: EngineArguments, *, workers: int, threads: int, on_cpu: bool = False) -> Engine:
    """Creates the engine that the flags select, without starting anything.

    Args:
        args: The flags.
        workers: Number of workers of the local engine.
        threads: Number of threads of each run.
        on_cpu: Whether no run may use an accelerator.

    Raises:
        InputError: If flags contradict each other or the launcher.
    """
    if not args.on_ray:
        check_workers(workers, threads)
        if workers == 1:
            torch.set_num_threads(threads)
        return LocalEngine(workers, threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise EngineError("--engine ray starts its own processes: start the command once, without a launcher.")
    if on_cpu and args.gpus_per_run:
        raise EngineError(
            f"--gpus_per_run {args.gpus_per_run:g} and --use_cpu contradict each other: leave one of them out."
        )
    from hf_critmom.engines.ray import RayEngine  # imported late: only this engine needs Ray
    from hf_critmom.engines.ray_cluster import Share

    torch.set_num_threads(threads)
    share = Share(args.cpus_per_run or threads, 0.0 if on_cpu else args.gpus_per_run)
    return RayEngine(args.ray_address, share, args.workers, threads)
