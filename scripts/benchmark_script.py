"""Measures the overhead of ``hf-critmom compare --script`` over running the script alone, without process start-up.

    python scripts/benchmark_script.py             # about ten minutes on an idle core
    python scripts/benchmark_script.py --quick     # about two: a smaller network, fewer steps and pairs

Runs `scripts/run_clm.py`, which trains a GPT-2 on the source code of Python's standard library, alone and as a run of
a comparison, in pairs of the same seed and alternating order, with one thread each. Prints the training time that the
script's own Trainer reports (``train_runtime``), median and range of both, and the median ratio within pairs (target:
at most 1.01). The first pair is a warm-up, and is left out.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST_SEED = 42
TEXT_BYTES = 2**20
MODEL = "n_layer={layers},n_head=4,n_embd={width},n_positions=128"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="number of pairs, after the warm-up")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each training")
    parser.add_argument("--width", type=int, default=128, help="hidden size of the network, a multiple of 4")
    parser.add_argument("--quick", action="store_true", help="width 64, 60 steps and 3 pairs")
    args = parser.parse_args()
    pairs, steps, width = (3, 60, 64) if args.quick else (args.pairs, args.steps, args.width)
    if min(pairs, steps, width) < 1 or width % 4:
        parser.error("--pairs and --steps must be positive, and --width a multiple of 4.")
    print(f"{steps} steps of a GPT-2 of width {width}, load before {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-script-") as scratch:
        training = Training(Path(scratch), steps, width)
        sides: dict[str, Callable[[int], float]] = {"alone": training.alone, "compared": training.compared}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for pair in range(pairs + 1):
            for name in sorted(sides, reverse=bool(pair % 2)):
                seconds[name].append(sides[name](pair))
            shown = ", ".join(f"{name} {found[-1]:.2f} s" for name, found in seconds.items())
            print(f"  seed {FIRST_SEED + pair}: {shown}{' (warm-up)' if pair == 0 else ''}", flush=True)
    counted = {name: found[1:] for name, found in seconds.items()}
    for name, found in counted.items():
        print(f"{name}: median {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})")
    ratios = [compared / alone for alone, compared in zip(*counted.values(), strict=True)]
    print(
        f"compared to alone: median {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}, "
        f"{len(ratios)} pairs; the target is at most 1.01)"
    )


class Training:
    """Runs the same training alone and in a comparison.

    Args:
        scratch: Folder for data and results.
        steps: Optimizer steps.
        width: Hidden size of the network.
    """

    def __init__(self, scratch: Path, steps: int, width: int) -> None:
        self.scratch, self.script = scratch, str(ROOT / "scripts" / "run_clm.py")
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)[:TEXT_BYTES]
        (scratch / "text.txt").write_text(text, encoding="utf-8")
        self.flags = (
            *("--model_type", "gpt2", "--config_overrides", MODEL.format(layers=2, width=width)),
            *("--tokenizer_name", "bytes", "--train_file", str(scratch / "text.txt"), "--block_size", "128"),
            *("--per_device_train_batch_size", "8", "--max_steps", str(steps), "--max_eval_samples", "16"),
            *("--eval_strategy", "steps", "--eval_steps", str(max(1, steps // 2)), "--save_strategy", "no"),
            *("--logging_steps", "20", "--learning_rate", "1e-3", "--do_train", "--do_eval", "--use_cpu"),
            *("--disable_tqdm", "true", "--report_to", "none"),
        )
        path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
        cache = {"HF_DATASETS_CACHE": str(scratch / "cache"), "HF_HUB_OFFLINE": "1"}
        self.environment = {**os.environ, **cache, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def alone(self, pair: int) -> float:
        """Training time of the script in its own process, in seconds."""
        seed = str(FIRST_SEED + pair)
        folder = self.scratch / f"alone-{seed}"
        run_flags = ("--optim", "adamw_torch", "--seed", seed, "--data_seed", seed, "--output_dir", str(folder))
        return _train_runtime(self._run([sys.executable, self.script, *self.flags, *run_flags]))

    def compared(self, pair: int) -> float:
        """Training time of the script as a run of a comparison, which grows by one seed, in seconds."""
        folder = self.scratch / "comparison"
        arms = ("--arms", "adamw", "--targets", "3", "--num_seeds", str(pair + 1), "--threads_per_worker", "1")
        compare = ("-m", "hf_critmom", "compare", "--script", self.script, *arms, "--output_dir", str(folder))
        self._run([sys.executable, *compare, "--", *self.flags])
        run = folder / "runs" / "adamw" / f"seed-{FIRST_SEED + pair}"
        assert json.loads((run / "result.json").read_text(encoding="utf-8"))["status"] == "finished"
        return _train_runtime((run / "script.log").read_text(encoding="utf-8", errors="replace"))

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            sys.exit(f"{' '.join(command[:5])} ended with status {done.returncode}:\n{done.stdout[-2000:]}")
        return done.stdout


def _train_runtime(log: str) -> float:
    """The training time that the Trainer reports, in seconds."""
    return float(re.findall(r"'train_runtime': '?([\d.]+)", log)[-1])


if __name__ == "__main__":
    main()
