"""Measures the overhead of ``--engine ray``: the same comparison with local workers and with Ray.

    python scripts/benchmark_ray.py

Each run trains on the embedded images for about ``--seconds`` seconds. For each number of workers, this prints runs per
hour with each engine, the overhead of Ray per run, in seconds and relative to the run, and the one-off cost of starting
Ray. With ``--queued N``, it also prints how the memory of the command grows while N very short runs are queued.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from command_line import positive_int

RUN = (
    *("compare", "--arms", "constant", "critmom", "--use_cpu", "--evaluations_per_epoch", "1", "--width", "4"),
    *("--max_train_samples", "512", "--max_eval_samples", "64"),
)


def compare(folder: Path, *flags: str) -> tuple[float, list[float], list[int]]:
    """Runs a comparison.

    Returns:
        Seconds of the command; seconds from its start to the end of each run, in order; and its memory in bytes, once
        per second.
    """
    started = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_critmom", *RUN, *flags, "--output_dir", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    memory: list[int] = []

    def watch() -> None:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                memory.append(watched.memory_full_info().uss)
            except psutil.Error:
                return
            time.sleep(1.0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.time() - started
    watcher.join()
    if process.returncode:
        sys.exit(f"The comparison failed:\n{errors}")
    finished = sorted(file.stat().st_mtime - started for file in folder.glob("runs/*/*/result.json"))
    return seconds, finished, memory


def seconds_per_run(finished: list[float], workers: int) -> float:
    """Median time from one run of a worker to its next, without the start-up of workers before the first ones."""
    return statistics.median(later - earlier for earlier, later in zip(finished, finished[workers:], strict=False))


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="training time per run; default: 60")
    parser.add_argument("--runs", type=positive_int, default=4, help="runs per worker, at least 2; default: 4")
    parser.add_argument("--workers", type=positive_int, nargs="+", default=[1, 2], help="numbers of workers")
    parser.add_argument("--queued", type=int, default=200, help="number of short runs to queue; 0: none; default: 200")
    args = parser.parse_args()
    if not 0.0 < args.seconds < math.inf or args.runs < 2 or args.queued < 0 or args.queued == 1:
        parser.error("--seconds must be positive, --runs at least 2, and --queued 0 or at least 2.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores ({platform.processor() or platform.machine()}), load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as scratch:
        epochs = calibrate(Path(scratch), args.seconds)
        print(f"runs of {epochs} epochs, {args.runs} per worker; the engines in turn")
        print(f"{'workers':>7}  {'engine':>6}  {'s a run':>8}  {'runs per hour':>13}  {'first run after, s':>18}")
        for workers in args.workers:
            found = {}
            for engine in ("local", "ray"):
                flags = ("--engine", engine, "--workers", str(workers), "--num_train_epochs", str(epochs))
                seeds = ("--num_seeds", str(max(1, args.runs * workers // 2)))
                _, finished, _ = compare(Path(scratch) / f"{engine}-{workers}", *flags, *seeds)
                found[engine] = seconds_per_run(finished, workers), finished[0]
                rate = 3600.0 * workers / found[engine][0]
                print(f"{workers:7d}  {engine:>6}  {found[engine][0]:8.2f}  {rate:13.0f}  {found[engine][1]:18.1f}")
            (local, local_start), (ray, ray_start) = found["local"], found["ray"]
            share, start = (ray - local) / local, ray_start - local_start
            print(f"         Ray: {ray - local:+.2f} s a run ({share:+.1%}), {start:+.1f} s once for its start")
        if args.queued:
            seeds = ("--num_seeds", str(args.queued // 2), "--num_train_epochs", "1", "--engine", "ray")
            seconds, finished, memory = compare(Path(scratch) / "queued", *seeds)
            settled = [used for used in memory if used > max(memory) / 2]
            early, late = settled[len(settled) // 4], settled[-1]
            print(
                f"{len(finished)} queued runs in {seconds:.0f} s: the command held {early / 2**20:.0f} MiB after a "
                f"quarter of the time and {late / 2**20:.0f} MiB at the end"
            )


def calibrate(scratch: Path, seconds: float) -> int:
    """Number of epochs for which a local run takes about this long."""
    folder = scratch / "calibration"
    compare(folder, "--num_seeds", "1", "--workers", "1", "--num_train_epochs", "10")
    result = json.loads(next(folder.glob("runs/*/*/result.json")).read_text())
    return max(1, round(seconds / result["wall_seconds"] * 10))


if __name__ == "__main__":
    main()
