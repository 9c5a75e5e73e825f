"""Loads trained checkpoints together with the tasks that they were trained on."""

import dataclasses
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, PreTrainedModel

from hf_critmom.tasks.arguments import CheckpointArguments, DataArguments, ModelArguments
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.image_task import ImageTask
from hf_critmom.tasks.models import check_model
from hf_critmom.tasks.pretrained import load_image_processor, load_model, load_tokenizer
from hf_critmom.tasks.registry import load_task, task_spec
from hf_critmom.tasks.task import Task
from hf_critmom.tasks.text_task import TextTask


def load_task_of(checkpoint: str, data: DataArguments, loading: CheckpointArguments | None = None) -> Task:
    """The task that the flags describe; text is tokenised as the checkpoint does it.

    Raises:
        TaskError: One sentence, if the data cannot be used.
    """
    of_text = task_spec(data).kind is TextTask
    options = vars(loading or CheckpointArguments())
    return load_task(data, ModelArguments(model_name_or_path=checkpoint, **options) if of_text else None)


def load_checkpoint(
    name_or_path: str, task: Task, loading: CheckpointArguments | None = None
) -> tuple[PreTrainedModel, Task]:
    """A trained model, and the task with its images prepared as the checkpoint's image processor does it.

    Args:
        name_or_path: A folder or a name on the Hub.
        task: The task that the checkpoint was trained on.
        loading: dtype of the weights, float32 by default, and whether code that comes with the checkpoint may run.

    Raises:
        TaskError: If the checkpoint cannot be loaded, or was trained for another task: with other classes, images or
            tokens, or with a loss other than cross-entropy over exclusive classes.
    """
    loading = loading or CheckpointArguments()
    auto, what = (
        (AutoModelForCausalLM, "causal language model")
        if isinstance(task, TextTask)
        else (AutoModelForImageClassification, "image classifier")
    )
    model, info = load_model(auto, name_or_path, what, loading, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise TaskError(
            f"{name_or_path} is not a trained {what}: it has no weights for {_some(tuple(missing))}; name a checkpoint "
            "that was trained on the task."
        )
    if isinstance(task, ImageTask):
        _check_loss(model, name_or_path)
        _check_classes(model, task, name_or_path)
        task = _prepared_for(model, name_or_path, task, loading)
    elif isinstance(task, TextTask):
        _check_tokens(model, task, name_or_path, loading)
    check_model(model, task)
    return model, task


def _check_loss(model: PreTrainedModel, name: str) -> None:
    """Refuses regression and multi-label models: their errors are not misclassifications."""
    problem_type = getattr(model.config, "problem_type", None)
    if problem_type not in (None, "single_label_classification"):
        raise TaskError(
            f"{name} was trained for {problem_type.replace('_', ' ')} (problem_type in its configuration), and "
            "mistakes are defined only for classifiers that give each image one class: name such a checkpoint."
        )


def _check_classes(model: PreTrainedModel, task: ImageTask, name: str) -> None:
    labels = tuple(str(label) for _, label in sorted(model.config.id2label.items()))
    unnamed = labels == tuple(f"LABEL_{index}" for index in range(len(labels)))
    if labels != task.label_names and sorted(labels) == sorted(task.label_names):
        place = next(i for i, pair in enumerate(zip(labels, task.label_names, strict=True)) if len(set(pair)) > 1)
        raise TaskError(
            f"{name} has the classes of {task.name} in another order: its class {place} is {labels[place]}, and that "
            f"of the data is {task.label_names[place]}. Bring the classes of the data into the checkpoint's order; or, "
            "if it was trained on this data and only id2label in its config.json is in another order, correct that."
        )
    if len(labels) != len(task.label_names) or not (unnamed or labels == task.label_names):
        raise TaskError(
            f"{name} is a checkpoint of another task: it has {_classes(labels)}, and {task.name} has "
            f"{_classes(task.label_names)}; name its task with --task."
        )


def _check_tokens(model: PreTrainedModel, task: TextTask, name: str, loading: CheckpointArguments) -> None:
    tokenizer = load_tokenizer(name, loading)
    if tokenizer.get_vocab() != task.tokenizer.get_vocab():
        raise TaskError(
            f"{name} has another tokenizer ({type(tokenizer).__name__}, {len(tokenizer):,} tokens) than the text was "
            f"tokenised with ({type(task.tokenizer).__name__}, {len(task.tokenizer):,} tokens): examine it alone."
        )


def _prepared_for(model: PreTrainedModel, name: str, task: ImageTask, loading: CheckpointArguments) -> ImageTask:
    """The task with its images as the checkpoint takes them: normalised, and resized if its processor does that."""
    processor = load_image_processor(name, loading)
    height, width = task.image_shape[1:]
    size = dict(getattr(processor, "size", None) or {}) if getattr(processor, "do_resize", False) else {}
    if size and (size.get("height"), size.get("width")) != (height, width):
        splits = {split: data.replace(processor=processor) for split, data in _image_splits(task).items()}
        return dataclasses.replace(task, **splits, processor=processor)
    configured = getattr(model.config, "image_size", None)
    if configured is not None:  # one number is the height; a model that needs the same width refuses itself
        expected = (configured, None) if isinstance(configured, int) else tuple(configured)
        if any(size not in (None, found) for size, found in zip(expected, (height, width), strict=True)):
            raise TaskError(
                f"{name} is a checkpoint of another task: it takes images of {expected[0]}x{expected[1] or expected[0]}"
                f" pixels, and those of {task.name} have {height}x{width}; resize them with --image_size, or name its "
                "task with --task."
            )
    return task if processor is None else _normalised_by(processor, task, name)


def _normalised_by(processor: Any, task: ImageTask, name: str) -> ImageTask:
    """The task normalised by a processor's statistics in place of its own."""
    known = getattr(processor, "data_config", {})  # what timm's processors have instead of attributes
    mean = getattr(processor, "image_mean", known.get("mean"))
    std = getattr(processor, "image_std", known.get("std"))
    if mean is None or std is None or not getattr(processor, "do_normalize", True):
        mean, std = 0.0, 1.0
    channels = task.image_shape[0]
    means, deviations = np.atleast_1d(mean), np.atleast_1d(std)
    if not {len(means), len(deviations)} <= {1, channels}:
        raise TaskError(
            f"{name} is a checkpoint of another task: its processor normalises {len(means)} channels, and images of "
            f"{task.name} have {channels}; name its task with --task."
        )
    mean, std = (np.broadcast_to(values, channels).tolist() for values in (means, deviations))
    splits = {split: data.replace(mean=mean, std=std) for split, data in _image_splits(task).items()}
    return dataclasses.replace(task, **splits, processor=processor)


def _image_splits(task: ImageTask) -> dict[str, Any]:
    return {"train": task.train, "validation": task.validation, "test": task.test}


def _classes(names: tuple[str, ...]) -> str:
    return f"{len(names)} class{'' if len(names) == 1 else 'es'} ({_some(names)})"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
