"""Restores every weight of a model from a checkpoint, and verifies the result against the file.

Transformers saves many architectures under older names (a ViT's ``vit.layers.0`` as ``vit.encoder.layer.0``) or in
other shapes (a Mixtral's experts one by one). ``from_pretrained`` converts them back; the Trainer, which loads a
checkpoint by ``load_state_dict``, does not, and leaves weights that it cannot match as they were initialised. So
weights are restored here through ``from_pretrained`` of the model's class.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_critmom.errors import root_message
from hf_critmom.storage.checkpoints import CheckpointError, adapter_files, read_tensors, read_weights
from hf_critmom.upstream import uncompiled_model, weight_reversion

Tensors = dict[str, torch.Tensor]

_COMPILED = "_orig_mod."
"""Prefix of the names in a model that was compiled (`torch.compile`) before it was given to a Trainer."""
_FORMER_BUFFERS = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids")
"""Buffers that older releases saved in state dicts."""


def restore_weights(model: nn.Module, checkpoint: Path) -> None:
    """Gives a model all weights and persistent buffers of a checkpoint, in place.

    Everything is checked before the model is changed, so an error leaves it as it was. Buffers outside the state dict
    keep the values that the model's constructor computed.

    Args:
        model: The model, compiled or not, but not sharded; its head may have been replaced after construction.
        checkpoint: Folder with one or several files in safetensors or torch's format.

    Raises:
        CheckpointError: If a file is damaged, a tensor of the file has no place in the model, a tensor of the model is
            not in the file, or they differ in shape, or in more bits than the model's dtype has.
    """
    model = uncompiled_model(model)
    weights = weights_for(model, checkpoint)
    model.load_state_dict(weights, strict=False)
    current = model.state_dict()
    if wrong := [name for name, value in weights.items() if not _same(current[name], value)]:
        raise CheckpointError(f"{checkpoint} could not be restored: {_listed(wrong)} did not take the stored values.")


def weights_for(model: nn.Module, checkpoint: Path) -> Tensors:
    """The tensors of a checkpoint, by the names and in the shapes that a model has for them.

    Raises:
        CheckpointError: See `restore_weights`.
    """
    stored = {name.removeprefix(_COMPILED): value for name, value in read_weights(checkpoint).items()}
    try:
        return _matched(model, stored, checkpoint)
    except CheckpointError:
        raise
    except Exception as error:  # converting a damaged checkpoint may raise anything
        raise CheckpointError(
            f"The weights of {checkpoint} cannot be converted for {type(model).__name__} ({root_message(error)})."
        ) from error


def _matched(model: nn.Module, stored: Tensors, checkpoint: Path) -> Tensors:
    current = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    converted = _converted(model, stored)
    weights: Tensors = {}
    for name, value in current.items():
        for source in (converted.weights, stored):  # a custom head has the same name in both
            if name in source and source[name].shape == value.shape:
                weights[name] = source[name]
                break
    for name in [name for name in weights if _is_left_out(model, name)]:
        if not converted.stored_names({name: weights[name]}).keys() & stored.keys() and not converted.is_tied(name):
            del weights[name]  # another instance computed it: the model keeps its own
    names = converted.stored_names({**current, **weights})
    if lacking := [name for name in current if name not in weights and not _is_left_out(model, name)]:
        raise CheckpointError(
            f"{checkpoint} does not hold {_listed(lacking)} in the shape that {type(model).__name__} has: it "
            "was written by another model, or is damaged."
        )
    if homeless := [name for name in stored if name not in names and not _is_superfluous(model, name)]:
        raise CheckpointError(
            f"{checkpoint} holds {_listed(homeless)}, which {type(model).__name__} has no place for: "
            "it was written by another model."
        )
    wrong = [name for name, value in names.items() if name in stored and not _same(value, stored[name])]
    if wrong:
        raise CheckpointError(
            f"Transformers {transformers.__version__} does not convert {_listed(wrong)} of {checkpoint} without a "
            "change, so the run cannot be continued exactly: use the release that wrote the checkpoint."
        )
    for name, value in weights.items():
        if not _same(value.to(current[name].dtype), value):
            raise CheckpointError(
                f"{checkpoint} holds {name} as {value.dtype}, and the model has it as {current[name].dtype}, which is "
                "less precise: load the model in the dtype that the run began with."
            )
    return weights


def check_adapters(model: Any, checkpoint: Path) -> None:
    """Checks that the adapters of a PEFT model, which PEFT has loaded, are those of a checkpoint.

    Raises:
        CheckpointError: If a tensor of a file is not in the model, or differs from it.
    """
    from peft import get_peft_model_state_dict

    files = adapter_files(checkpoint)
    for file in files:
        name = file.parent.name if file.parent != checkpoint else "default" if len(files) > 1 else model.active_adapter
        stored = read_tensors(file)
        with _quiet():
            current = get_peft_model_state_dict(model, adapter_name=name)
        if wrong := [key for key in {**stored, **current} if not _agree(current.get(key), stored.get(key))]:
            raise CheckpointError(
                f"{_listed(wrong)} of the adapter {name!r} are not as {file} holds them: the checkpoint was written by "
                "another model, or is damaged."
            )


def _agree(value: torch.Tensor | None, stored: torch.Tensor | None) -> bool:
    return value is not None and stored is not None and _same(value, stored)


@dataclass
class _Converted:
    """A checkpoint's tensors as ``from_pretrained`` of the model's class converts them.

    Attributes:
        model: The model that can convert them back.
        weights: Tensors by the model's names.
    """

    model: nn.Module
    weights: Tensors = field(default_factory=dict)

    def is_tied(self, name: str) -> bool:
        """Whether a tensor is tied to one of another name, under which a file may hold it."""
        places = {other: value.data_ptr() for other, value in self.weights.items()}
        return any(place == places.get(name) for other, place in places.items() if other != name)

    def stored_names(self, weights: Tensors) -> Tensors:
        """The tensors by the names and in the shapes that the file has for them."""
        if not _is_converted(self.model):
            return weights
        return weight_reversion()(self.model, dict(weights))


def _converted(model: nn.Module, stored: Tensors) -> _Converted:
    """Loads the stored tensors through ``from_pretrained`` of the model's class, into another instance."""
    if not _is_converted(model):
        return _Converted(model)
    floating = {value.dtype for value in stored.values() if value.is_floating_point()}
    # The widest dtype loses nothing; tensors of another dtype in the model are cast when they are copied.
    dtype = floating.pop() if len(floating) == 1 else max(floating | {torch.float32}, key=lambda one: one.itemsize)
    options = {"config": model.config, "state_dict": dict(stored), "dtype": dtype}
    with _quiet(), torch.random.fork_rng([]):
        try:
            twin, info = _load(type(model), options)
        except TypeError:  # a custom constructor, which needs more than a configuration
            twin, info = _load(_copying_class(model), options)
    absent = set(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}
    return _Converted(twin, {name: value for name, value in twin.state_dict().items() if name not in absent})


def _is_converted(model: nn.Module) -> bool:
    """Whether Transformers converts a model's keys: it does for its own models that have called `post_init`."""
    return isinstance(model, PreTrainedModel) and hasattr(model, "all_tied_weights_keys")


def _load(model_cls: type[PreTrainedModel], options: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    return model_cls.from_pretrained(None, **options, output_loading_info=True, ignore_mismatched_sizes=True)


def _copying_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """A class that Transformers takes for the model's own, and whose instances are copies of this model."""

    def construct(self: PreTrainedModel, config: Any) -> None:
        self.__dict__.update(copy.deepcopy(model).__dict__)

    cls = type(model)
    return type(cls.__name__, (cls,), {"__init__": construct, "__module__": cls.__module__})


def _is_left_out(model: nn.Module, name: str) -> bool:
    """Whether the model's class says that checkpoints need not hold a tensor, because its constructor computes it."""
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    return name in (getattr(model, "_keys_to_ignore_on_save", None) or ()) or any(
        re.search(pattern, name) for pattern in patterns
    )


def _is_superfluous(model: nn.Module, name: str) -> bool:
    """Whether a file may hold a tensor that the model has no place for, such as a buffer that older releases saved."""
    patterns = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    buffers = [buffer for buffer, _ in model.named_buffers()]
    patterns |= {rf"{end}$" for end in _FORMER_BUFFERS if any(re.search(f"{end}$", buffer) for buffer in buffers)}
    return any(re.search(pattern, name) for pattern in patterns)


def _same(value: torch.Tensor, stored: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN included; their dtypes may differ."""
    value = value.detach().to(device=stored.device, dtype=stored.dtype)
    if value.shape != stored.shape:
        return False
    return torch.equal(value, stored) or bool(((value == stored) | (value.isnan() & stored.isnan())).all())


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tensors"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the loading of a copy, which Transformers would show as if a model were loaded twice."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
