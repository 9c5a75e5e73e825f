"""Measures what attribution costs: beside `Trainer.evaluate`, in a training step, and in memory.

A network is trained for a few epochs. Then, side by side in alternating turns on the same examples, of which a chosen
share is misclassified: `Trainer.evaluate` and `attribute_gradients`. Then training with and without
`GradientNormCallback`, whose own seconds are measured, too. Then, in processes of their own, the peak memory of
attributions of more and more examples.

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import HfArgumentParser, PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from hf_critmom import CritMomTrainer, GradientNormCallback, attribute_gradients
from hf_critmom.attribution import predict
from hf_critmom.tasks import DataArguments, ModelArguments, Task, build_model, load_task
from hf_critmom.tasks.images import ImageDataset


@dataclass
class BenchmarkArguments:
    """Flags of the benchmark itself."""

    enlarge: int | None = field(
        default=None, metadata={"help": "Repeat every pixel so often each way; default: 4 for images of 8x8, else 1."}
    )
    width: int = field(default=16, metadata={"help": "Channels of the ResNet's first stage."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Epochs of training before the measurements."})
    num_examples: int = field(default=700, metadata={"help": "Examples that are evaluated and attributed."})
    error_rate: float = field(
        default=0.1, metadata={"help": "Share of them that is misclassified, if there are so many."}
    )
    batch_size: int = field(default=128, metadata={"help": "Images of a training step."})
    eval_batch_size: int = field(default=500, metadata={"help": "Images of an evaluation batch."})
    steps: int = field(default=200, metadata={"help": "Training steps of each turn."})
    logging_steps: int = field(default=50, metadata={"help": "Logging interval of these."})
    rounds: int = field(default=7, metadata={"help": "Turns of each contestant."})
    step_rounds: int = field(default=3, metadata={"help": "Turns of training with and without the callback."})
    memory_examples: list[int] = field(
        default_factory=lambda: [2_000, 8_000, 32_000], metadata={"help": "Examples of the measurements of memory."}
    )


class TimedGradientNorms(GradientNormCallback):
    """Knows how many seconds it took itself, logging included."""

    seconds = 0.0

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        begun = time.perf_counter()
        super().on_pre_optimizer_step(args, state, control, **kwargs)
        self.seconds += time.perf_counter() - begun

    def on_log(self, args, state, control, logs=None, **kwargs):
        begun = time.perf_counter()
        super().on_log(args, state, control, logs=logs, **kwargs)
        self.seconds += time.perf_counter() - begun


class Repeated(Dataset):
    """A data set over and over, so that a larger one takes no more memory."""

    def __init__(self, dataset: Dataset, length: int) -> None:
        self.dataset = dataset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> object:
        return self.dataset.__getitems__([index % len(self.dataset) for index in indices])


def loaded(data: DataArguments, flags: BenchmarkArguments) -> Task:
    """The task; tiny images are enlarged, since an attribution's own overhead is not what a user waits for."""
    task = load_task(data)
    factor = flags.enlarge or (4 if task.image_shape[1:] == (8, 8) else 1)

    def enlarged(split: ImageDataset) -> ImageDataset:
        return split.evaluated(split.images.repeat(factor, axis=2).repeat(factor, axis=3))

    splits = {name: enlarged(getattr(task, name)) for name in ("train", "validation", "test")}
    return dataclasses.replace(task, **splits) if factor > 1 else task


def new_trainer(
    task: Task, model: PreTrainedModel, folder: str, flags: BenchmarkArguments, callbacks=(), **fields
) -> CritMomTrainer:
    """A Trainer as a comparison sets it up."""
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
    """The untrained network."""
    return build_model(task, ModelArguments(width=flags.width), seed=0).to(memory_format=torch.channels_last)


def seconds_of(action) -> float:
    """Seconds that a call takes, the accelerator's work included."""
    begun = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def beside_evaluation(task: Task, trainer: CritMomTrainer, flags: BenchmarkArguments) -> None:
    """Prints the seconds of an attribution beside those of an evaluation."""
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
    for turn in range(flags.rounds + 1):  # the first one is not counted: caches, lazy imports
        evaluation = seconds_of(lambda: trainer.evaluate(examples))
        loader = trainer.get_eval_dataloader(examples)
        attribution = seconds_of(lambda loader=loader: attribute_gradients(trainer.model, loader))
        if turn:
            times["Trainer.evaluate"].append(evaluation)
            times["attribute_gradients"].append(attribution)
    print(f"{len(chosen):,} examples, {len(mistakes):,} of them misclassified ({len(mistakes) / len(chosen):.1%})")
    for name, values in times.items():
        print(f"{name:>20}: median {statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})")
    ratios = [ours / theirs for theirs, ours in zip(*times.values(), strict=True)]
    print(f"ratio: median {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


def in_training_steps(task: Task, flags: BenchmarkArguments) -> None:
    """Prints what logging gradient norms costs a training step."""
    plain, watched, own = [], [], []
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
                watched.append(seconds)
                own.append(callback.seconds / flags.steps / seconds)
    print(f"{flags.steps} training steps of {flags.batch_size} images, logging every {flags.logging_steps}")
    for name, values in (("without", plain), ("GradientNormCallback", watched)):
        milliseconds = [1e3 * value for value in values]
        print(f"{name:>20}: median {statistics.median(milliseconds):.2f} ms a step", end="")
        print(f" ({min(milliseconds):.2f} to {max(milliseconds):.2f})")
    print(f"the callback's own seconds: {statistics.median(own):.3%} of a step ({min(own):.3%} to {max(own):.3%})")


def peak_memory(data: DataArguments, flags: BenchmarkArguments, weights: str, examples: int, answer) -> None:
    """Attributes so many examples in a process of its own, and answers with its peak memory in MiB."""
    torch.set_num_threads(1)
    task = loaded(data, flags)
    model = new_model(task, flags)
    model.load_state_dict(torch.load(weights, weights_only=True))
    loader = DataLoader(Repeated(task.validation, examples), flags.eval_batch_size, collate_fn=task.collator)
    attribution = attribute_gradients(model, loader)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    answer.put((attribution.selected, peak))


def by_examples(data: DataArguments, model: PreTrainedModel, flags: BenchmarkArguments) -> None:
    """Prints the peak memory of attributions of more and more examples."""
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pt")
        torch.save(model.state_dict(), weights)
        for examples in flags.memory_examples:
            answer = processes.Queue()
            process = processes.Process(target=peak_memory, args=(data, flags, weights, examples, answer))
            process.start()
            selected, peak = answer.get()
            process.join()
            print(f"{examples:>8,} examples, {selected:>6,} misclassified: peak memory {peak:,.0f} MiB")


def main() -> None:
    """Runs the benchmark and prints what it found."""
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    flags, data = HfArgumentParser((BenchmarkArguments, DataArguments)).parse_args_into_dataclasses()
    task = loaded(data, flags)
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(task, new_model(task, flags), folder, flags, num_train_epochs=flags.num_train_epochs)
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
        print(
            f"{task.name}, width {flags.width}, {flags.num_train_epochs:g} epochs: validation accuracy {accuracy:.3f}"
        )
        beside_evaluation(task, trainer, flags)
    in_training_steps(task, flags)
    by_examples(data, trainer.model, flags)


if __name__ == "__main__":
    main()
