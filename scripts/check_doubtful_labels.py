"""Flips labels of a task, and measures the precision and recall with which they are found as doubtful labels.

In every split, including the training split, a fraction of the labels is replaced by random other classes, like errors
of human annotators. After training a network, doubtful labels are searched for among its misclassified examples of the
validation and test splits, as `hf-critmom repair --check_labels` does. Precision is the fraction of the doubtful labels
that were flipped, recall the fraction of the flipped labels that are doubtful.

    python scripts/check_doubtful_labels.py                        # digits, 5 % of the labels, three seeds, two minutes
    python scripts/check_doubtful_labels.py --task data/cifar10 --width 16 --num_train_epochs 10 --flipped 0.05
"""

import tempfile
from dataclasses import dataclass, field

import numpy as np
from command_line import check_positive, one_sentence, parse_dataclasses
from torch.utils.data import ConcatDataset
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging

from hf_critmom import CritMomTrainer
from hf_critmom.attribution import find_doubtful_labels, predict
from hf_critmom.errors import InputError
from hf_critmom.tasks import DataArguments, ModelArguments, Task, build_model, load_task
from hf_critmom.tasks.image_task import ImageTask


@dataclass
class LabelArguments:
    """Flags of the measurement."""

    flipped: float = field(default=0.05, metadata={"help": "Fraction of the labels to flip."})
    width: int = field(default=16, metadata={"help": "Channels of the ResNet's first stage."})
    num_train_epochs: float = field(default=15.0, metadata={"help": "Epochs of training."})
    num_seeds: int = field(default=3, metadata={"help": "Number of networks, each with its own flips."})
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU even if there is an accelerator."})

    def __post_init__(self) -> None:
        check_positive(self, "width", "num_train_epochs", "num_seeds")
        if not 0.0 < self.flipped < 1.0:
            raise ValueError(f"--flipped must be between 0 and 1, got {self.flipped}.")


def flip_labels(task: Task, share: float, seed: int) -> dict[str, np.ndarray]:
    """Flips a fraction of the labels of every split; returns a mask of the flipped ones for each split."""
    rng, classes = np.random.default_rng(seed), len(task.label_names)
    masks = {}
    for name, split in task.splits.items():
        mask = rng.random(len(split)) < share
        shifts = rng.integers(1, classes, size=len(split))
        split.labels = np.where(mask, (split.labels + shifts) % classes, split.labels)
        masks[name] = mask
    return masks


def measure(task: Task, flags: LabelArguments, seed: int) -> tuple[float, float, float, int, int]:
    """Precision, recall, accuracy on the given labels, and numbers of doubtful and flipped labels of one network."""
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
    """Prints precision and recall for every seed, and their means."""
    flags, data = parse_dataclasses(LabelArguments, DataArguments, description=__doc__.splitlines()[0])
    task = load_task(data)
    if not isinstance(task, ImageTask):
        raise InputError(f"{task.name} is not an image task: name one with --task.")
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
    with one_sentence():
        main()
