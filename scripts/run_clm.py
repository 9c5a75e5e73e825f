# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate>=1.15",
#     "datasets>=5.2",
#     "huggingface_hub>=1.33",
#     "torch>=2.11",
#     "transformers>=5.17,<6",
# ]
# ///
"""Trains a causal language model with the Trainer, in the form of the official Transformers examples.

Fine-tunes ``--model_name_or_path``, or trains ``--model_type`` with ``--config_overrides`` from scratch, on a dataset
or on local files; the tokenizer ``bytes`` needs no files. Repeating the command resumes from the last checkpoint. All
arguments can be given in a single ``.json`` file.

    python scripts/run_clm.py --model_type gpt2 --config_overrides n_layer=2,n_head=2,n_embd=64 --tokenizer_name bytes \
        --train_file corpus.txt --block_size 128 --do_train --do_eval --output_dir out

Plain Transformers throughout: ``hf-critmom run scripts/run_clm.py --optim critmom_adamw ...`` adds the optimizers.
"""

import glob
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer, set_seed
from transformers.hf_argparser import HfArgumentParser
from transformers.trainer import Trainer, TrainingArguments
from transformers.trainer_utils import EvalPrediction
from transformers.utils import logging


@dataclass
class ModelArguments:
    """The model to train, and its tokenizer."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to fine-tune: a folder, or its name on the Hub."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration of a model to train from scratch."})
    model_type: str | None = field(default=None, metadata={"help": "Architecture to train from scratch, such as gpt2."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Settings of the architecture, such as n_layer=2,n_embd=64."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer, or bytes, which needs no files; default: the model's."}
    )
    dtype: str = field(default="float32", metadata={"help": "Data type to load a checkpoint in, or auto."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run Python code that comes with a checkpoint."})


@dataclass
class DataTrainingArguments:
    """The data to train and evaluate on."""

    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, or a local folder."})
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, if it has several."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Training data in a txt, json or csv file, instead of a dataset."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Validation data, likewise."})
    validation_split_percentage: int = field(
        default=5,
        metadata={
            "help": "Percentage of the training data, from its end, to evaluate on if there is no validation split."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Largest number of training blocks."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Largest number of validation blocks."})
    block_size: int | None = field(
        default=None, metadata={"help": "Tokens per block; default: what the model takes, up to 1024."}
    )


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Ends the script with one sentence if an argument or a file of the user is invalid."""
    try:
        yield
    except (OSError, TypeError, ValueError, DatasetsError, StrictDataclassError) as error:
        sys.exit(f"{Path(__file__).name}: error: {what}: {' '.join(str(error).split())}")


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


def load_model(args: ModelArguments) -> tuple[Any, Any]:
    """Loads or creates model and tokenizer; the vocabulary and special tokens of a new model are the tokenizer's."""
    tokenizer_name = args.tokenizer_name or args.model_name_or_path
    if not tokenizer_name or not (args.model_name_or_path or args.config_name or args.model_type):
        raise ValueError("pass --model_name_or_path, or --tokenizer_name with --config_name or --model_type.")
    if args.config_overrides and (args.model_name_or_path or args.config_name):
        raise ValueError("--config_overrides needs --model_type, without --config_name and --model_name_or_path.")
    own_code = {"trust_remote_code": args.trust_remote_code}  # without it, Transformers would ask on the terminal
    if tokenizer_name == "bytes":
        tokenizer = ByT5Tokenizer(extra_ids=0)
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name, **own_code)
    if args.model_name_or_path:
        model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=args.dtype, **own_code)
    elif args.config_name:
        config = AutoConfig.from_pretrained(args.config_name, **own_code)
        model = AutoModelForCausalLM.from_config(config, **own_code)
    else:
        settings = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        settings |= {"vocab_size": len(tokenizer), **parse_overrides(args.config_overrides, args.model_type)}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(args.model_type, **settings))
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def load_blocks(args: DataTrainingArguments, tokenizer: Any, block_size: int) -> DatasetDict:
    """Tokenizes and concatenates the texts, and cuts them into blocks; each batch of texts loses less than a block."""
    given = {"train": args.train_file, "validation": args.validation_file}
    files = {split: glob.escape(name) for split, name in given.items() if name}  # not as a glob pattern
    suffix = Path(next(iter(files.values()), "")).suffix
    if args.dataset_name:
        splits = load_dataset(args.dataset_name, args.dataset_config_name)
    elif suffix == ".txt":
        splits = load_dataset("text", data_files=files, keep_linebreaks=True)
    elif suffix in (".json", ".csv"):
        splits = load_dataset(suffix[1:], data_files=files)
    else:
        raise ValueError("pass --dataset_name, or --train_file and --validation_file named .txt, .json or .csv.")
    columns = next(iter(splits.values())).column_names
    column = "text" if "text" in columns else columns[0]

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        # The lines of a text file are not separate documents, so they get no end-of-sequence tokens.
        ids = chain.from_iterable(tokenizer(batch[column], add_special_tokens=suffix != ".txt")["input_ids"])
        blocks = [list(block) for block in zip(*[ids] * block_size, strict=False)]
        return {"input_ids": blocks, "labels": blocks}

    splits = splits.map(tokenize, batched=True, remove_columns=columns, desc=f"Blocks of {block_size} tokens")
    if not {"train", "validation"} & set(splits):
        raise ValueError(f"there is no split train or validation, only {', '.join(splits)}.")
    if "validation" not in splits and len(splits["train"]) > 1:
        parts = splits["train"].train_test_split(args.validation_split_percentage / 100, shuffle=False)
        splits = DatasetDict(train=parts["train"], validation=parts["test"])
    for split, limit in (("train", args.max_train_samples), ("validation", args.max_eval_samples)):
        if limit is not None and split in splits:
            splits[split] = splits[split].select(range(min(limit, len(splits[split]))))
    return splits


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """The checkpoint given on the command line, else the last complete one in the output folder."""
    complete = [path.parent for path in Path(args.output_dir).glob("checkpoint-*/trainer_state.json")]
    last = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    checkpoint = Path(args.resume_from_checkpoint) if args.resume_from_checkpoint else last
    if checkpoint and not checkpoint.is_dir():
        raise ValueError(f"--resume_from_checkpoint: there is no folder {checkpoint}.")
    return str(checkpoint) if checkpoint else None


def predicted_tokens(logits: Any, labels: Any) -> Any:
    """The most likely token at each position, so that logits need not be kept."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Share of correctly predicted next tokens."""
    predicted, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
    return {"accuracy": float((predicted == labels)[labels != -100].mean())}


def main() -> None:
    """Trains, evaluates, writes the model card and pushes, depending on the arguments."""
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    with one_sentence("arguments"):
        if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
            model_args, data_args, training_args = parser.parse_json_file(sys.argv[1])
        else:
            model_args, data_args, training_args = parser.parse_args_into_dataclasses()
        checkpoint = checkpoint_to_resume(training_args)
    logging.set_verbosity(training_args.get_process_log_level())
    set_seed(training_args.seed)
    with one_sentence("model"):
        model, tokenizer = load_model(model_args)
        if checkpoint and training_args.do_train:  # the Trainer does not load weights saved under older names
            model = type(model).from_pretrained(checkpoint, dtype=model.dtype)
        longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 1024)
        block_size = data_args.block_size or min(longest, 1024)
        if not 1 < block_size <= longest:
            raise ValueError(f"it takes blocks of 2 to {longest} tokens, but --block_size is {block_size}.")
    with one_sentence("data"), training_args.main_process_first(desc="preparing the data"):
        splits = load_blocks(data_args, tokenizer, block_size)
        for split, is_wanted in (("train", training_args.do_train), ("validation", training_args.do_eval)):
            if is_wanted and not splits.get(split):
                raise ValueError(f"there is no {split} text of at least one block of {block_size} tokens.")

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=predicted_tokens,
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate()
        metrics["perplexity"] = math.exp(min(metrics["eval_loss"], 700.0))
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if not model_args.model_name_or_path:
        model.config.name_or_path = training_args.output_dir  # otherwise, the card calls it fine-tuned
    on_hub = None if Path(data_args.dataset_name or ".").exists() else data_args.dataset_name
    card = {"finetuned_from": model_args.model_name_or_path, "tasks": "text-generation"}
    publish = trainer.push_to_hub if training_args.push_to_hub else trainer.create_model_card
    publish(**card, dataset=on_hub, dataset_tags=on_hub)


if __name__ == "__main__":
    main()
