"""Flips labels of a task, and measures how many of them are found as doubtful: precision and recall.

A share of the labels of every split is replaced by another class, those of the training split too, as in data that
people have labelled. A network is trained, and its misclassified examples of the validation and test splits, which it
was not trained on, are searched for doubtful labels as `hf-critmom repair --check_labels` does. Precision is the share
of the doubtful ones that were flipped, recall the share of the flipped ones that are doubtful.

    python scripts/check_doubtful_labels.py                        # digits, 5 % of the labels, three seeds, two minutes
    python scripts/check_doubtful_labels.py --task data/cifar10 --width 16 --num_train_epochs 10 --flipped 0.05
"""

import tempfile
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import ConcatDataset
from transformers import HfArgumentParser, PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging

from hf_critmom import CritMomTrainer
from hf_critmom.attribution import find_doubtful_labels, predict
from hf_critmom.tasks import DataArguments, ModelArguments, Task, build_model, load_task


@dataclass
class LabelArguments:
    """Flags of the measurement itself."""

    flipped: float = field(default=0.05, metadata={"help": "Share of the labels that is replaced by another class."})
    width: int = field(default=16, metadata={"help": "Channels of the ResNet's first stage."})
    num_train_epochs: float = field(default=15.0, metadata={"help": "Epochs of training."})
    num_seeds: int = field(default=3, metadata={"help": "Number of trained networks, each with its own flips."})
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU although there is an accelerator."})


def flip_labels(task: Task, share: float, seed: int) -> dict[str, np.ndarray]:
    """Replaces a share of the labels of every split by another class; returns which were, by split."""
    rng, classes = np.random.default_rng(seed), len(task.label_names)
    masks = {}
    for name, split in task.splits.items():
        mask = rng.random(len(split)) < share
        shifts = rng.integers(1, classes, size=len(split))
        split.labels = np.where(mask, (split.labels + shifts) % classes, split.labels)
        masks[name] = mask
    return masks


def measure(task: Task, flags: LabelArguments, seed: int) -> tuple[float, float, float, int, int]:
    """Precision, recall, accuracy on the given labels, number of doubtful and of flipped examples of one network."""
    masks = flip_labels(task, flags.flipped, seed)
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            optim="critmom_hybrid",
            learning_rate=0.1,
            lr_scheduler_type="cosine",
            weight_decay=5e-4,
            num_train_epochs=flags.num_train_epochs,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=500,
            max_grad_norm=0.0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=flags.use_cpu,
            seed=seed,
        )
        trainer = CritMomTrainer(
            model=build_model(task, ModelArguments(width=flags.width), seed=seed),
            args=args,
            train_dataset=task.train,
            data_collator=task.collator,
            callbacks=task.callbacks(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        examples = ConcatDataset([task.validation, task.test])
        loader = trainer.get_eval_dataloader(examples)
        predictions = predict(trainer.model, loader, accelerator=trainer.accelerator, probabilities=True)
    flipped = np.concatenate([masks["validation"], masks["test"]])
    doubtful = [one.index for one in find_doubtful_labels(predictions)]
    hits = int(flipped[doubtful].sum())
    return (
        hits / max(len(doubtful), 1),
        hits / max(int(flipped.sum()), 1),
        predictions.accuracy,
        len(doubtful),
        int(flipped.sum()),
    )


def main() -> None:
    """Prints precision and recall of every seed, and their means."""
    flags, data = HfArgumentParser((LabelArguments, DataArguments)).parse_args_into_dataclasses()
    logging.set_verbosity_error()
    found = []
    for seed in range(flags.num_seeds):
        precision, recall, accuracy, doubtful, flipped = measure(load_task(data), flags, seed)
        found.append((precision, recall))
        print(
            f"seed {seed}: {flipped} of the labels flipped, {doubtful} doubtful, precision {precision:.3f}, recall "
            f"{recall:.3f}; accuracy on the given labels {accuracy:.3f}"
        )
    precision, recall = (sum(values) / len(values) for values in zip(*found, strict=True))
    print(f"mean of {flags.num_seeds} seeds: precision {precision:.3f}, recall {recall:.3f}")


if __name__ == "__main__":
    main()
