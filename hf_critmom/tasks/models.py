"""The models that a task can be trained with."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_critmom.errors import root_message
from hf_critmom.tasks.arguments import ModelArguments
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.image_task import ImageTask
from hf_critmom.tasks.pretrained import load_pretrained
from hf_critmom.tasks.resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.tasks.task import Task
from hf_critmom.tasks.text_task import TextTask

SIZES = ("width", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
"""Flags of `ModelArguments` that size a model."""


@dataclass(frozen=True)
class ModelSpec:
    """An entry of the table of models.

    Attributes:
        name: What ``--model`` is called with.
        task: The kind of task that it is for.
        build: Makes one with random weights, for a task, in the sizes given.
        sizes: The flags in `SIZES` that it takes, and what they are where none is given.
        training_defaults: Values of `TrainingArguments` where no flag was given, over the task's own.
    """

    name: str
    task: type[Task]
    build: Callable[[Any, Mapping[str, int]], PreTrainedModel]
    sizes: Mapping[str, int]
    training_defaults: Mapping[str, Any] = field(default_factory=dict)


def _resnet18(task: ImageTask, sizes: Mapping[str, int]) -> PreTrainedModel:
    channels, height, _ = task.image_shape
    config = CifarResNetConfig(width=sizes["width"], num_channels=channels, image_size=height, **_labels(task))
    return CifarResNetForImageClassification(config)


def _vit(task: ImageTask, sizes: Mapping[str, int]) -> PreTrainedModel:
    channels, height, width = task.image_shape
    patch = sizes["patch_size"]
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"Images of {width}x{height} pixels are not made of patches of {patch}: change --patch_size.")
    config = ViTConfig(
        **_transformer(sizes),
        intermediate_size=4 * sizes["hidden_size"],
        patch_size=patch,
        image_size=(height, width),
        num_channels=channels,
        **_labels(task),
    )
    return ViTForImageClassification(config)


def _gpt2(task: TextTask, sizes: Mapping[str, int]) -> PreTrainedModel:
    # Without dropout a run is a function of its data, however many processes share it.
    return _language_model("gpt2", task, sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def _llama(task: TextTask, sizes: Mapping[str, int]) -> PreTrainedModel:
    # Three matrices instead of two: two thirds of the usual width cost as much (Shazeer, arXiv 2002.05202).
    intermediate_size = 8 * math.ceil(8 * sizes["hidden_size"] / 3 / 8)
    return _language_model("llama", task, sizes, intermediate_size=intermediate_size, tie_word_embeddings=True)


def _language_model(model_type: str, task: TextTask, sizes: Mapping[str, int], **options: Any) -> PreTrainedModel:
    special = {name: getattr(task.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(
        model_type,
        **_transformer(sizes),
        vocab_size=task.vocab_size,
        max_position_embeddings=task.block_size,
        use_cache=False,
        **special,
        **options,
    )
    return _with_counted_loss(AutoModelForCausalLM.from_config(config))


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("resnet18", ImageTask, _resnet18, {"width": 64}),
        ModelSpec(
            "vit",
            ImageTask,
            _vit,
            {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "patch_size": 4},
        ),
        ModelSpec("gpt2", TextTask, _gpt2, {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}),
        ModelSpec("llama", TextTask, _llama, {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}),
    )
}


def build_model(task: Task, arguments: ModelArguments, seed: int) -> PreTrainedModel:
    """A model for a task: the weights are a function of the arguments and the seed alone.

    Raises:
        TaskError: If the model is not known, cannot be loaded, or cannot be trained on the task's data.
    """
    set_seed(seed)
    if arguments.model_name_or_path is not None:
        return _PRETRAINED[type(task)](task, arguments.model_name_or_path)
    spec = _model_spec(task, arguments)
    try:
        return spec.build(task, _sizes(spec, arguments))
    except ValueError as error:
        raise TaskError(str(error)) from None


def model_record(task: Task, arguments: ModelArguments) -> dict[str, Any]:
    """What identifies the model, as JSON: the checkpoint, or the name and the sizes."""
    if arguments.model_name_or_path is not None:
        return {"model_name_or_path": arguments.model_name_or_path}
    spec = _model_spec(task, arguments)
    return {"model": spec.name, **_sizes(spec, arguments)}


def check_model(model: PreTrainedModel, task: Task) -> None:
    """Runs two training examples through a model, as the Trainer would, before hours are spent on it.

    Raises:
        TaskError: If the model does not accept them or returns no finite loss.
    """
    training = model.training
    model.eval()
    try:
        batch = task.collator(task.train.__getitems__([0, min(1, len(task.train) - 1)]))
        with torch.no_grad():
            outputs = model(**batch)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise TaskError(
            f"{type(model).__name__} cannot process {task.inputs_in_words} ({root_message(error)}): {task.remedy}."
        ) from error
    finally:
        model.train(training)
    loss = outputs.get("loss") if isinstance(outputs, dict) else None
    if loss is None or not math.isfinite(float(loss)):
        raise TaskError(
            f"{type(model).__name__} returned {'no loss' if loss is None else f'the loss {float(loss)}'} for labelled "
            f"{task.example}s: expected a model that computes a finite loss from labels, such as those of the Auto "
            "classes."
        )


def _pretrained_classifier(task: ImageTask, name_or_path: str) -> PreTrainedModel:
    return load_pretrained(
        AutoModelForImageClassification,
        name_or_path,
        "image classifier",
        ignore_mismatched_sizes=True,
        **_labels(task),
    )


def _pretrained_language_model(task: TextTask, name_or_path: str) -> PreTrainedModel:
    model = load_pretrained(AutoModelForCausalLM, name_or_path, "causal language model")
    embedded, tokens = model.get_input_embeddings().num_embeddings, task.vocab_size
    if tokens > embedded:
        raise TaskError(
            f"The tokenizer has {tokens:,} tokens and {name_or_path!r} embeds {embedded:,}: give the tokenizer that "
            "the model was trained with as --tokenizer_name."
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and task.block_size > positions:
        raise TaskError(
            f"--block_size {task.block_size} exceeds the {positions:,} positions of {name_or_path!r}: choose a block "
            "that fits."
        )
    return _with_counted_loss(model)


def _with_counted_loss(model: PreTrainedModel) -> PreTrainedModel:
    """Tells a language model whose class does not say ForCausalLM, as GPT-2's, what its loss is.

    Transformers falls back on that loss anyway, but the Trainer would then divide each block's sum by a token more than
    were predicted.
    """
    model.loss_type = model.loss_type or "ForCausalLM"
    return model


_PRETRAINED: dict[type[Task], Callable[[Any, str], PreTrainedModel]] = {
    ImageTask: _pretrained_classifier,
    TextTask: _pretrained_language_model,
}


def _model_spec(task: Task, arguments: ModelArguments) -> ModelSpec:
    fitting = [name for name, spec in MODELS.items() if isinstance(task, spec.task)]
    name = fitting[0] if arguments.model is None else arguments.model
    if name not in fitting:
        raise TaskError(
            f"Unknown model {name!r} for {task.example}s: choose one of {', '.join(fitting)}, or give "
            "--model_name_or_path."
        )
    return MODELS[name]


def _sizes(spec: ModelSpec, arguments: ModelArguments) -> dict[str, int]:
    """The sizes of a model: what was given, else its own."""
    given = {name: value for name in SIZES if (value := getattr(arguments, name)) is not None}
    if others := [name for name in given if name not in spec.sizes]:
        known = ", ".join(f"--{name}" for name in spec.sizes)
        raise TaskError(f"--{others[0]} has no meaning for {spec.name}, which is sized by {known}: leave it out.")
    return {**spec.sizes, **given}


def _transformer(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes that all transformers have, as configurations name them."""
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if min(hidden, heads, sizes["num_hidden_layers"]) < 1 or hidden % heads:
        raise ValueError(
            f"A transformer needs at least a layer, and as many heads as divide its width, got --hidden_size {hidden}, "
            f"--num_attention_heads {heads} and --num_hidden_layers {sizes['num_hidden_layers']}."
        )
    return {name: sizes[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}


def _labels(task: ImageTask) -> dict[str, Any]:
    """Classes as configurations hold them."""
    return {
        "num_labels": len(task.label_names),
        "id2label": dict(enumerate(task.label_names)),
        "label2id": {name: index for index, name in enumerate(task.label_names)},
    }
