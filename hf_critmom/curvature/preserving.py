"""Makes a model one that can be measured, and leaves it as it was, to the bit."""

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_critmom.curvature.wrappers import unwrapped
from hf_critmom.upstream import forward_without_autocast

RUNNING_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Modules that normalize by running statistics in "eval" mode (instance normalization if it tracks them)."""


@contextmanager
def preserved(model: nn.Module, *, batch_norm: str = "train") -> Iterator[None]:
    """Within, a model is as it is measured; afterwards it and all random number generators are as before, to the bit.

    Dropout and its relatives are off, batch normalization is in the requested mode, there is no mixed precision,
    neither Accelerate's nor an autocast around, and compiled modules run uncompiled, since compiled ones have no second
    derivative. What is kept includes the generators, tensors and numbers that modules hold as plain attributes.
    """
    model = unwrapped(model)
    modes = {module: module.training for module in model.modules()}
    own_forward = forward_without_autocast(model)
    mixed = vars(model).get("forward")
    attributes = [_KeptAttributes(module) for module in modes]
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    kind = next((p.device.type for p in model.parameters()), "cpu")
    with torch.random.fork_rng(devices), torch.autocast(kind, enabled=False), _uncompiled(), _recurrence(model):
        try:
            for module in modes:
                module.training = isinstance(module, RUNNING_NORMS) and batch_norm == "train"
            if own_forward is not None:
                model.forward = own_forward
            yield
        finally:
            for kept in attributes:
                kept.restore()
            for module, training in modes.items():
                module.training = training
            if own_forward is not None:
                model.forward = mixed  # type: ignore[assignment]
            random.setstate(python)
            np.random.set_state(numpy)


def own_generators(model: nn.Module) -> list[torch.Generator]:
    """The random number generators that modules of a model hold as attributes."""
    return [
        value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Generator)
    ]


class _KeptAttributes:
    """The plain attributes of a module as they are now; those that hold the graph of a pass are kept, not copied."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        values = vars(module)
        self.plain = {
            name: value for name, value in values.items() if isinstance(value, (int, float, type(None), Tensor))
        }
        self.generators = [
            (value, value.get_state()) for value in values.values() if isinstance(value, torch.Generator)
        ]
        self.tensors = [
            (value, value._version, value.clone())
            for value in self.plain.values()
            if isinstance(value, Tensor) and not value.requires_grad and not value.is_inference()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        values = vars(self.module)
        values.update({name: value for name, value in self.plain.items() if values.get(name, value) is not value})
        for generator, state in self.generators:
            generator.set_state(state)
        for tensor, version, copy in self.tensors:
            if tensor._version != version:
                tensor.copy_(copy)


def _uncompiled() -> AbstractContextManager[Any]:
    """Has whatever `torch.compile` or ``model.compile()`` made run as it was written."""
    compiled = "torch._dynamo" in sys.modules  # else nothing is compiled, and the import would take seconds
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def _recurrence(model: nn.Module) -> Iterator[None]:
    """Has recurrent layers computed by torch itself: cuDNN's have no second derivative, and in eval mode no first."""
    enabled = torch.backends.cudnn.enabled
    try:
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            torch.backends.cudnn.enabled = False
        yield
    finally:
        torch.backends.cudnn.enabled = enabled
