"""Names of parameters without the prefixes of what is wrapped around a model."""

import re

from torch import nn

_OUTER = re.compile(r"^(?:module\.|_orig_mod\.)*(?:base_model\.model\.)?")
_INNER = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def clean_name(name: str) -> str:
    """A parameter's name without the prefixes of wrappers: DDP, torch.compile, FSDP, PEFT, activation checkpoints."""
    return _INNER.sub("", _OUTER.sub("", _INNER.sub("", name)))


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters by their clean names, shared ones once."""
    return {clean_name(name): parameter for name, parameter in model.named_parameters()}
