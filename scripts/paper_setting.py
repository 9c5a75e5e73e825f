"""The paper's own setting on a GPU, measured in pieces: each call works until its time is up, the next one goes on.

    python scripts/paper_setting.py --minutes 9            # again and again, until it says that nothing is left
    python scripts/paper_setting.py --rehearse --minutes 9 # all of it in small on a CPU, with the embedded digits

Its pieces, in this order:

* ``steps``: time of ``step()`` of each optimizer beside torch's, as for-loop, foreach and fused;
* ``reads``: whether a step waits for the GPU, by torch's debug mode for synchronization;
* ``trainer``: images per second through the Trainer beside a bare loop, and the seconds of an epoch from them;
* ``attribution``: what attribution costs beside an evaluation and in a training step;
* ``comparison``: ResNet-18 of width 64 on all of CIFAR-10, batch 128, learning rate 0.1, cosine, weight decay 5e-4,
  100 epochs, five seeds of each of eight arms, of which several runs share the GPU.

The output of a piece is ``NAME.txt`` in ``--output_dir``, once the piece has ended; the comparison is the folder
``comparison`` in it. It keeps checkpoints, so that a call continues the runs that the one before it interrupted; a
benchmark that was interrupted begins again. ``results.tar.gz`` holds what cards quote, without checkpoints: unpacked on
another machine, it is continued there, except for runs that were not finished. Flags after ``--`` go to the comparison,
in the place of those above: ``-- --num_train_epochs 30``.

Exit status: 0 if nothing is left, 75 if the time is up and the same command goes on, 1 if a piece failed.
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
"""The exit status that sysexits.h calls a temporary failure, after which the same command is to be tried again."""
GRACE = 60.0
"""Seconds in which a comparison stops, its report is written, and the results are packed."""
PACKED = ("*.txt", "comparison/*.*", "comparison/figures/*", "comparison/runs/**/result.json")


Flags = dict[str, tuple[str, ...]]
"""Flags of a program by name, with their values."""


@dataclass(frozen=True)
class Piece:
    """A program of this repository with its flags.

    Attributes:
        program: Arguments of Python.
        flags: The flags of the program.
        rehearsal: Flags that make it small, in the place of those of the same names.
        minutes: Least time that must be left for it to be begun.
    """

    program: tuple[str, ...]
    flags: Flags
    rehearsal: Flags
    minutes: float

    def command(self, small: bool) -> list[str]:
        """The command line."""
        flags = {**self.flags, **(self.rehearsal if small else {})}
        return [sys.executable, *self.program, *(word for name, values in flags.items() for word in (name, *values))]


def flags_of(text: str) -> Flags:
    """The flags of a command line."""
    parts = re.split(r"(?:^|\s)(?=--)", text.strip())
    return {name: tuple(values) for name, *values in (part.split() for part in parts if part)}


SETTING = flags_of("""
    --width 64 --bf16 true --per_device_train_batch_size 128 --num_train_epochs 100
    --learning_rate 0.1 --lr_scheduler_type cosine --weight_decay 5e-4
    --arms constant matched compensated critmom hybrid onecycle adamw ikfad --num_seeds 5 --targets 0.9 0.94 0.95
    --evaluations_per_epoch 1 --save_strategy steps --save_steps 0.1 --measure_curvature true
""")
SMALL = flags_of("""
    --width 4 --bf16 false --per_device_train_batch_size 32 --num_train_epochs 2 --max_train_samples 256
    --num_seeds 2 --targets 0.5 0.7 --use_cpu true
""")


def pieces(task: str, workers: int, folder: str, flags: Flags) -> dict[str, Piece]:
    """The pieces by their names, in the order in which they are made."""
    return {
        "steps": Piece(
            ("scripts/benchmark_optimizers.py",),
            {},
            flags_of("--shapes resnet18 --modes foreach --rounds 2 --overhead --use_cpu"),
            minutes=1.0,
        ),
        "reads": Piece(("-m", "pytest", "-q", "tests/optim/test_host_reads.py"), {}, {}, minutes=1.0),
        "trainer": Piece(
            ("scripts/benchmark_trainer.py",),
            flags_of(f"--task {task} --width 64 --bf16 true"),
            flags_of("--width 4 --bf16 false --steps 5 --rounds 2"),
            minutes=1.5,
        ),
        "attribution": Piece(
            ("scripts/benchmark_attribution.py",),
            flags_of(f"--task {task} --width 64 --num_examples 5000 --num_train_epochs 2"),
            flags_of(
                "--width 4 --num_examples 64 --num_train_epochs 1 --steps 5 --rounds 2 --step_rounds 1 "
                "--memory_examples 64 128"
            ),
            minutes=3.0,
        ),
        "comparison": Piece(
            ("-m", "hf_critmom", "compare"),
            flags_of(f"--task {task}")
            | SETTING
            | flags_of(f"--workers {workers} --output_dir {folder}/comparison")
            | flags,
            SMALL | flags,
            minutes=1.0,
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the pieces that are not made yet, until the time is up."""
    began = time.monotonic()
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = parsed(words[:end])
    folder: Path = args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    task = "digits" if args.rehearse else from_root(args.task)
    table = pieces(task, args.workers, from_root(folder), flags_of(" ".join(words[end + 1 :])))
    print(machine(args.rehearse), flush=True)
    status = 0
    for name in args.pieces:
        if status or (folder / f"{name}.txt").exists():
            continue
        seconds = args.minutes * 60 - GRACE - (time.monotonic() - began)
        if seconds < table[name].minutes * 60 and not args.rehearse:
            status = TIME_IS_UP
            print(f"{name}: not begun, for it takes {table[name].minutes:g} minutes at least", flush=True)
        else:
            status = make(name, table[name].command(args.rehearse), folder, max(1.0, seconds))
    pack(folder)
    left = [name for name in args.pieces if not (folder / f"{name}.txt").exists()]
    print(f"Left: {', '.join(left)}. The same command goes on." if left else "Nothing is left.", flush=True)
    return status


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The flags; ends the program in a sentence where they or the machine do not allow the measurements."""
    names = list(pieces("", 1, "", {}))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output_dir", type=Path, default=Path("comparison-paper-setting"), help="folder of the output"
    )
    parser.add_argument(
        "--task", type=Path, default=Path("data/cifar10"), help="folder of CIFAR-10; default: data/cifar10"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time of this call; default: 9")
    parser.add_argument("--workers", type=int, default=6, help="runs that share the GPU; default: 6")
    parser.add_argument("--pieces", nargs="+", choices=names, default=names, help="pieces to make; default: all")
    parser.add_argument("--rehearse", action="store_true", help="all of it in small on a CPU, with the embedded digits")
    args = parser.parse_args(words)
    if not args.minutes * 60 >= 2 * GRACE:
        parser.error(f"--minutes {args.minutes:g} leaves no time to measure: give at least {2 * GRACE / 60:g}.")
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}.")
    if args.rehearse:
        return args
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here: run this on a machine with a GPU, or try it with --rehearse.")
    if not any(args.task.glob("**/*.parquet")):
        parser.error(
            f"{args.task} holds no Parquet files: make it with `python scripts/fetch_cifar10.py --output_dir "
            f"{args.task}`, or name the folder that holds CIFAR-10 with --task."
        )
    return args


def make(name: str, command: list[str], folder: Path, seconds: float) -> int:
    """Runs the program of a piece for so many seconds at most, and keeps its output; returns an exit status."""
    unfinished, finished = folder / f"{name}.unfinished", folder / f"{name}.txt"
    began = time.monotonic()
    with unfinished.open("w") as output:
        output.write(f"$ {' '.join(['python', *command[1:]])}\n")
        output.flush()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, process_group=0)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            stop(process)
    took = f"{time.monotonic() - began:.0f} s"
    if code == 0:
        unfinished.rename(finished)
        print(f"{name}: made in {took}\n{tail(finished)}{seconds_of_an_epoch(finished)}", flush=True)
        return 0
    if code is None:
        print(f"{name}: stopped after {took}\n{tail(unfinished, lines=5)}", flush=True)
        return TIME_IS_UP
    print(f"{name}: failed after {took} with exit status {code}\n{tail(unfinished)}", flush=True)
    return 1


def stop(process: subprocess.Popen) -> None:
    """Ends a program as Ctrl-C would, and what is left of its process group by force."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE / 2)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(file: Path, lines: int = 30) -> str:
    """The last lines of an output, without the earlier states of progress bars."""
    text = re.sub(r"[^\n]*\r(?!\n)", "", file.read_text(errors="replace"))
    return "".join(f"  {line}\n" for line in text.splitlines()[-lines:])


def seconds_of_an_epoch(file: Path) -> str:
    """How long an epoch of 50,000 images takes at the rates that the trainer's benchmark printed, if they are there."""
    rates = re.findall(r"^ *([\w ]+): median +(\d+) images/s", file.read_text(), flags=re.MULTILINE)
    times = [f"{name} {50_000 / float(rate):.1f} s" for name, rate in rates]
    return f"  50,000 images: {', '.join(times)}\n" if times else ""


def pack(folder: Path) -> None:
    """Packs what cards quote into ``results.tar.gz``, with the report of what is there of the comparison."""
    comparison = folder / "comparison"
    if any(comparison.glob("runs/**/result.json")):
        report = [sys.executable, "-m", "hf_critmom", "report", str(comparison.resolve())]
        subprocess.run(report, cwd=ROOT, stdout=subprocess.DEVNULL)
    partial = folder / "results.tar.gz.partial"
    with tarfile.open(partial, "w:gz") as archive:
        for file in sorted({file for pattern in PACKED for file in folder.glob(pattern) if file.is_file()}):
            archive.add(file, file.relative_to(folder))
    partial.rename(folder / "results.tar.gz")


def from_root(path: Path) -> str:
    """A path as seen from this repository, where the programs run: so it stands in the commands that are recorded."""
    return os.path.relpath(path, ROOT)


def machine(small: bool) -> str:
    """The machine and the versions."""
    cores = f"{len(os.sched_getaffinity(0))} CPU cores"
    gpu = "" if small else f"{torch.cuda.get_device_name()} with CUDA {torch.version.cuda}, "
    return f"{gpu}{cores}, torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}"


if __name__ == "__main__":
    raise SystemExit(main())
