"""Flags of a task: its data and its model. Their names mean what they mean in the official example scripts."""

from dataclasses import dataclass, field
from typing import ClassVar

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass
class DataArguments:
    """Flags that choose and cut the data."""

    _argument_group_name: ClassVar[str] = "data"

    task: str = field(
        default="digits",
        metadata={
            "help": "Task: digits, cifar10 or text by name, or a dataset of images, as a folder or name on the Hub. "
            "text is Python's own standard library, unless --dataset_name or --train_file names other text."
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset: its name on the Hub, or a folder that datasets.load_dataset reads."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, if it has several."}
    )
    train_dir: str | None = field(
        default=None, metadata={"help": "Folder of training images, with one subfolder per class."}
    )
    validation_dir: str | None = field(
        default=None, metadata={"help": "Folder of validation images, with one subfolder per class."}
    )
    test_dir: str | None = field(
        default=None, metadata={"help": "Folder of test images, with one subfolder per class."}
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "File of training text: plain text, or a table (JSON, CSV, TSV, Parquet) with one text per row."
        },
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "File of validation text: plain text, or a table with one text per row."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "File of test text: plain text, or a table with one text per row."}
    )
    train_val_split: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training data that is held out for each of validation and test, where the dataset "
            "has no such split; default: the task's (0.1)."
        },
    )
    split_seed: int = field(
        default=0, metadata={"help": "Seed for holding out validation and test data; the same for all runs."}
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Largest number of training examples (blocks of text); default: all, or the task's."},
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": "Largest number of validation and of test examples (blocks of text); default: all, or the task's."
        },
    )
    image_column_name: str | None = field(
        default=None, metadata={"help": "Column of the images; default: the one of images."}
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of the labels; default: label, or the one of classes."}
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Width and height in pixels that all images are resized to; default: as they are."},
    )
    crop_padding: int | None = field(
        default=None,
        metadata={
            "help": "Padding of the random crop of training images, in pixels, 0 for no crop; default: the task's."
        },
    )
    random_flip: bool | None = field(
        default=None, metadata={"help": "Flip half of the training images from left to right; default: the task's."}
    )
    text_column_name: str | None = field(
        default=None, metadata={"help": "Column of the texts; default: text, or the only column of strings."}
    )
    block_size: int | None = field(
        default=None,
        metadata={"help": "Number of tokens in a block, the context of the language model; default: the task's (128)."},
    )
    metric: str | None = field(
        default=None,
        metadata={
            "help": "Metric of the targets: accuracy for images; bits_per_byte, perplexity or accuracy for text; "
            "default: the first."
        },
    )


@dataclass
class CheckpointArguments:
    """Flags that say how the weights of a model are loaded."""

    _argument_group_name: ClassVar[str] = "checkpoint"

    dtype: str = field(
        default="float32",
        metadata={
            "help": "Number type that weights are loaded and trained in: float32, bfloat16, float16, or auto for the "
            "one that the checkpoint is stored in. Plain half precision loses most of the small updates of SGD; mixed "
            "precision (--bf16, --fp16) keeps the weights in float32.",
            "choices": DTYPES,
        },
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run Python code that comes with a model on the Hub or in a folder; read that code first."},
    )


@dataclass
class ModelArguments(CheckpointArguments):
    """Flags that choose the model."""

    _argument_group_name: ClassVar[str] = "model"

    model: str | None = field(
        default=None,
        metadata={"help": "Model that is trained from scratch: resnet18 or vit for images, gpt2 or llama for text."},
    )
    width: int | None = field(
        default=None,
        metadata={"help": "Number of channels in the first stage of the ResNet; default: the task's, else 64."},
    )
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the layers of the transformer."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Number of layers of the transformer."})
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Number of attention heads in each layer of the transformer."}
    )
    patch_size: int | None = field(
        default=None, metadata={"help": "Width and height in pixels of the patches of the vision transformer."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint that is fine-tuned instead, as a folder or its name on the Hub: an image classifier "
            "with its image processor, or a causal language model with its tokenizer."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer, as a folder or its name on the Hub; default: the checkpoint's, else bytes."},
    )
