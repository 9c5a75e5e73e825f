"""Flags of a task: its data and its model. Their names mean what they mean in the official example scripts."""

from dataclasses import dataclass, field
from typing import ClassVar

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass
class DataArguments:
    """Flags that choose the data and its splits."""

    _argument_group_name: ClassVar[str] = "data"

    task: str = field(
        default="digits",
        metadata={
            "help": "Task: digits, cifar10 or text, or a dataset of images (a folder or a name on the Hub). text is "
            "Python's own standard library, unless --dataset_name or --train_file names other text."
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
            "has no such split; default: 0.2 for digits, else 0.1."
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
        default=None, metadata={"help": "Column of the images; default: image, img, or the only column of images."}
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of the labels; default: label, labels, or the only column of classes."}
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Width and height in pixels to which all images are resized; default: no resizing."},
    )
    crop_padding: int | None = field(
        default=None,
        metadata={
            "help": "Zero padding in pixels for the random crop of training images, 0 for no crop; default: 1 for "
            "digits, else an eighth of the image size."
        },
    )
    random_flip: bool | None = field(
        default=None,
        metadata={"help": "Flip half of the training images horizontally; default: true, except for digits."},
    )
    text_column_name: str | None = field(
        default=None, metadata={"help": "Column of the texts; default: text, or the only column of strings."}
    )
    block_size: int | None = field(
        default=None,
        metadata={"help": "Number of tokens in a block, the context length of the language model; default: 128."},
    )
    metric: str | None = field(
        default=None,
        metadata={
            "help": "Metric of the targets: accuracy for images; bits_per_byte (default), perplexity or accuracy for "
            "text."
        },
    )


@dataclass
class CheckpointArguments:
    """Flags that say how the weights of a model are loaded."""

    _argument_group_name: ClassVar[str] = "checkpoint"

    dtype: str = field(
        default="float32",
        metadata={
            "help": "dtype in which weights are loaded and trained: float32, bfloat16, float16, or auto for the one in "
            "which the checkpoint is stored. Plain half precision loses most of the small updates of SGD; mixed "
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
        metadata={"help": "Model to train from scratch: resnet18 or vit for images, gpt2 or llama for text."},
    )
    width: int | None = field(
        default=None,
        metadata={"help": "Number of channels in the first stage of the ResNet; default: 16 for digits, else 64."},
    )
    hidden_size: int | None = field(default=None, metadata={"help": "Hidden size of the transformer."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Number of layers in the transformer."})
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Number of attention heads in each layer of the transformer."}
    )
    patch_size: int | None = field(
        default=None, metadata={"help": "Width and height in pixels of each patch of the vision transformer."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to fine-tune instead of training from scratch, a folder or a name on the Hub: an image "
            "classifier with its image processor, or a causal language model with its tokenizer."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer, a folder or a name on the Hub; default: the checkpoint's, else bytes."},
    )
