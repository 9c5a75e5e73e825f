"""Time of ``step()`` beside torch's own optimizers, on the parameter shapes of ResNet-18 and of GPT-2 small.

Each optimizer of ours and its counterpart step the same parameters with the same gradients in the same mode (for-loop,
foreach, fused) under a learning rate that changes at every step. They take turns in one process, first one and then
the other, so that whatever else the machine does meets both. CritMomSGD should stay within
1.02 of torch's SGD, CritMomQHM (foreach) and CritMomAdamW within 1.05 of SGD and AdamW; IKFAD, which has no
counterpart, stands beside AdamW for information.

    python scripts/benchmark_optimizers.py --shapes resnet18 gpt2 --modes foreach fused --rounds 20

On a busy machine, trust the ratio of the fastest turns, or count processor time: ``--clock cpu --threads 1``.
``--overhead`` replaces every tensor by a single number: what is left is the cost of the Python around the kernels.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.optim import SGD, AdamW, Optimizer
from transformers import AutoModel, GPT2Config, HfArgumentParser

from hf_critmom import (
    IKFAD,
    CifarResNetConfig,
    CifarResNetForImageClassification,
    CritMomAdamW,
    CritMomQHM,
    CritMomSGD,
)


@dataclass(frozen=True)
class Contest:
    """An optimizer of ours and what it is measured against.

    Attributes:
        ours: Builds ours from param groups and the options of a mode.
        theirs: Builds the counterpart.
        lr: Peak of the learning rate.
        target: The largest ratio of times that is fine, or None.
        modes: Names in `MODES` that both have.
        target_modes: Those that the target is meant for.
    """

    ours: Callable[..., Optimizer]
    theirs: Callable[..., Optimizer]
    lr: float
    target: float | None = None
    modes: tuple[str, ...] = ("for-loop", "foreach", "fused")
    target_modes: tuple[str, ...] = modes


MODES: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}

CONTESTS: dict[str, Contest] = {
    "CritMomSGD": Contest(CritMomSGD, lambda groups, **mode: SGD(groups, momentum=0.9, **mode), lr=0.1, target=1.02),
    "CritMomQHM": Contest(
        CritMomQHM,
        lambda groups, **mode: SGD(groups, momentum=0.9, **mode),
        lr=0.1,
        target=1.05,
        target_modes=("foreach",),
    ),
    "CritMomAdamW": Contest(CritMomAdamW, AdamW, lr=1e-3, target=1.05),
    "IKFAD": Contest(IKFAD, AdamW, lr=1e-4, modes=("for-loop", "foreach")),
}

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet18": lambda: CifarResNetForImageClassification(CifarResNetConfig(num_labels=10)),
    "gpt2": lambda: AutoModel.from_config(GPT2Config()),
}


@dataclass
class BenchmarkArguments:
    """Flags of the benchmark."""

    shapes: list[str] = field(default_factory=lambda: list(MODELS), metadata={"help": f"Of {', '.join(MODELS)}."})
    modes: list[str] = field(default_factory=lambda: list(MODES), metadata={"help": f"Of {', '.join(MODES)}."})
    optimizers: list[str] = field(default_factory=lambda: list(CONTESTS), metadata={"help": ", ".join(CONTESTS)})
    rounds: int = field(default=15, metadata={"help": "Turns of each optimizer."})
    steps: int = field(default=5, metadata={"help": "Steps of a turn."})
    clock: str = field(
        default="wall", metadata={"help": "wall, or cpu: time on all cores.", "choices": ["wall", "cpu"]}
    )
    threads: int | None = field(default=None, metadata={"help": "Threads of torch on the CPU; default: torch's own."})
    overhead: bool = field(default=False, metadata={"help": "One number in place of every tensor."})
    use_cpu: bool = field(default=False, metadata={"help": "The CPU, even if there is an accelerator."})


def unknown_names(flags: BenchmarkArguments) -> Iterator[str]:
    """Sentences about names that no table knows."""
    tables: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
        ("--shapes", flags.shapes, MODELS),
        ("--modes", flags.modes, MODES),
        ("--optimizers", flags.optimizers, CONTESTS),
    )
    for flag, names, table in tables:
        yield from (f"{flag}: {name!r} is none of {', '.join(table)}." for name in names if name not in table)


def param_groups(model_name: str, device: torch.device, overhead: bool) -> list[dict[str, Any]]:
    """Random parameters with gradients, of a model's shapes, in the Trainer's two groups: with and without decay."""
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
    """Seconds per step of one turn, in which the learning rate falls along a cosine."""
    clock = time.perf_counter if flags.clock == "wall" else time.process_time
    synchronize(device)
    begun = clock()
    for i in range(flags.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * i / flags.steps))
        optimizer.step()
    synchronize(device)
    return (clock() - begun) / flags.steps


def synchronize(device: torch.device) -> None:
    """Waits for the accelerator, where there is one."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure(contest: Contest, mode: str, model_name: str, flags: BenchmarkArguments) -> tuple[list[float], list[float]]:
    """Seconds per step of every turn, ours and theirs."""
    accelerator = None if flags.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    device = accelerator or torch.device("cpu")
    groups = param_groups(model_name, device, flags.overhead)
    contestants = [
        build([dict(group) for group in groups], lr=contest.lr, **MODES[mode])
        for build in (contest.ours, contest.theirs)
    ]
    seconds: tuple[list[float], list[float]] = ([], [])
    for optimizer in contestants:
        turn(optimizer, contest.lr, flags, device)  # untimed: state, caches, lazy imports
    for index in range(flags.rounds):
        gc.collect()
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            seconds[which].append(turn(contestants[which], contest.lr, flags, device))
    return seconds


def row(ours: list[float], theirs: list[float], target: float | None) -> list[str]:
    """The cells of a measurement: medians, their ratio, quartiles of the rounds' ratios, ratio of the fastest turns."""
    ratio = statistics.median(ours) / statistics.median(theirs)
    low, _, high = statistics.quantiles((a / b for a, b in zip(ours, theirs, strict=True)), n=4, method="inclusive")
    fastest = min(ours) / min(theirs)
    verdict = "" if target is None else f"[{'green' if ratio <= target else 'red'}]{target}[/]"
    milliseconds = [f"{1e3 * statistics.median(times):.3f}" for times in (ours, theirs)]
    return [*milliseconds, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", f"{fastest:.3f}", verdict]


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = HfArgumentParser(BenchmarkArguments, description=__doc__.splitlines()[0])
    (flags,) = parser.parse_args_into_dataclasses()
    if flags.rounds < 2 or flags.steps < 1:
        parser.error("--rounds must be at least 2 and --steps at least 1.")
    for sentence in unknown_names(flags):
        parser.error(sentence)
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
        if mode in CONTESTS[name].modes
    ]
    for name, mode, shapes in track(cases, "Measuring", transient=True):
        contest = CONTESTS[name]
        target = contest.target if mode in contest.target_modes else None
        table.add_row(name, mode, shapes, *row(*measure(contest, mode, shapes, flags), target))
    Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
