"""The models that a task can be trained with."""

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel, set_seed

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


def trained_model(checkpoint: str, task: Task) -> PreTrainedModel:
    """A model that was trained on a task, as it was saved.

    Raises:
        TaskError: If it cannot be loaded, has other classes, or does not take the task's images.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except Exception as error:
        raise _not_loaded(checkpoint, error) from error
    names = tuple(config.id2label[index] for index in sorted(config.id2label))
    if names != task.label_names:
        raise TaskError(
            f"{checkpoint!r} is a checkpoint of another task: it has the classes {_some(names)}, and {task.name} has "
            f"{_some(task.label_names)}. Give the task that it was trained on."
        )
    model = build_model(task, ModelArguments(model_name_or_path=checkpoint), seed=0)
    check_model(model, task)
    return model


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} others" if len(names) > 4 else "")


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
        raise _not_loaded(name_or_path, error) from error


def _not_loaded(name_or_path: str, error: Exception) -> TaskError:
    return TaskError(
        f"No image classifier could be loaded from {name_or_path!r} ({reason(error)}): expected a folder that "
        "save_pretrained wrote, or the name of a model on the Hub."
    )


def _labels(task: Task) -> dict[str, Any]:
    """Classes as configurations hold them."""
    return {
        "num_labels": len(task.label_names),
        "id2label": dict(enumerate(task.label_names)),
        "label2id": {name: index for index, name in enumerate(task.label_names)},
    }
