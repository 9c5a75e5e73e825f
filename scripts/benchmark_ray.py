"""What ``--engine ray`` costs and brings: the same comparison by local workers and by Ray, measured in one go.

Runs are of ``--seconds`` seconds of training (default: 60) with the embedded images. Printed are, for one and two
workers, runs per hour by each engine; what a run takes longer by Ray than by a local worker once the workers are there,
in seconds and as a share of the run; what starting Ray costs a command once; and, with ``--queued N``, by how much the
memory of a command grows that has N runs of a few steps made.
"""

import argparse
import json
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

RUN = (
    *("compare", "--arms", "constant", "critmom", "--use_cpu", "--evaluations_per_epoch", "1", "--width", "4"),
    *("--max_train_samples", "512", "--max_eval_samples", "64"),
)


def command(folder: Path, *words: str) -> tuple[float, list[float], list[int]]:
    """Makes a comparison.

    Returns:
        Seconds of the command, when after its beginning each run was finished, and its memory in bytes every second.
    """
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_critmom", *RUN, *words, "--output_dir", str(folder)],
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
    _, said = process.communicate()
    seconds = time.time() - began
    watcher.join()
    if process.returncode:
        sys.exit(f"The comparison failed:\n{said}")
    finished = sorted(file.stat().st_mtime - began for file in folder.glob("runs/*/*/result.json"))
    return seconds, finished, memory


def seconds_of_a_run(finished: list[float], workers: int) -> float:
    """Seconds from one finished run of a worker to its next, the median; the first ones also wait for the workers."""
    return statistics.median(later - earlier for earlier, later in zip(finished, finished[workers:], strict=False))


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of training of a run")
    parser.add_argument("--runs", type=int, default=4, help="runs of each worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers")
    parser.add_argument(
        "--queued", type=int, default=200, help="runs of a few steps, for the command's memory; 0: none"
    )
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores ({platform.processor() or platform.machine()}), load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as place:
        epochs = calibrated(Path(place), args.seconds)
        print(f"runs of {epochs} epochs, {args.runs} a worker; each engine right after the other")
        print(f"{'workers':>7}  {'engine':>6}  {'s a run':>8}  {'runs per hour':>13}  {'first run after, s':>18}")
        for workers in args.workers:
            found = {}
            for engine in ("local", "ray"):
                words = ("--engine", engine, "--workers", str(workers), "--num_train_epochs", str(epochs))
                seeds = ("--num_seeds", str(max(1, args.runs * workers // 2)))
                _, finished, _ = command(Path(place) / f"{engine}-{workers}", *words, *seeds)
                found[engine] = seconds_of_a_run(finished, workers), finished[0]
                rate = 3600.0 * workers / found[engine][0]
                print(f"{workers:7d}  {engine:>6}  {found[engine][0]:8.2f}  {rate:13.0f}  {found[engine][1]:18.1f}")
            (local, local_start), (ray, ray_start) = found["local"], found["ray"]
            share, start = (ray - local) / local, ray_start - local_start
            print(f"         Ray: {ray - local:+.2f} s a run ({share:+.1%}), {start:+.1f} s once for its start")
        if args.queued:
            seeds = ("--num_seeds", str(args.queued // 2), "--num_train_epochs", "1", "--engine", "ray")
            seconds, finished, memory = command(Path(place) / "queued", *seeds)
            settled = [used for used in memory if used > max(memory) / 2]
            early, late = settled[len(settled) // 4], settled[-1]
            print(
                f"{len(finished)} queued runs in {seconds:.0f} s: the command held {early / 2**20:.0f} MiB after a "
                f"quarter of the time and {late / 2**20:.0f} MiB at the end"
            )


def calibrated(place: Path, seconds: float) -> int:
    """Epochs that take a local run so many seconds here."""
    folder = place / "calibration"
    command(folder, "--num_seeds", "1", "--workers", "1", "--num_train_epochs", "10")
    result = json.loads(next(folder.glob("runs/*/*/result.json")).read_text())
    return max(1, round(seconds / result["wall_seconds"] * 10))


if __name__ == "__main__":
    main()
