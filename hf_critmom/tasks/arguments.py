"""What a task is made of, as flags: the data and the model. Names mean what they mean in the official examples."""

from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """Flags that choose and cut the data."""

    task: str = field(
        default="digits",
        metadata={"help": "A task by name (digits, cifar10), a folder, or the name of a data set on the Hub."},
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "A data set on the Hub, or a folder that datasets.load_dataset reads."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_dir: str | None = field(default=None, metadata={"help": "A folder of training images, a folder per class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same for validation."})
    test_dir: str | None = field(default=None, metadata={"help": "The same for the test set."})
    train_val_split: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training data that becomes a validation or test split that is not given; default: "
            "the task's (0.1)."
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of these splits; the same for every arm and seed."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many training examples."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only so many examples for validation and for testing."}
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


@dataclass
class ModelArguments:
    """Flags that choose the model."""

    model: str = field(default="resnet18", metadata={"help": "A model by name, trained from scratch."})
    width: int | None = field(
        default=None, metadata={"help": "Channels of the ResNet's first stage; default: the task's (64 is the usual)."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "An image classifier on the Hub or in a folder instead, to be fine-tuned."}
    )
