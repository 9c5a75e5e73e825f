"""Models for the tasks: the table of those trained from scratch, and checkpoints to fine-tune."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
from hf_critmom.storage.digest import files_digest
from hf_critmom.storage.recorded_commands import recorded_path
from hf_critmom.tasks.arguments import CheckpointArguments, ModelArguments
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.image_task import ImageTask
from hf_critmom.tasks.pretrained import load_model, stored_dtype, torch_dtype
from hf_critmom.tasks.resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.tasks.task import Task
from hf_critmom.tasks.text_task import TextTask

SIZES = ("width", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
"""Flags of `ModelArguments` that set the size of a model."""

_LARGEST = {name: 1_000 if name == "num_hidden_layers" else 100_000 for name in SIZES}


@dataclass(frozen=True)
class ModelSpec:
    """An entry of the table of models.

    Attributes:
        name: Value of ``--model``.
        task: Kind of task that the model is for.
        build: Builds the model with random weights, from a task and sizes.
        sizes: Flags in `SIZES` that apply to the model, with their defaults.
        training_defaults: Defaults of `TrainingArguments` that override the task's.
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
        raise ValueError(
            f"Images of {width}x{height} pixels cannot be cut into patches of {patch}x{patch}: change --patch_size."
        )
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
    # A gated MLP has three matrices, not two: two thirds of the usual width cost the same (Shazeer, arXiv 2002.05202).
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
    """Builds or loads a model for a task; its weights are a function of the arguments and the seed alone.

    Raises:
        TaskError: If the model is not known, cannot be loaded, or cannot be trained on the task's data.
    """
    set_seed(seed)
    if arguments.model_name_or_path is not None:
        return _PRETRAINED[type(task)](task, arguments.model_name_or_path, arguments)
    spec, dtype = _model_spec(task, arguments), torch_dtype(arguments)
    try:
        return spec.build(task, _sizes(spec, arguments)).to(dtype)
    except ValueError as error:
        raise TaskError(str(error)) from None
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        raise TaskError(
            f"A {spec.name} of these sizes cannot be built ({root_message(error)}): choose smaller ones."
        ) from error


def model_record(task: Task, arguments: ModelArguments) -> dict[str, Any]:
    """What identifies the model, as JSON.

    For a checkpoint: its name on the Hub, or the last part of its path and a digest of its files; the dtype of its
    weights in training, and the dtype that they are stored in, if known. For a model from scratch: its name and sizes,
    and the dtype if it is not float32.
    """
    if (name := arguments.model_name_or_path) is not None:
        stored = stored_dtype(name, arguments)
        dtype = stored or "float32" if arguments.dtype == "auto" else arguments.dtype
        return {**_checkpoint_record(name), "dtype": dtype, **({"stored_dtype": stored} if stored else {})}
    spec, dtype = _model_spec(task, arguments), str(torch_dtype(arguments)).removeprefix("torch.")
    return {"model": spec.name, **_sizes(spec, arguments), **({} if dtype == "float32" else {"dtype": dtype})}


def completed_record(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """Completes a stored model record to what this version would have written.

    Earlier versions recorded no dtype, because they trained a checkpoint in the dtype that it is stored in, and
    identified a checkpoint in a folder by its path alone.

    Args:
        stored: The return value of `model_record` when the experiment began, perhaps in an earlier version.
        current: Its return value now.
    """
    by_path = "checkpoint_sha256" in current and "checkpoint_sha256" not in stored
    if by_path and Path(str(stored.get("model_name_or_path"))).name == current["model_name_or_path"]:
        stored = {**stored, **{name: current[name] for name in ("model_name_or_path", "checkpoint_sha256")}}
    if "model_name_or_path" not in stored or "dtype" in stored or "dtype" not in current:
        return stored
    known = {"stored_dtype": current["stored_dtype"]} if "stored_dtype" in current else {}
    return {**stored, "dtype": current.get("stored_dtype", current["dtype"]), **known}


def _checkpoint_record(name_or_path: str) -> dict[str, Any]:
    """Identifies a checkpoint independently of its path, which would name somebody's machine."""
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        return {"model_name_or_path": name_or_path}
    weights = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin") and file.is_file()]
    weights = [file for file in weights if file.name != "training_args.bin"]
    return {"model_name_or_path": recorded_path(folder.resolve().name), "checkpoint_sha256": files_digest(weights)}


def check_model(model: PreTrainedModel, task: Task) -> None:
    """Runs a few training examples through a model, as the Trainer would, before hours are spent on it.

    Raises:
        TaskError: If the model does not accept them, or returns no finite loss, or logits of another shape.
    """
    rows = task.probe_rows
    training = model.training
    model.eval()
    try:
        batch = task.collator(task.train.__getitems__([row % len(task.train) for row in range(rows)]))
        with torch.no_grad():
            outputs = model(**batch)
    except Exception as error:  # whatever a network raises if shapes, dtypes or devices do not fit
        remedy = task.remedy if getattr(model, "dtype", None) == torch.float32 else "leave --dtype at float32"
        raise TaskError(
            f"{type(model).__name__} cannot process {task.inputs_text} ({root_message(error)}): {remedy}."
        ) from error
    finally:
        model.train(training)
    results = outputs if isinstance(outputs, dict) else {}
    loss = results.get("loss")
    if loss is None or loss.numel() != 1 or not math.isfinite(float(loss)):
        found = "no loss" if loss is None else f"a loss of shape {tuple(loss.shape)}"
        if loss is not None and loss.numel() == 1:
            found = f"the loss {float(loss)}"
        raise TaskError(
            f"{type(model).__name__} returned {found} for labelled {task.example}s: expected a model that computes a "
            "finite loss from labels, such as those of the Auto classes."
        )
    logits = results.get("logits")
    if not isinstance(logits, torch.Tensor) or not _fits(logits.shape, task.logits_shape(rows)):
        found = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else "no logits"
        raise TaskError(
            f"{type(model).__name__} returned {found} for {rows} {task.example}s, and {task.name} needs "
            f"{task.logits_text}: {task.remedy}."
        )


def _fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    if len(shape) != len(expected):
        return False
    return all(wanted in (None, size) for size, wanted in zip(shape, expected, strict=True))


def _pretrained_classifier(task: ImageTask, name_or_path: str, loading: CheckpointArguments) -> PreTrainedModel:
    return load_model(
        AutoModelForImageClassification,
        name_or_path,
        "image classifier",
        loading,
        ignore_mismatched_sizes=True,
        problem_type="single_label_classification",  # whatever loss the checkpoint was trained with
        **_labels(task),
    )


def _pretrained_language_model(task: TextTask, name_or_path: str, loading: CheckpointArguments) -> PreTrainedModel:
    model = load_model(AutoModelForCausalLM, name_or_path, "causal language model", loading)
    embedded, tokens = model.get_input_embeddings().num_embeddings, task.vocab_size
    if tokens > embedded:
        raise TaskError(
            f"The tokenizer has {tokens:,} tokens and {name_or_path!r} embeds {embedded:,}: give the tokenizer that "
            "the model was trained with as --tokenizer_name."
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and task.block_size > positions:
        raise TaskError(
            f"--block_size {task.block_size} exceeds the {positions:,} positions of {name_or_path!r}: choose a "
            "smaller one."
        )
    return _with_counted_loss(model)


def _with_counted_loss(model: PreTrainedModel) -> PreTrainedModel:
    """Sets the loss of a language model whose class is not named ...ForCausalLM, such as GPT-2's.

    Transformers falls back on that loss anyway, but the Trainer would then divide the sum over each block by one token
    more than was predicted.
    """
    model.loss_type = model.loss_type or "ForCausalLM"
    return model


_PRETRAINED: dict[type[Task], Callable[[Any, str, CheckpointArguments], PreTrainedModel]] = {
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
    """The sizes of a model: the flags given, else its defaults."""
    given = {name: value for name in SIZES if (value := getattr(arguments, name)) is not None}
    if others := [name for name in given if name not in spec.sizes]:
        known = ", ".join(f"--{name}" for name in spec.sizes)
        raise TaskError(f"--{others[0]} has no meaning for {spec.name}, which is sized by {known}: leave it out.")
    for name, value in given.items():
        if value > _LARGEST[name]:
            raise TaskError(f"--{name} must be at most {_LARGEST[name]:,}, got {value:,}.")
    return {**spec.sizes, **given}


def _transformer(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes that all transformers have, by their names in configurations."""
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if min(hidden, heads, sizes["num_hidden_layers"]) < 1 or hidden % heads:
        raise ValueError(
            "A transformer needs at least one layer, and a number of heads that divides its hidden size, got "
            f"--hidden_size {hidden}, --num_attention_heads {heads}, --num_hidden_layers {sizes['num_hidden_layers']}."
        )
    return {name: sizes[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}


def _labels(task: ImageTask) -> dict[str, Any]:
    """The classes of a task, as a configuration holds them."""
    return {
        "num_labels": len(task.label_names),
        "id2label": dict(enumerate(task.label_names)),
        "label2id": {name: index for index, name in enumerate(task.label_names)},
    }
