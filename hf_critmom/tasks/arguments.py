"""What a task is made of, as flags: the data and the model. Names mean what they mean in the official examples."""

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
            "help": "A task by name (digits, cifar10, text), or a folder or data set of images on the Hub. text is "
            "Python's own standard library, or what --dataset_name or --train_file names."
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "A data set on the Hub, or a folder that datasets.load_dataset reads."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_dir: str | None = field(default=None, metadata={"help": "A folder of training images, a folder per class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same for validation."})
    test_dir: str | None = field(default=None, metadata={"help": "The same for the test set."})
    train_file: str | None = field(
        default=None, metadata={"help": "Training text: a file of text, or of JSON, CSV or Parquet with a text a row."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "The same for validation."})
    test_file: str | None = field(default=None, metadata={"help": "The same for the test set."})
    train_val_split: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training data that becomes a validation or test split that is not given; default: "
            "the task's (0.1)."
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of these splits; the same for every arm and seed."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only so many training examples; of text, blocks."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only so many examples for validation and for testing; of text, blocks."}
    )
    image_column_name: str | None = field(default=None, metadata={"help": "Column of the images, found by its type."})
    label_column_name: str | None = field(default=None, metadata={"help": "Column of the labels, found by its type."})
    image_size: int | None = field(
        default=None, metadata={"help": "Resize images to squares of this many pixels; default: as they are."}
    )
    crop_padding: int | None = field(
        default=None, metadata={"help": "Padding of the random crop in pixels; default: the task's (0: no crop)."}
    )
    random_flip: bool | None = field(
        default=None, metadata={"help": "Mirror half of the training images; default: the task's."}
    )
    text_column_name: str | None = field(
        default=None, metadata={"help": "Column of the texts; default: text, or the only one of strings."}
    )
    block_size: int | None = field(
        default=None, metadata={"help": "Tokens that a language model sees at a time; default: the task's (128)."}
    )
    metric: str | None = field(
        default=None,
        metadata={"help": "What targets are values of: accuracy; of text bits_per_byte (the default) or perplexity."},
    )


@dataclass
class CheckpointArguments:
    """Flags that say how a model is loaded."""

    _argument_group_name: ClassVar[str] = "checkpoint"

    dtype: str = field(
        default="float32",
        metadata={
            "help": "Number type that the weights are loaded and trained in: float32, bfloat16, float16, or auto, the "
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
        metadata={"help": "A model by name, trained from scratch: resnet18 or vit for images, gpt2 or llama for text."},
    )
    width: int | None = field(
        default=None, metadata={"help": "Channels of the ResNet's first stage; default: the task's (64 is the usual)."}
    )
    hidden_size: int | None = field(default=None, metadata={"help": "Width of a transformer's layers."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Number of a transformer's layers."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Heads of each of these layers."})
    patch_size: int | None = field(
        default=None, metadata={"help": "Pixels of a side of the vision transformer's patches."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint on the Hub or in a folder instead, to be fine-tuned: an image classifier, with its "
            "image processor, or a causal language model, with its tokenizer."
        },
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "A tokenizer on the Hub or in a folder; default: the checkpoint's, or bytes."}
    )
