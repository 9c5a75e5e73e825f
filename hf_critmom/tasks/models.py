"""The models that a task can be trained with."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel, set_seed

from hf_critmom.errors import reason
from hf_critmom.tasks.arguments import ModelArguments
from hf_critmom.tasks.resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.tasks.task import Task, TaskError

NewModel = Callable[[Task, ModelArguments], PreTrainedModel]


def _resnet18(task: Task, arguments: ModelArguments) -> PreTrainedModel:
    channels, height, _ = task.image_shape
    width = 64 if arguments.width is None else arguments.width
    config = CifarResNetConfig(width=width, num_channels=channels, image_size=height, **_labels(task))
    return CifarResNetForImageClassification(config)


MODELS: dict[str, NewModel] = {"resnet18": _resnet18}


def build_model(task: Task, arguments: ModelArguments, seed: int) -> PreTrainedModel:
    """A model for a task: the weights are a function of the arguments and the seed alone.

    Raises:
        TaskError: If the model is not known, cannot be loaded, or cannot be trained on the task's images.
    """
    set_seed(seed)
    if arguments.model_name_or_path is not None:
        return _pretrained(task, arguments.model_name_or_path)
    if arguments.model not in MODELS:
        raise TaskError(
            f"Unknown model {arguments.model!r}: choose one of {', '.join(MODELS)}, or give --model_name_or_path."
        )
    try:
        return MODELS[arguments.model](task, arguments)
    except ValueError as error:
        raise TaskError(str(error)) from None


def load_checkpoint(name_or_path: str, task: Task) -> tuple[PreTrainedModel, Task]:
    """A trained checkpoint, and the task with its images normalised as the checkpoint's own processor does.

    Raises:
        TaskError: If it cannot be loaded, or was made for another task: other classes, or images of another shape.
    """
    try:
        model, info = AutoModelForImageClassification.from_pretrained(name_or_path, output_loading_info=True)
    except Exception as error:  # readers of weights raise errors of their own; the sentence keeps what it was
        raise TaskError(
            f"No image classifier could be loaded from {name_or_path!r} ({reason(error)}): expected a folder that "
            "save_pretrained wrote, such as a run's of a comparison, or the name of a model on the Hub."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise TaskError(
            f"{name_or_path} is no trained image classifier: it has no weights for {_some(tuple(missing))}; name a "
            "checkpoint that was trained on the task."
        )
    _check_classes(model, task, name_or_path)
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError):  # without one, the task's own statistics are as good as any
        processor = None
    _check_image_size(model, processor, task, name_or_path)
    if processor is not None:
        task = _normalised_by(processor, task, name_or_path)
    check_model(model, task)
    return model, task


def _check_classes(model: PreTrainedModel, task: Task, name: str) -> None:
    theirs = tuple(str(label) for _, label in sorted(model.config.id2label.items()))
    unnamed = theirs == tuple(f"LABEL_{index}" for index in range(len(theirs)))
    if len(theirs) != len(task.label_names) or not (unnamed or theirs == task.label_names):
        raise TaskError(
            f"{name} is a checkpoint of another task: it tells {_some(theirs)} apart ({len(theirs)} classes), and "
            f"{task.name} has {_some(task.label_names)} ({len(task.label_names)}); name its task with --task."
        )


def _check_image_size(model: PreTrainedModel, processor: Any, task: Task, name: str) -> None:
    expected = []
    configured = getattr(model.config, "image_size", None)
    if configured is not None:  # one number is the height; where the width must be the same, the model says so itself
        expected.append((configured, None) if isinstance(configured, int) else tuple(configured))
    if processor is not None and getattr(processor, "do_resize", False) and getattr(processor, "size", None):
        expected.append((processor.size.get("height"), processor.size.get("width")))
    found = task.image_shape[1:]
    for height, width in expected:
        if height not in (None, found[0]) or width not in (None, found[1]):
            raise TaskError(
                f"{name} is a checkpoint of another task: it takes images of {height}x{width or height} pixels, and "
                f"those of {task.name} have {found[0]}x{found[1]}; resize them with --image_size, or name its task "
                "with --task."
            )


def _normalised_by(processor: Any, task: Task, name: str) -> Task:
    """The task with a processor's statistics in the place of its own."""
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
    train, validation, test = (split.evaluated(mean=mean, std=std) for split in task.splits.values())
    return dataclasses.replace(task, train=train, validation=validation, test=test)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def check_model(model: PreTrainedModel, task: Task) -> None:
    """Runs two training images through a model, as the Trainer would, before hours are spent on it.

    Raises:
        TaskError: If the model does not accept the images or returns no finite loss.
    """
    batch = task.collator(task.train.__getitems__([0, min(1, len(task.train) - 1)]))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(**batch)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise TaskError(
            f"{type(model).__name__} cannot process images of shape {tuple(batch['pixel_values'].shape[1:])} "
            f"({reason(error)}): choose a model made for them, or resize with --image_size."
        ) from error
    finally:
        model.train(training)
    loss = outputs.get("loss") if isinstance(outputs, dict) else None
    if loss is None or not math.isfinite(float(loss)):
        raise TaskError(
            f"{type(model).__name__} returned {'no loss' if loss is None else f'the loss {float(loss)}'} for labelled "
            "images: expected a model that computes a finite loss from labels, such as an Auto image classifier."
        )


def _pretrained(task: Task, name_or_path: str) -> PreTrainedModel:
    try:
        return AutoModelForImageClassification.from_pretrained(
            name_or_path, ignore_mismatched_sizes=True, **_labels(task)
        )
    except Exception as error:  # readers of weights raise errors of their own; the sentence keeps what it was
        raise TaskError(
            f"No image classifier could be loaded from {name_or_path!r} ({reason(error)}): expected a folder that "
            "save_pretrained wrote, or the name of a model on the Hub."
        ) from error


def _labels(task: Task) -> dict[str, Any]:
    """Classes as configurations hold them."""
    return {
        "num_labels": len(task.label_names),
        "id2label": dict(enumerate(task.label_names)),
        "label2id": {name: index for index, name in enumerate(task.label_names)},
    }
