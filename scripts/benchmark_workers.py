"""How long comparisons take with their workers, on an idle machine, beside a busy process, and under a quota.

    python scripts/benchmark_workers.py            # about ten minutes on two cores
    python scripts/benchmark_workers.py --quick    # about two: fewer images, one round

Prints

* the seconds of the README's first command, ``hf-critmom compare``, in this version, by default and with the three
  seeds and one evaluation an epoch that were the default before workers, and in the version before workers, in turns
  (the aim is a ratio of 0.75 at most on two idle cores, for the same runs and evaluations);
* that command with the former default's seeds and evaluations beside one busy process, pinned to a core and not, as
  ratios to its own idle time (the aim is 1.5 at most), and under a CPU quota of one core, also as a ratio to the idle
  time of one worker: one core cannot do the work of two, but it should waste nothing;
* runs per hour of a small comparison with 1, 2 and as many workers as there are cores, under each of these conditions.

Each command is a process with the environment that a user has, without ``OMP_NUM_THREADS``, in the session of the busy
one: where Linux groups processes by session, a command in a session of its own has half of the machine. The version
before is taken from this repository's history. A quota needs a control group that may be written; where there is none,
the process is confined to one core instead, which is said.
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

ROOT = Path(__file__).resolve().parents[1]
SAME = ("--num_seeds", "3", "--evaluations_per_epoch", "1")
"""The default before workers."""
BEFORE = "885c645~1"
"""The commit before workers: one run at a time, with as many OpenMP threads as there are cores."""
SMALL = (
    *("--arms", "constant", "critmom", "--num_seeds", "4", "--num_train_epochs", "4", "--evaluations_per_epoch", "1"),
    *("--width", "8"),
)
QUICK = ("--num_train_epochs", "1", "--max_train_samples", "512", "--max_eval_samples", "128", "--width", "4")
Confine = Callable[[], None]


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
    parser.add_argument("--rounds", type=int, default=2, help="turns of the README's command; medians are printed")
    parser.add_argument("--workers", type=int, nargs="+", help="numbers of workers; default: 1, 2 and the cores")
    parser.add_argument("--before", default=BEFORE, help="commit to compare the README's command with; empty: none")
    parser.add_argument("--time_limit", type=float, default=300.0, help="seconds after which a command is given up")
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
"""A version of the package, and flags of ``compare``."""


def first_command(timer: "Timer", variants: dict[str, Variant], flags: tuple[str, ...], rounds: int) -> float | None:
    """Times the README's first command in each variant, in turns; returns the median seconds of the same work."""
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
    """Runs comparisons as processes of their own, each in a new folder.

    Args:
        scratch: Where the folders lie.
        time_limit: Seconds after which one is given up.
    """

    def __init__(self, scratch: Path, time_limit: float) -> None:
        self.scratch, self.time_limit = scratch, time_limit

    def compare(self, tree: Path, *flags: str, confine: Confine | None = None) -> tuple[float | None, int, float]:
        """Makes a comparison.

        Args:
            tree: The version of the package.
            flags: Flags of ``compare``.
            confine: Called in the process before it begins.

        Returns:
            Seconds of the command, None if it was given up; the number of runs, and the seconds that they took
            together, from the plan to the last result.
        """
        folder = self.scratch / "comparison"
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "hf_critmom", "compare", *flags, "--use_cpu", "--output_dir", str(folder)]
        environment = {name: value for name, value in os.environ.items() if not re.search("(OMP|MKL)_NUM|LOKY", name)}
        environment |= {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
        began = time.perf_counter()
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
            said = process.communicate(timeout=self.time_limit)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, 0, 0.0
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{said}")
        results = [file.stat().st_mtime for file in folder.glob("runs/**/result.json")]
        return seconds, len(results), max(results) - (folder / "comparison.json").stat().st_mtime


def check_out(commit: str, folder: Path) -> Path:
    """A version of this repository, in a folder of its own."""
    git = ["git", "-C", str(ROOT)]
    archive = subprocess.run([*git, "archive", commit, "hf_critmom"], check=True, capture_output=True).stdout
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    found = subprocess.run([*git, "log", "-1", "--format=%h %s", commit], check=True, capture_output=True, text=True)
    print(f"{commit} is {found.stdout.strip()}", flush=True)
    return folder


@contextmanager
def busy(core: int | None) -> Iterator[None]:
    """A process that computes all the time, on one core or wherever the system puts it."""
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
    """What confines a process and its children to the time of one core, by a control group if one may be made."""
    group = _group_of_one_core()
    if group is None:
        print(f"  (no control group may be made here: confined to core {core} instead)", flush=True)
        yield lambda: os.sched_setaffinity(0, {core})
        return
    members = group / "cgroup.procs"
    try:
        yield lambda: members.write_text(str(os.getpid())) and None
    finally:
        _remove(group)


def _group_of_one_core() -> Path | None:
    """A control group, of either version, that may use the time of one core; None where none may be made."""
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
    for _ in range(50):  # its last process may still be ending
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
