"""Names of parameters without the prefixes of what is wrapped around a model."""

import re

from torch import nn

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.upstream import wrapper_attributes

_OUTER = re.compile(r"^(?:module\.)*(?:base_model\.model\.)?")


def clean_name(name: str) -> str:
    """A parameter's name without the prefixes of wrappers: DDP, torch.compile, FSDP, PEFT, activation checkpoints."""
    inner = rf"(?:{'|'.join(wrapper_attributes())})\."
    return _OUTER.sub("", re.sub(inner, "", name))


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters by their clean names, shared ones once.

    Raises:
        AttributionError: If two have the same name but for what looks like the prefix of a wrapper.
    """
    found: dict[str, nn.Parameter] = {}
    full: dict[str, str] = {}
    for long, parameter in model.named_parameters():
        name = clean_name(long)
        if name in found:
            raise AttributionError(
                f"{type(model).__name__} has parameters {full[name]} and {long}, which are the same name without the "
                "prefixes of wrappers, such as module: rename the attribute that has the name of a prefix."
            )
        found[name], full[name] = parameter, long
    return found
