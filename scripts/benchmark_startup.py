"""Measures the start-up time of the package and the command line: user CPU seconds of whole processes, in turns.

    python scripts/benchmark_startup.py [--rounds 7]

Prints medians over the rounds of

* importing ``hf_critmom`` before torch and the Trainer, and its ratio to these alone (target: at most 1.1);
* ``hf-critmom --help`` and ``--version``, beside ``python -c pass`` (target: at most 0.5 seconds).
"""

import argparse
import os
import statistics
import subprocess
import sys

from command_line import positive_int

TRAINER = "import torch\nfrom transformers import Trainer, TrainingArguments"
PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "import hf_critmom": ["-c", "import hf_critmom"],
    "hf-critmom --help": ["-m", "hf_critmom", "--help"],
    "hf-critmom --version": ["-m", "hf_critmom", "--version"],
    "torch and Trainer": ["-c", TRAINER],
    "hf_critmom, torch and Trainer": ["-c", f"import hf_critmom\n{TRAINER}"],
}
RATIOS = [
    ("hf_critmom, torch and Trainer", "torch and Trainer"),
    ("import hf_critmom", "torch and Trainer"),
    ("hf-critmom --help", "python -c pass"),
]


def user_seconds(program: list[str]) -> float:
    """User CPU seconds of a Python process with these arguments."""
    process = subprocess.Popen([sys.executable, *program], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(program)} ended with status {os.waitstatus_to_exitcode(status)}.")
    return usage.ru_utime


def main() -> None:
    """Measures all programs in turns, and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive_int, default=7, help="measurements of each program, after a warm-up")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(rounds + 1):
        for name, program in PROGRAMS.items():
            measured = user_seconds(program)
            if number:
                seconds[name].append(measured)
    print(f"user CPU seconds, median of {rounds} rounds (smallest to largest)")
    for name, measured in seconds.items():
        print(f"{name:32} {statistics.median(measured):7.3f} ({min(measured):.3f} to {max(measured):.3f})")
    for name, beside in RATIOS:
        ratios = [one / max(other, 1e-3) for one, other in zip(seconds[name], seconds[beside], strict=True)]
        print(f"{name} / {beside}: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
