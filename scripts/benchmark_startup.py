"""How long the front door takes: user CPU seconds of whole processes, measured in turns, and their ratios.

    python scripts/benchmark_startup.py [--rounds 7]

Prints the median over the rounds of

* ``import hf_critmom`` with Transformers' Trainer after it, beside the Trainer alone (the aim is 1.1 at most);
* ``hf-critmom --help`` and ``--version``, beside ``python -c pass`` (the aim is 0.5 seconds at most).
"""

import argparse
import os
import statistics
import subprocess
import sys

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
    """User CPU seconds of a Python process that runs a program."""
    process = subprocess.Popen([sys.executable, *program], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{program} ended with status {status}.")
    return usage.ru_utime


def main() -> None:
    """Measures every program in turns and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each program, after one not counted")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(rounds + 1):
        for name, program in PROGRAMS.items():
            measured = user_seconds(program)
            if number:
                seconds[name].append(measured)
    print(f"user CPU seconds, median of {rounds} rounds in turns (smallest to largest)")
    for name, measured in seconds.items():
        print(f"{name:32} {statistics.median(measured):7.3f} ({min(measured):.3f} to {max(measured):.3f})")
    for name, beside in RATIOS:
        ratios = [one / max(other, 1e-3) for one, other in zip(seconds[name], seconds[beside], strict=True)]
        print(f"{name} / {beside}: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
