"""Names of parameters without the prefixes of what is wrapped around a model."""

import re

from torch import nn

from hf_critmom.upstream import wrapper_attributes

_OUTER = re.compile(r"^(?:module\.)*(?:base_model\.model\.)?")


def clean_name(name: str) -> str:
    """A parameter's name without the prefixes of wrappers: DDP, torch.compile, FSDP, PEFT, activation checkpoints."""
    inner = rf"(?:{'|'.join(wrapper_attributes())})\."
    return _OUTER.sub("", re.sub(inner, "", name))


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters by their clean names, shared ones once."""
    return {clean_name(name): parameter for name, parameter in model.named_parameters()}
