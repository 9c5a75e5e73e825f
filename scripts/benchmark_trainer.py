"""Compares the training throughput of CritMomTrainer with that of a bare PyTorch loop, in images per second.

Both train the same ResNet-18 on the same images with the same augmentation, precision and optimizer. They alternate in
one process, so that other load on the machine affects both; medians over the rounds are compared.

    python scripts/benchmark_trainer.py --task DIR_OF_CIFAR10 --width 16 --bf16
"""

import logging
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from command_line import check_positive, one_sentence, parse_dataclasses
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from hf_critmom import CritMomSGD, CritMomTrainer
from hf_critmom.errors import InputError
from hf_critmom.tasks import DataArguments, ModelArguments, Task, build_model, load_task
from hf_critmom.tasks.image_task import ImageTask


@dataclass
class BenchmarkArguments:
    """Flags of the benchmark."""

    width: int = field(default=16, metadata={"help": "Channels of the ResNet's first stage."})
    batch_size: int = field(default=128, metadata={"help": "Images per step."})
    steps: int = field(default=40, metadata={"help": "Timed steps per turn."})
    warmup_steps: int = field(default=5, metadata={"help": "Untimed steps before these."})
    rounds: int = field(default=7, metadata={"help": "Turns of the Trainer and of the loop."})
    bf16: bool = field(default=False, metadata={"help": "Use bf16 autocast."})
    lr: float = field(default=0.1, metadata={"help": "Learning rate."})

    def __post_init__(self) -> None:
        check_positive(self, "width", "batch_size", "steps", "warmup_steps", "rounds", "lr")


class Stopwatch(TrainerCallback):
    """Times the Trainer's steps after the warm-up."""

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps
        self.seconds = 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.warmup_steps:
            synchronize()
            self.started = time.perf_counter()
        elif state.global_step == state.max_steps:
            synchronize()
            self.seconds = time.perf_counter() - self.started


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def new_model(task: Task, flags: BenchmarkArguments) -> torch.nn.Module:
    """The model that both train."""
    return build_model(task, ModelArguments(width=flags.width), seed=0).to(memory_format=torch.channels_last)


def bare_loop(task: Task, flags: BenchmarkArguments) -> float:
    """Seconds of the timed steps in a bare PyTorch loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = new_model(task, flags).to(device).train()
    optimizer = CritMomSGD(model.parameters(), lr=flags.lr, weight_decay=5e-4)
    autocast = torch.autocast(device.type, torch.bfloat16) if flags.bf16 else nullcontext()
    loader = DataLoader(
        task.train, flags.batch_size, shuffle=True, collate_fn=task.collator, pin_memory=device.type == "cuda"
    )
    step, started = 0, 0.0
    while True:
        for batch in loader:
            batch = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
            with autocast:
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == flags.warmup_steps:
                synchronize()
                started = time.perf_counter()
            elif step == flags.warmup_steps + flags.steps:
                synchronize()
                return time.perf_counter() - started


def trainer_loop(task: Task, flags: BenchmarkArguments) -> float:
    """Seconds of the timed steps in CritMomTrainer, with the logs of a comparison."""
    stopwatch = Stopwatch(flags.warmup_steps)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            optim="critmom",
            learning_rate=flags.lr,
            weight_decay=5e-4,
            per_device_train_batch_size=flags.batch_size,
            max_steps=flags.warmup_steps + flags.steps,
            logging_steps=50,
            save_strategy="no",
            max_grad_norm=0.0,
            logging_nan_inf_filter=False,
            bf16=flags.bf16,
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
        )
        trainer = CritMomTrainer(
            model=new_model(task, flags),
            args=args,
            train_dataset=task.train,
            data_collator=task.collator,
            callbacks=[stopwatch, *task.callbacks()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return stopwatch.seconds


def main() -> None:
    """Runs the benchmark and prints the results."""
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    flags, data = parse_dataclasses(BenchmarkArguments, DataArguments, description=__doc__.splitlines()[0])
    task = load_task(data)
    if not isinstance(task, ImageTask):
        raise InputError(f"{task.name} is not an image task: name one with --task.")
    loops = {"bare loop": bare_loop, "CritMomTrainer": trainer_loop}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop(task, flags)  # warm-up: caches, lazy imports
    for _ in range(flags.rounds):
        for name, loop in loops.items():
            seconds[name].append(loop(task, flags))
    images = flags.steps * flags.batch_size
    precision = "bf16 autocast" if flags.bf16 else "fp32"
    print(f"{task.name}, width {flags.width}, batch {flags.batch_size}, {precision}, {flags.rounds} rounds")
    for name, times in seconds.items():
        rates = sorted(images / time for time in times)
        print(f"{name:>16}: median {statistics.median(rates):8.0f} images/s ({rates[0]:.0f} to {rates[-1]:.0f})")
    ratios = sorted(bare / ours for bare, ours in zip(*seconds.values(), strict=True))
    print(f"ratio of images/s, CritMomTrainer to bare loop: median {statistics.median(ratios):.3f}")
    print(f"per-round ratios: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")


if __name__ == "__main__":
    with one_sentence():
        main()
