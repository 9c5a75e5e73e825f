"""Compares the time of ``step()`` with torch's optimizers, on the parameter shapes of ResNet-18 and GPT-2 small.

Each of our optimizers and its counterpart step the same parameters with the same gradients in the same mode (for-loop,
foreach, fused), with a learning rate that changes at every step. They alternate in one process, so that other load on
the machine affects both. CritMomSGD should take at most 1.02 times as long as torch's SGD, CritMomQHM (foreach) and
CritMomAdamW at most 1.05 times as long as SGD and AdamW. IKFAD has no counterpart, and is compared with AdamW for
information only.

    python scripts/benchmark_optimizers.py --shapes resnet18 gpt2 --modes foreach fused --rounds 20

On a busy machine, look at the ratio of the fastest turns, or measure CPU time: ``--clock cpu --threads 1``.
``--overhead`` replaces every tensor by a single number, which leaves the overhead of the Python code.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from command_line import check_positive, parse_dataclasses
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.optim import SGD, AdamW, Optimizer
from transformers import AutoModel, GPT2Config

from hf_critmom import (
    IKFAD,
    CifarResNetConfig,
    CifarResNetForImageClassification,
    CritMomAdamW,
    CritMomQHM,
    CritMomSGD,
)


@dataclass(frozen=True)
class Comparison:
    """One of our optimizers and its counterpart.

    Attributes:
        ours: Creates our optimizer from param groups and the options of a mode.
        baseline: Creates the counterpart likewise.
        lr: Peak learning rate.
        target: Largest acceptable ratio of times; None: there is none.
        modes: Names of the `MODES` that both support.
        target_modes: Names of the modes that the target applies to.
    """

    ours: Callable[..., Optimizer]
    baseline: Callable[..., Optimizer]
    lr: float
    target: float | None = None
    modes: tuple[str, ...] = ("for-loop", "foreach", "fused")
    target_modes: tuple[str, ...] = modes


MODES: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}

COMPARISONS: dict[str, Comparison] = {
    "CritMomSGD": Comparison(CritMomSGD, lambda groups, **mode: SGD(groups, momentum=0.9, **mode), lr=0.1, target=1.02),
    "CritMomQHM": Comparison(
        CritMomQHM,
        lambda groups, **mode: SGD(groups, momentum=0.9, **mode),
        lr=0.1,
        target=1.05,
        target_modes=("foreach",),
    ),
    "CritMomAdamW": Comparison(CritMomAdamW, AdamW, lr=1e-3, target=1.05),
    "IKFAD": Comparison(IKFAD, AdamW, lr=1e-4, modes=("for-loop", "foreach")),
}

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet18": lambda: CifarResNetForImageClassification(CifarResNetConfig(num_labels=10)),
    "gpt2": lambda: AutoModel.from_config(GPT2Config()),
}


@dataclass
class BenchmarkArguments:
    """Flags of the benchmark."""

    shapes: list[str] = field(
        default_factory=lambda: list(MODELS), metadata={"help": f"Models whose shapes are used: {', '.join(MODELS)}."}
    )
    modes: list[str] = field(default_factory=lambda: list(MODES), metadata={"help": f"Modes: {', '.join(MODES)}."})
    optimizers: list[str] = field(
        default_factory=lambda: list(COMPARISONS), metadata={"help": f"Optimizers: {', '.join(COMPARISONS)}."}
    )
    rounds: int = field(default=15, metadata={"help": "Turns per optimizer, at least 2."})
    steps: int = field(default=5, metadata={"help": "Steps per turn."})
    clock: str = field(
        default="wall", metadata={"help": "Wall-clock time, or CPU time on all cores.", "choices": ["wall", "cpu"]}
    )
    threads: int | None = field(default=None, metadata={"help": "Number of torch's CPU threads; default: torch's."})
    overhead: bool = field(default=False, metadata={"help": "Replace every tensor by a single number."})
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU even if there is an accelerator."})

    def __post_init__(self) -> None:
        known: dict[str, dict[str, Any]] = {"shapes": MODELS, "modes": MODES, "optimizers": COMPARISONS}
        for flag, table in known.items():
            for name in getattr(self, flag):
                if name not in table:
                    raise ValueError(f"--{flag}: expected names among {', '.join(table)}, got {name!r}.")
        check_positive(self, "steps", *([] if self.threads is None else ["threads"]))
        if self.rounds < 2:
            raise ValueError(f"--rounds must be at least 2, got {self.rounds}.")


def param_groups(model_name: str, device: torch.device, overhead: bool) -> list[dict[str, Any]]:
    """Random parameters and gradients with a model's shapes, in the Trainer's two groups: with and without decay."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        shapes = [p.shape for p in MODELS[model_name]().parameters()]
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 1e-3}, {"params": [], "weight_decay": 0.0}]
    for shape in shapes:
        size = (1,) if overhead else shape
        p = torch.nn.Parameter(torch.randn(size, generator=generator, device=device))
        p.grad = torch.randn(size, generator=generator, device=device)
        groups[len(shape) < 2]["params"].append(p)
    return groups


def turn(optimizer: Optimizer, lr: float, flags: BenchmarkArguments, device: torch.device) -> float:
    """Seconds per step of one turn, during which the learning rate follows a cosine."""
    clock = time.perf_counter if flags.clock == "wall" else time.process_time
    synchronize(device)
    started = clock()
    for i in range(flags.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * i / flags.steps))
        optimizer.step()
    synchronize(device)
    return (clock() - started) / flags.steps


def synchronize(device: torch.device) -> None:
    """Waits for the accelerator, if there is one."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure(
    comparison: Comparison, mode: str, model_name: str, flags: BenchmarkArguments
) -> tuple[list[float], list[float]]:
    """Seconds per step of every turn, of our optimizer and of its counterpart."""
    accelerator = None if flags.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    device = accelerator or torch.device("cpu")
    groups = param_groups(model_name, device, flags.overhead)
    optimizers = [
        build([dict(group) for group in groups], lr=comparison.lr, **MODES[mode])
        for build in (comparison.ours, comparison.baseline)
    ]
    seconds: tuple[list[float], list[float]] = ([], [])
    for optimizer in optimizers:
        turn(optimizer, comparison.lr, flags, device)  # warm-up: state, caches, lazy imports
    for index in range(flags.rounds):
        gc.collect()
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            seconds[which].append(turn(optimizers[which], comparison.lr, flags, device))
    return seconds


def row(ours: list[float], baseline: list[float], target: float | None) -> list[str]:
    """Cells of the table: medians, their ratio, quartiles of the rounds' ratios, ratio of the fastest turns, target."""
    ratio = statistics.median(ours) / statistics.median(baseline)
    low, _, high = statistics.quantiles((a / b for a, b in zip(ours, baseline, strict=True)), n=4, method="inclusive")
    fastest = min(ours) / min(baseline)
    verdict = "" if target is None else f"[{'green' if ratio <= target else 'red'}]{target}[/]"
    milliseconds = [f"{1e3 * statistics.median(times):.3f}" for times in (ours, baseline)]
    return [*milliseconds, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", f"{fastest:.3f}", verdict]


def main() -> None:
    """Runs the benchmark and prints the table."""
    (flags,) = parse_dataclasses(BenchmarkArguments, description=__doc__.splitlines()[0])
    if flags.threads:
        torch.set_num_threads(flags.threads)
    table = Table(title=f"Time per step(), {flags.rounds} rounds of {flags.steps} steps, {flags.clock} clock")
    for name in ("optimizer", "mode", "shapes"):
        table.add_column(name)
    for name in ("ms", "torch's ms", "ratio", "rounds' quartiles", "ratio of fastest", "target"):
        table.add_column(name, justify="right")
    cases = [
        (name, mode, shapes)
        for name in flags.optimizers
        for shapes in flags.shapes
        for mode in flags.modes
        if mode in COMPARISONS[name].modes
    ]
    for name, mode, shapes in track(cases, "Measuring", transient=True):
        comparison = COMPARISONS[name]
        target = comparison.target if mode in comparison.target_modes else None
        table.add_row(name, mode, shapes, *row(*measure(comparison, mode, shapes, flags), target))
    Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
