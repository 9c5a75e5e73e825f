"""The table of tasks, and how one is built from flags."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_critmom.tasks.arguments import DataArguments, ModelArguments
from hf_critmom.tasks.corpora import load_standard_library, load_texts, standard_library
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.image_task import ImageTask, image_task
from hf_critmom.tasks.models import MODELS
from hf_critmom.tasks.paths import is_file, is_folder
from hf_critmom.tasks.sources import dataset_of, load_digits, load_images
from hf_critmom.tasks.task import Task
from hf_critmom.tasks.text_task import TextTask, text_task


@dataclass(frozen=True)
class TaskSpec:
    """An entry of the table of tasks.

    Attributes:
        name: Value of ``--task``.
        load: Reads the data from its source.
        kind: Class of the task that the data becomes.
        source: Where the data comes from, for cards; None: the dataset that the flags name.
        data_defaults: Defaults of `DataArguments`.
        model_defaults: Defaults of `ModelArguments`, by the name of the model.
        training_defaults: Defaults of `TrainingArguments`.
        targets: Default targets: metric values, the time to each of which is measured. None: a pilot run sets them.
    """

    name: str
    load: Callable[[DataArguments], Any]
    kind: type[Task] = ImageTask
    source: str | None = None
    data_defaults: Mapping[str, Any] = field(default_factory=dict)
    model_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training_defaults: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[float, ...] | None = None


# From trials of 300 steps on Shakespeare's works with one seed: with warm-up and clipping, constant momentum and
# critmom end within 0.02 bits per byte of their best at learning rate 0.1, the default of every comparison.
_TEXTS = TaskSpec(
    "texts",
    load_texts,
    TextTask,
    data_defaults={"train_val_split": 0.1, "block_size": 128},
    training_defaults={
        "num_train_epochs": 1.0,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "warmup_steps": 0.1,
        "max_grad_norm": 1.0,
        "eval_strategy": "steps",
        "eval_steps": 0.05,
    },
)

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "digits",
            load_digits,
            source="scikit-learn, load_digits (1,797 images of 8x8 pixels)",
            data_defaults={"train_val_split": 0.2, "crop_padding": 1, "random_flip": False},
            model_defaults={"resnet18": {"width": 16}, "vit": {"patch_size": 2}},
            training_defaults={
                "num_train_epochs": 15.0,
                "per_device_train_batch_size": 64,
                "evaluations_per_epoch": 4,  # fixed, not measured: the default run is the same on every machine
            },
            targets=(0.9, 0.95),  # many runs miss 0.98, which halves the power at a true ratio of 1.5
        ),
        TaskSpec(
            "cifar10",
            load_images,
            data_defaults={"dataset_name": "uoft-cs/cifar10", "train_val_split": 0.1},
            training_defaults={"num_train_epochs": 30.0},
            targets=(0.8, 0.85, 0.9),
        ),
        TaskSpec(
            "images",
            load_images,
            data_defaults={"train_val_split": 0.1},
            training_defaults={"num_train_epochs": 30.0},
        ),
        _TEXTS,
        dataclasses.replace(
            _TEXTS,
            name="text",
            load=load_standard_library,
            source=standard_library(),
            data_defaults={**_TEXTS.data_defaults, "max_train_samples": 10_000, "max_eval_samples": 300},
            targets=(3.5, 3.0, 2.5),
        ),
    )
}

_UNNAMED = ("images", "texts")
_PREPARE: dict[type[Task], Callable[..., Task]] = {ImageTask: image_task, TextTask: text_task}
_TEXT_FILES = ("train_file", "validation_file", "test_file")
_IMAGE_FOLDERS = ("train_dir", "validation_dir", "test_dir")
_OWN_FLAGS: dict[type[Task], tuple[str, ...]] = {
    ImageTask: (
        *_IMAGE_FOLDERS,
        *("image_column_name", "label_column_name", "image_size", "crop_padding", "random_flip"),
    ),
    TextTask: (*_TEXT_FILES, "text_column_name", "block_size", "tokenizer_name"),
}


def task_spec(arguments: DataArguments) -> TaskSpec:
    """The table's entry for the flags; folders and names on the Hub are "images", or "texts" if flags say so."""
    texts = arguments.task == "text" or _given(arguments, (*_TEXT_FILES, "text_column_name"))
    unnamed = TASKS["texts" if texts else "images"]
    return unnamed if _names_data(arguments) else TASKS.get(arguments.task, unnamed)


def task_name(arguments: DataArguments) -> str:
    """What the task is called in titles: its name in the table, or that of the file, folder or dataset."""
    if task_spec(arguments).name not in _UNNAMED:
        return arguments.task
    dataset = Path(dataset_of(arguments))
    return dataset.stem if is_file(dataset) else (dataset.absolute() if is_folder(dataset) else dataset).name


def flag_defaults(data: DataArguments, model: ModelArguments) -> dict[str, Any]:
    """Defaults of the model and training flags: the task's, overridden by the model's own."""
    spec = task_spec(data)
    fitting = [name for name, known in MODELS.items() if known.task is spec.kind]
    name = model.model or fitting[0]
    if model.model_name_or_path is not None or name not in fitting:
        return dict(spec.training_defaults)
    known = MODELS[name]
    sizes = {**known.sizes, **spec.model_defaults.get(name, {})}
    return {**sizes, **spec.training_defaults, **known.training_defaults}


def load_task(request: DataArguments, model: ModelArguments | None = None) -> Task:
    """Loads, splits and prepares the data of a task; flags that ``request`` leaves open get the task's defaults.

    Args:
        request: Flags of the data.
        model: Flags of the model; a checkpoint decides how images are normalised or text is tokenised.

    Raises:
        TaskError: One sentence, if the data cannot be used.
    """
    spec = task_spec(request)
    model = model or ModelArguments()
    for kind, flags in _OWN_FLAGS.items():
        if kind is not spec.kind and (strangers := _given(request, flags) + _given(model, flags)):
            raise TaskError(f"--{strangers[0]} has no meaning for a task of {spec.kind.example}s: leave it out.")
    arguments = _completed(request, spec)
    for flag, value in [*vars(request).items(), *vars(model).items()]:
        if value == "":
            raise TaskError(f"--{flag} is empty: give a value, or leave it out.")
    if not 0 <= request.split_seed < 2**32:
        raise TaskError(f"--split_seed must be between 0 and {2**32 - 1}, got {request.split_seed}.")
    metric = request.metric or spec.kind.metrics[0]
    if metric not in spec.kind.metrics:
        raise TaskError(f"--metric {metric} is not measured on this task: choose {' or '.join(spec.kind.metrics)}.")
    return _PREPARE[spec.kind](
        spec.load(arguments),
        arguments,
        model,
        name=task_name(request),
        source=spec.source or _public_name(dataset_of(arguments)),
        metric=metric,
    )


def _names_data(arguments: DataArguments) -> bool:
    """Whether a flag other than ``--task`` says where the data is."""
    return bool(_given(arguments, ("dataset_name", *_TEXT_FILES, *_IMAGE_FOLDERS)))


def _given(arguments: DataArguments | ModelArguments, flags: tuple[str, ...]) -> list[str]:
    """The flags among ``flags`` that were given."""
    return [flag for flag in flags if getattr(arguments, flag, None) is not None]


def _completed(arguments: DataArguments, spec: TaskSpec) -> DataArguments:
    """The arguments, with the task's defaults for flags that were not given."""
    changes = {name: value for name, value in spec.data_defaults.items() if getattr(arguments, name) is None}
    if spec.name in _UNNAMED and not _names_data(arguments):
        changes["dataset_name"] = arguments.task
    return dataclasses.replace(arguments, **changes)


def _public_name(dataset: str) -> str:
    """The name of a local folder or file instead of its path, which means nothing to others."""
    path = Path(dataset)
    if is_file(path) or is_folder(path):
        return f"local {'file' if is_file(path) else 'folder'} {path.resolve().name}"
    return dataset
