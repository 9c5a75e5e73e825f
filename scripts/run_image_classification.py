# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate>=1.15",
#     "datasets>=5.2",
#     "huggingface_hub>=1.33",
#     "pillow>=11",
#     "torch>=2.11",
#     "torchvision>=0.26",
#     "transformers>=5.17,<6",
# ]
# ///
"""Trains an image classifier with the Trainer, in the form of the official Transformers examples.

Fine-tunes ``--model_name_or_path``, or trains ``--model_type`` with ``--config_overrides`` from scratch, on a dataset
or on folders of images, one per class. Repeating the command resumes from the last checkpoint. All arguments can be
given in a single ``.json`` file.

    python scripts/run_image_classification.py --model_type vit --config_overrides image_size=32,patch_size=4 \
        --train_dir images/train --validation_dir images/test --do_train --do_eval --output_dir out

Plain Transformers throughout: ``hf-critmom run scripts/run_image_classification.py --optim critmom ...`` adds the
optimizers.
"""

import glob
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, DatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import StrictDataclassError
from torchvision import transforms
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    ViTImageProcessor,
    set_seed,
)
from transformers.hf_argparser import HfArgumentParser
from transformers.trainer import Trainer, TrainingArguments
from transformers.utils import logging


@dataclass
class ModelArguments:
    """The model to train."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to fine-tune: a folder, or its name on the Hub."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration of a model to train from scratch."})
    model_type: str | None = field(default=None, metadata={"help": "Architecture to train from scratch, such as vit."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Settings of the architecture, such as image_size=32,hidden_sizes=[16,32]."}
    )
    image_processor_name: str | None = field(
        default=None,
        metadata={"help": "Image processor; default: the checkpoint's, else ViT's with the model's image size."},
    )
    ignore_mismatched_sizes: bool = field(default=False, metadata={"help": "Replace a head for other classes."})
    dtype: str = field(default="float32", metadata={"help": "Data type to load a checkpoint in, or auto."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run Python code that comes with a checkpoint."})


@dataclass
class DataTrainingArguments:
    """The data to train and evaluate on."""

    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, or a local folder."})
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, if it has several."}
    )
    train_dir: str | None = field(
        default=None, metadata={"help": "Folder of training images, with a subfolder per class; instead of a dataset."}
    )
    validation_dir: str | None = field(default=None, metadata={"help": "Folder of validation images, likewise."})
    train_val_split: float = field(
        default=0.15,
        metadata={"help": "Fraction of the training images to evaluate on if there is no validation split."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Largest number of training images."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Largest number of validation images."})
    image_column_name: str = field(default="image", metadata={"help": "Column with the images."})
    label_column_name: str = field(default="label", metadata={"help": "Column with the classes."})


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Ends the script with one sentence if an argument or a file of the user is invalid."""
    try:
        yield
    except (OSError, TypeError, ValueError, DatasetsError, StrictDataclassError) as error:
        sys.exit(f"{Path(__file__).name}: error: {what}: {' '.join(str(error).split())}")


def load_splits(args: DataTrainingArguments, seed: int) -> DatasetDict:
    """Loads the images; a missing ``validation`` split is split off from ``train``."""
    folders = {"train": args.train_dir, "validation": args.validation_dir}
    files = {split: f"{glob.escape(folder)}/**" for split, folder in folders.items() if folder}
    if missing := [folder for folder in folders.values() if folder and not Path(folder).is_dir()]:
        raise ValueError(f"there is no folder {missing[0]}.")
    if args.dataset_name:
        splits = load_dataset(args.dataset_name, args.dataset_config_name)
    elif files:
        splits = load_dataset("imagefolder", data_files=files)
    else:
        raise ValueError("pass --dataset_name, or --train_dir and --validation_dir.")
    if "validation" not in splits:
        if "train" not in splits:
            raise ValueError(f"there is no split train or validation, only {', '.join(splits)}.")
        parts = splits["train"].train_test_split(args.train_val_split, seed=seed)
        splits = DatasetDict(train=parts["train"], validation=parts["test"])
    for name in (args.image_column_name, args.label_column_name):
        columns = next(iter(splits.values())).features
        if name not in columns:
            raise ValueError(
                f"no column {name!r}: name one of {', '.join(columns)} with --image_column_name or --label_column_name."
            )
    if not isinstance(columns[args.label_column_name], ClassLabel):
        raise ValueError(
            f"the column {args.label_column_name!r} does not hold classes: see Dataset.class_encode_column."
        )
    for split, limit in (("train", args.max_train_samples), ("validation", args.max_eval_samples)):
        if limit is not None and split in splits:
            splits[split] = splits[split].shuffle(seed=seed).select(range(min(limit, len(splits[split]))))
    return splits


def parse_overrides(text: str | None, model_type: str) -> dict[str, Any]:
    """Parses comma-separated ``key=value`` pairs; lists are in brackets."""
    overrides: dict[str, Any] = {}
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"Transformers has no --model_type {model_type!r}.")
    for key, value in (item.partition("=")[::2] for item in re.split(r",(?![^\[]*\])", text or "") if item):
        if not hasattr(AutoConfig.for_model(model_type), key):
            raise ValueError(f"{model_type} has no setting {key!r}.")
        try:
            overrides[key] = json.loads(value)
        except json.JSONDecodeError:
            overrides[key] = value  # a plain string
    return overrides


def load_model(args: ModelArguments, classes: list[str]) -> tuple[Any, Any]:
    """Loads or creates a model for these classes and its image processor."""
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    own_code = {"trust_remote_code": args.trust_remote_code}  # without it, Transformers would ask on the terminal
    if args.config_overrides and (args.model_name_or_path or args.config_name or not args.model_type):
        raise ValueError("--config_overrides needs --model_type, without --config_name and --model_name_or_path.")
    if args.model_name_or_path:
        model = AutoModelForImageClassification.from_pretrained(
            args.model_name_or_path,
            **labels,
            ignore_mismatched_sizes=args.ignore_mismatched_sizes,
            dtype=args.dtype,
            **own_code,
        )
    elif args.config_name:
        config = AutoConfig.from_pretrained(args.config_name, **labels, **own_code)
        model = AutoModelForImageClassification.from_config(config, **own_code)
    elif args.model_type:
        settings = {**labels, **parse_overrides(args.config_overrides, args.model_type)}
        model = AutoModelForImageClassification.from_config(AutoConfig.for_model(args.model_type, **settings))
    else:
        raise ValueError("pass --model_name_or_path, --config_name or --model_type.")
    if name := args.image_processor_name or args.model_name_or_path:
        return model, AutoImageProcessor.from_pretrained(name, **own_code)
    size = getattr(model.config, "image_size", 224)
    return model, ViTImageProcessor(size={"height": size, "width": size})


def batch_transform(args: DataTrainingArguments, processor: Any, training: bool) -> Callable[[dict], dict]:
    """Returns the transform of a batch of images: with augmentation for training, with a centre crop for evaluation."""
    edge = processor.size.get("shortest_edge")
    size = (edge, edge) if edge else (processor.size["height"], processor.size["width"])
    augment = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    steps = augment if training else [transforms.Resize(edge or size), transforms.CenterCrop(size)]
    normalize = transforms.Normalize(processor.image_mean, processor.image_std)
    compose = transforms.Compose([*steps, transforms.ToTensor(), normalize])

    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pixels = [compose(image.convert("RGB")) for image in batch[args.image_column_name]]
        return {"pixel_values": pixels, "labels": batch[args.label_column_name]}

    return transform


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Share of correctly classified images."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """The checkpoint given on the command line, else the last complete one in the output folder."""
    complete = [path.parent for path in Path(args.output_dir).glob("checkpoint-*/trainer_state.json")]
    last = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    checkpoint = Path(args.resume_from_checkpoint) if args.resume_from_checkpoint else last
    if checkpoint and not checkpoint.is_dir():
        raise ValueError(f"--resume_from_checkpoint: there is no folder {checkpoint}.")
    return str(checkpoint) if checkpoint else None


def main() -> None:
    """Trains, evaluates, writes the model card and pushes, depending on the arguments."""
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    with one_sentence("arguments"):
        if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
            model_args, data_args, training_args = parser.parse_json_file(sys.argv[1])
        else:
            model_args, data_args, training_args = parser.parse_args_into_dataclasses()
        checkpoint = checkpoint_to_resume(training_args)
    training_args.remove_unused_columns = False  # images are decoded when they are needed
    logging.set_verbosity(training_args.get_process_log_level())
    set_seed(training_args.seed)
    with one_sentence("data"), training_args.main_process_first(desc="preparing the data"):
        splits = load_splits(data_args, training_args.seed)
        for split, is_wanted in (("train", training_args.do_train), ("validation", training_args.do_eval)):
            if is_wanted and not splits.get(split):
                raise ValueError(f"there are no {split} images.")
    with one_sentence("model"):
        classes = next(iter(splits.values())).features[data_args.label_column_name].names
        model, processor = load_model(model_args, classes)
        if checkpoint and training_args.do_train:  # the Trainer does not load weights saved under older names
            model = type(model).from_pretrained(checkpoint, dtype=model.dtype)
    for split in splits:
        splits[split].set_transform(batch_transform(data_args, processor, training=split == "train"))

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        processing_class=processor,
        compute_metrics=compute_metrics,
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if not model_args.model_name_or_path:
        model.config.name_or_path = training_args.output_dir  # otherwise, the card calls it fine-tuned
    on_hub = None if Path(data_args.dataset_name or ".").exists() else data_args.dataset_name
    card = {"finetuned_from": model_args.model_name_or_path, "tasks": "image-classification", "tags": ["vision"]}
    publish = trainer.push_to_hub if training_args.push_to_hub else trainer.create_model_card
    publish(**card, dataset=on_hub, dataset_tags=on_hub)


if __name__ == "__main__":
    main()
