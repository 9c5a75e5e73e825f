"""Measures the cost of attribution: relative to `Trainer.evaluate`, per training step, and in memory.

A network is trained for a few epochs. Then three things are measured: `Trainer.evaluate` and `attribute_gradients`, in
turns on the same examples, of which a given fraction is misclassified; training with and without
`GradientNormCallback`, and the time inside of the callback; and the peak memory of attributions of more and more
examples, each in its own process.

    python scripts/benchmark_attribution.py                          # digits, enlarged to the size of CIFAR-10's images
    python scripts/benchmark_attribution.py --task data/cifar10 --width 16 --num_train_epochs 2 --num_examples 5000
"""

import dataclasses
import logging
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import check_positive, one_sentence, parse_dataclasses
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from hf_critmom import CritMomTrainer, GradientNormCallback, attribute_gradients
from hf_critmom.attribution import predict
from hf_critmom.errors import InputError
from hf_critmom.tasks import DataArguments, ModelArguments, Task, build_model, load_task
from hf_critmom.tasks.image_task import ImageTask
from hf_critmom.tasks.images import ImageDataset


@dataclass
class BenchmarkArguments:
    """Flags of the benchmark."""

    enlarge: int | None = field(
        default=None, metadata={"help": "Enlarge images by this factor in both directions; default: 4 for 8x8, else 1."}
    )
    width: int = field(default=16, metadata={"help": "Channels of the ResNet's first stage."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Epochs of training before the measurements."})
    num_examples: int = field(default=700, metadata={"help": "Number of examples to evaluate and attribute."})
    error_rate: float = field(
        default=0.1, metadata={"help": "Fraction of these that is misclassified, if there are enough."}
    )
    batch_size: int = field(default=128, metadata={"help": "Images per training step."})
    eval_batch_size: int = field(default=500, metadata={"help": "Images per evaluation batch."})
    steps: int = field(default=200, metadata={"help": "Training steps per turn."})
    logging_steps: int = field(default=50, metadata={"help": "Logging interval of these steps."})
    rounds: int = field(default=7, metadata={"help": "Turns of evaluation and attribution."})
    step_rounds: int = field(default=3, metadata={"help": "Turns of training with and without the callback."})
    memory_examples: list[int] = field(
        default_factory=lambda: [2_000, 8_000, 32_000],
        metadata={"help": "Numbers of examples to measure memory with."},
    )

    def __post_init__(self) -> None:
        sizes = ("width", "num_examples", "batch_size", "eval_batch_size", "memory_examples")
        check_positive(self, "num_train_epochs", "steps", "logging_steps", "rounds", "step_rounds", *sizes)
        check_positive(self, *([] if self.enlarge is None else ["enlarge"]))
        if not 0.0 < self.error_rate < 1.0:
            raise ValueError(f"--error_rate must be between 0 and 1, got {self.error_rate}.")


class TimedGradientNorms(GradientNormCallback):
    """Measures the seconds spent inside of the callback, including logging."""

    seconds = 0.0

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        started = time.perf_counter()
        super().on_pre_optimizer_step(args, state, control, **kwargs)
        self.seconds += time.perf_counter() - started

    def on_log(self, args, state, control, logs=None, **kwargs):
        started = time.perf_counter()
        super().on_log(args, state, control, logs=logs, **kwargs)
        self.seconds += time.perf_counter() - started


class Repeated(Dataset):
    """Repeats a dataset, so that a larger one takes no more memory."""

    def __init__(self, dataset: Dataset, length: int) -> None:
        self.dataset = dataset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> object:
        return self.dataset.__getitems__([index % len(self.dataset) for index in indices])


def load_enlarged(data: DataArguments, flags: BenchmarkArguments) -> Task:
    """Loads the task, with tiny images enlarged, for which fixed overhead would dominate."""
    task = load_task(data)
    if not isinstance(task, ImageTask):
        raise InputError(f"{task.name} is not an image task: name one with --task.")
    factor = flags.enlarge or (4 if task.image_shape[1:] == (8, 8) else 1)

    def enlarged(split: ImageDataset) -> ImageDataset:
        return split.evaluated(split.images.repeat(factor, axis=2).repeat(factor, axis=3))

    splits = {name: enlarged(getattr(task, name)) for name in ("train", "validation", "test")}
    return dataclasses.replace(task, **splits) if factor > 1 else task


def new_trainer(
    task: Task, model: PreTrainedModel, folder: str, flags: BenchmarkArguments, callbacks=(), **fields
) -> CritMomTrainer:
    """Creates a Trainer like those of a comparison."""
    args = TrainingArguments(
        folder,
        optim="critmom_hybrid",
        learning_rate=0.1,
        lr_scheduler_type="cosine",
        weight_decay=5e-4,
        per_device_train_batch_size=flags.batch_size,
        per_device_eval_batch_size=flags.eval_batch_size,
        save_strategy="no",
        max_grad_norm=0.0,
        logging_nan_inf_filter=False,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        **fields,
    )
    callbacks: list[TrainerCallback] = [*callbacks, *task.callbacks()]
    trainer = CritMomTrainer(
        model=model,
        args=args,
        train_dataset=task.train,
        eval_dataset=task.validation,
        data_collator=task.collator,
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def new_model(task: Task, flags: BenchmarkArguments) -> PreTrainedModel:
    """Creates an untrained network."""
    return build_model(task, ModelArguments(width=flags.width), seed=0).to(memory_format=torch.channels_last)


def seconds_of(action: Callable[[], object]) -> float:
    """Seconds that a call takes, including the work of the GPU."""
    started = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare_with_evaluation(task: Task, trainer: CritMomTrainer, flags: BenchmarkArguments) -> None:
    """Prints the time of an attribution relative to that of an evaluation."""
    split = task.validation
    if len(split) < flags.num_examples:
        both = [task.validation, task.test]
        split = split.evaluated(np.concatenate([part.images for part in both]))
        split.labels = np.concatenate([part.labels for part in both])
    wrong = predict(trainer.model, trainer.get_eval_dataloader(split)).wrong
    mistakes, rest = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    count = min(flags.num_examples, int(len(rest) / (1.0 - flags.error_rate)))
    mistakes = mistakes[: int(flags.error_rate * count)]
    chosen = np.sort(np.concatenate([mistakes, rest[: count - len(mistakes)]]))
    examples = Subset(split, chosen.tolist())
    times: dict[str, list[float]] = {"Trainer.evaluate": [], "attribute_gradients": []}
    for turn in range(flags.rounds + 1):  # the first turn is a warm-up: caches, lazy imports
        evaluation = seconds_of(lambda: trainer.evaluate(examples))
        loader = trainer.get_eval_dataloader(examples)
        attribution = seconds_of(lambda loader=loader: attribute_gradients(trainer.model, loader))
        if turn:
            times["Trainer.evaluate"].append(evaluation)
            times["attribute_gradients"].append(attribution)
    print(f"{len(chosen):,} examples, {len(mistakes):,} of them misclassified ({len(mistakes) / len(chosen):.1%})")
    for name, values in times.items():
        print(f"{name:>20}: median {statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})")
    ratios = [attribution / evaluation for evaluation, attribution in zip(*times.values(), strict=True)]
    print(f"ratio: median {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


def measure_training_steps(task: Task, flags: BenchmarkArguments) -> None:
    """Prints the cost of logging gradient norms per training step."""
    plain, logged, own = [], [], []
    for turn in range(flags.step_rounds + 1):
        for callback in (None, TimedGradientNorms()):
            with tempfile.TemporaryDirectory() as folder:
                trainer = new_trainer(
                    task,
                    new_model(task, flags),
                    folder,
                    flags,
                    [callback] if callback else [],
                    max_steps=flags.steps if turn else flags.logging_steps,
                    logging_steps=flags.logging_steps,
                )
                seconds = trainer.train().metrics["train_runtime"] / trainer.state.max_steps
            if turn and callback is None:
                plain.append(seconds)
            elif turn:
                logged.append(seconds)
                own.append(callback.seconds / flags.steps / seconds)
    print(f"{flags.steps} training steps of {flags.batch_size} images, logging every {flags.logging_steps}")
    for name, values in (("without", plain), ("GradientNormCallback", logged)):
        milliseconds = [1e3 * value for value in values]
        print(f"{name:>20}: median {statistics.median(milliseconds):.2f} ms a step", end="")
        print(f" ({min(milliseconds):.2f} to {max(milliseconds):.2f})")
    print(f"the callback's own seconds: {statistics.median(own):.3%} of a step ({min(own):.3%} to {max(own):.3%})")


def peak_memory(data: DataArguments, flags: BenchmarkArguments, weights: str, examples: int, results: Any) -> None:
    """Attributes examples in this process, and puts their number and its peak memory in MiB into a queue."""
    torch.set_num_threads(1)
    task = load_enlarged(data, flags)
    model = new_model(task, flags)
    model.load_state_dict(torch.load(weights, weights_only=True))
    loader = DataLoader(Repeated(task.validation, examples), flags.eval_batch_size, collate_fn=task.collator)
    attribution = attribute_gradients(model, loader)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    results.put((attribution.selected, peak))


def measure_memory(data: DataArguments, model: PreTrainedModel, flags: BenchmarkArguments) -> None:
    """Prints the peak memory of attributions of more and more examples."""
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pt")
        torch.save(model.state_dict(), weights)
        for examples in flags.memory_examples:
            results = processes.Queue()
            process = processes.Process(target=peak_memory, args=(data, flags, weights, examples, results))
            process.start()
            selected, peak = results.get()
            process.join()
            print(f"{examples:>8,} examples, {selected:>6,} misclassified: peak memory {peak:,.0f} MiB")


def main() -> None:
    """Runs the benchmark and prints the results."""
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    flags, data = parse_dataclasses(BenchmarkArguments, DataArguments, description=__doc__.splitlines()[0])
    task = load_enlarged(data, flags)
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(task, new_model(task, flags), folder, flags, num_train_epochs=flags.num_train_epochs)
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
        print(
            f"{task.name}, width {flags.width}, {flags.num_train_epochs:g} epochs: validation accuracy {accuracy:.3f}"
        )
        compare_with_evaluation(task, trainer, flags)
    measure_training_steps(task, flags)
    measure_memory(data, trainer.model, flags)


if __name__ == "__main__":
    with one_sentence():
        main()
