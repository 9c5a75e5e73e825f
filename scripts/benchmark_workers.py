"""Measures how long comparisons take with workers: on an idle machine, beside a busy process, and under a CPU quota.

    python scripts/benchmark_workers.py            # about ten minutes on two cores
    python scripts/benchmark_workers.py --quick    # about two: fewer images, one round

Prints

* the time of the README's first command, ``hf-critmom compare``: in this version, in this version with the former
  defaults (three seeds, one evaluation per epoch), and in the version before workers were introduced, in turns (target:
  at most 0.75 of the latter for the same runs and evaluations on two idle cores);
* the time of that command with the former defaults beside a busy process, pinned to a core or not, relative to its idle
  time (target: at most 1.5), and under a CPU quota of one core, also relative to the idle time with one worker: one
  core cannot do the work of two, but should waste nothing;
* runs per hour of a small comparison with 1, 2 and as many workers as there are cores, under each of these conditions.

Each command is a process with a user's environment, without ``OMP_NUM_THREADS``, in the same session as the busy
process: if Linux groups processes by session, a command in its own session would get half of the machine. The former
version is taken from this repository's history. A quota needs a writable cgroup; without one, the process is confined
to one core instead, and a line says so.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from command_line import positive_int

ROOT = Path(__file__).resolve().parents[1]
SAME = ("--num_seeds", "3", "--evaluations_per_epoch", "1")
"""The former defaults, as flags."""
BEFORE = "885c645~1"
"""The commit before workers were introduced: one run at a time, with as many OpenMP threads as there are cores."""
SMALL = (
    *("--arms", "constant", "critmom", "--num_seeds", "4", "--num_train_epochs", "4", "--evaluations_per_epoch", "1"),
    *("--width", "8"),
)
QUICK = ("--num_train_epochs", "1", "--max_train_samples", "512", "--max_eval_samples", "128", "--width", "4")
Confine = Callable[[], None]
"""Called in a new process, to confine it to part of the machine."""

BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive_int, default=2, help="turns of the README's command")
    parser.add_argument("--workers", type=positive_int, nargs="+", help="numbers of workers; default: 1, 2, all cores")
    parser.add_argument("--before", default=BEFORE, help="former version, as a commit; empty: none")
    parser.add_argument("--time_limit", type=float, default=300.0, help="seconds after which a command is killed")
    parser.add_argument("--quick", action="store_true", help="fewer images and one round")
    args = parser.parse_args()
    rounds, flags = (1, QUICK) if args.quick else (args.rounds, ())
    cores = sorted(os.sched_getaffinity(0))
    print(f"{len(cores)} cores ({_processor()}), load before {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-workers-") as scratch:
        timer = Timer(Path(scratch), args.time_limit)
        variants: dict[str, Variant] = {"now": (ROOT, ()), "now, the same work": (ROOT, SAME)}
        if args.before:
            variants[args.before] = (check_out(args.before, Path(scratch, "before")), ())
        idle = first_command(timer, variants, flags, rounds)
        conditions = {
            "beside a busy process": lambda: busy(None),
            f"beside a busy process on core {cores[0]}": lambda: busy(cores[0]),
            "under a quota of one core": lambda: quota_of_one_core(cores[-1]),
        }
        one_worker = timer.compare(ROOT, *flags, *SAME, "--workers", "1")[0]
        print(f"  now, the same work with one worker: {_shown(one_worker)}", flush=True)
        for name, condition in conditions.items():
            with condition() as confine:
                seconds = timer.compare(ROOT, *flags, *SAME, confine=confine)[0]
            ratios = f"{_ratio(seconds, idle)} of idle, {_ratio(seconds, one_worker)} of one worker's"
            print(f"  now, the same work, {name}: {_shown(seconds)}, {ratios}", flush=True)
        numbers = args.workers or sorted({1, 2, len(cores)})
        print(f"Runs per hour of a small comparison with {', '.join(map(str, numbers))} workers:", flush=True)
        for name, condition in {"idle": lambda: nullcontext(None), **conditions}.items():
            rates = []
            for workers in numbers:
                with condition() as confine:
                    seconds, runs, making = timer.compare(
                        ROOT, *SMALL, *flags, "--workers", str(workers), confine=confine
                    )
                rates.append("given up" if seconds is None else f"{3600 * runs / making:,.0f}")
            print(f"  {name}: {', '.join(rates)}", flush=True)


Variant = tuple[Path, tuple[str, ...]]
"""Folder of a version of the package, and flags of ``compare``."""


def first_command(timer: "Timer", variants: dict[str, Variant], flags: tuple[str, ...], rounds: int) -> float | None:
    """Times the README's first command in each variant, in turns; returns the median with the former defaults."""
    seconds: dict[str, list[float | None]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (tree, own) in reversed(variants.items()):
            seconds[name].append(timer.compare(tree, *flags, *own)[0])
    medians = {name: None if None in found else statistics.median(found) for name, found in seconds.items()}
    print(f"hf-critmom compare {' '.join(flags)}".rstrip() + ", idle:", flush=True)
    last = next((name for name in variants if not name.startswith("now")), None)
    for name, found in seconds.items():
        own = " ".join(variants[name][1])
        print(f"  {name}{own and f' ({own})'}: {_shown(medians[name])} ({', '.join(map(_shown, found))})", flush=True)
    for name in variants if last else ():
        if name != last:
            print(f"  ratio of {name} to {last}: {_ratio(medians[name], medians[last])}", flush=True)
    return medians["now, the same work"]


class Timer:
    """Runs comparisons, each in its own process and in a new folder.

    Args:
        scratch: Folder for their output.
        time_limit: Seconds after which one is killed.
    """

    def __init__(self, scratch: Path, time_limit: float) -> None:
        self.scratch, self.time_limit = scratch, time_limit

    def compare(self, tree: Path, *flags: str, confine: Confine | None = None) -> tuple[float | None, int, float]:
        """Runs a comparison.

        Args:
            tree: Folder of the version of the package.
            flags: Flags of ``compare``.
            confine: Called in the process before it starts.

        Returns:
            Seconds of the command, None if it was killed; the number of runs; and the seconds from the plan to the
            last result.
        """
        folder = self.scratch / "comparison"
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "hf_critmom", "compare", *flags, "--use_cpu", "--output_dir", str(folder)]
        environment = {name: value for name, value in os.environ.items() if not re.search("(OMP|MKL)_NUM|LOKY", name)}
        environment |= {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=self.scratch,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=confine,
        )
        try:
            errors = process.communicate(timeout=self.time_limit)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, 0, 0.0
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{errors}")
        results = [file.stat().st_mtime for file in folder.glob("runs/**/result.json")]
        return seconds, len(results), max(results) - (folder / "comparison.json").stat().st_mtime


def check_out(commit: str, folder: Path) -> Path:
    """Extracts a version of the package from this repository's history into a folder."""
    git = ["git", "-C", str(ROOT)]
    archive = subprocess.run([*git, "archive", commit, "hf_critmom"], capture_output=True)
    if archive.returncode:
        reason = archive.stderr.decode(errors="replace").strip().splitlines()[-1]
        sys.exit(f"benchmark_workers.py: error: --before {commit} is not in this repository ({reason}): name a commit.")
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    found = subprocess.run([*git, "log", "-1", "--format=%h %s", commit], check=True, capture_output=True, text=True)
    print(f"{commit} is {found.stdout.strip()}", flush=True)
    return folder


@contextmanager
def busy(core: int | None) -> Iterator[None]:
    """Keeps a core busy with another process, which is pinned to a given core or not."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        yield None
    finally:
        process.kill()
        process.wait()


@contextmanager
def quota_of_one_core(core: int) -> Iterator[Confine]:
    """Yields a function that confines its process to the time of one core, by a cgroup if one can be created."""
    group = _cgroup_of_one_core()
    if group is None:
        print(f"  (no cgroup can be created here: confined to core {core} instead)", flush=True)
        yield lambda: os.sched_setaffinity(0, {core})
        return
    members = group / "cgroup.procs"
    try:
        yield lambda: members.write_text(str(os.getpid())) and None
    finally:
        _remove(group)


def _cgroup_of_one_core() -> Path | None:
    """Creates a cgroup (v1 or v2) with a quota of one core; None if that is not permitted."""
    control, name = Path("/sys/fs/cgroup"), f"benchmark-workers-{os.getpid()}"
    versions = {
        control / "cpu" / name: {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"},
        control / name: {"cpu.max": "100000 100000"},
    }
    for group, settings in versions.items():
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if all((group / file).exists() for file in settings):
                for file, value in settings.items():
                    (group / file).write_text(value)
                return group
        except OSError:
            pass
        _remove(group)
    return None


def _remove(group: Path) -> None:
    for _ in range(50):  # its last process may not have ended yet
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _shown(seconds: float | None) -> str:
    return "given up" if seconds is None else f"{seconds:.1f} s"


def _ratio(seconds: float | None, other: float | None) -> str:
    return "-" if seconds is None or other is None else f"{seconds / other:.2f}"


if __name__ == "__main__":
    main()
