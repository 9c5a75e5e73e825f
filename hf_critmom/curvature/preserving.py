"""Makes a model one that can be measured, and leaves it as it was, to the bit."""

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_critmom.curvature.owned import Held, generators_of
from hf_critmom.curvature.wrappers import unwrapped
from hf_critmom.upstream import forward_without_autocast

RUNNING_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Modules that normalize by running statistics in "eval" mode (instance normalization if it tracks them)."""


@contextmanager
def preserved(model: nn.Module, compute_loss: Any = None, *, batch_norm: str = "train") -> Iterator[None]:
    """Within, a model is as it is measured; afterwards it and all random number generators are as before, to the bit.

    Dropout and its relatives are off, batch normalization is in the requested mode, there is no mixed precision,
    neither Accelerate's nor an autocast around, and compiled modules run uncompiled, since compiled ones have no second
    derivative. What is kept includes the generators, tensors and other attributes of modules.

    Args:
        model: The model; wrappers of data parallelism and compilation are taken off.
        compute_loss: A loss function that may hold generators as well.
        batch_norm: "train" or "eval". In "train" mode, what the model's own ``train()`` leaves in eval mode is so, as
            in training.
    """
    model = unwrapped(model)
    modes = {module: module.training for module in model.modules()}
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    own_forward = forward_without_autocast(model)
    attributes, tensors = Held(modes), [_KeptTensors(module) for module in modes]
    generators = generators_of(model, compute_loss)
    kind = next((p.device.type for p in model.parameters()), "cpu")
    with _shared_generators(), torch.autocast(kind, enabled=False), _uncompiled(), _recurrence(model):
        try:
            if batch_norm == "train":
                model.train()
            for module in modes:
                normalizes = isinstance(module, RUNNING_NORMS) and batch_norm == "train"
                module.training = normalizes and module.training
            if own_forward is not None:
                model.forward = own_forward
            yield
        finally:
            attributes.restore()
            for kept in tensors:
                kept.restore()
            for module, training in modes.items():
                module.training = training
            for parameter, requires_grad in trainable:
                parameter.requires_grad = requires_grad
            generators.restore()


class _KeptTensors:
    """The tensors that a module holds as plain attributes; those that require a gradient are kept, not copied."""

    def __init__(self, module: nn.Module) -> None:
        self.copies = [
            (value, value._version, value.clone())
            for value in vars(module).values()
            if isinstance(value, Tensor) and not value.requires_grad and not value.is_inference()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, version, copy in self.copies:
            if tensor._version != version:
                tensor.copy_(copy)


@contextmanager
def _shared_generators() -> Iterator[None]:
    """Keeps the generators of Python, NumPy and torch that all code shares, those of accelerators included."""
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    kind = torch.accelerator.current_accelerator(check_available=True)
    accelerator: Any = None if kind is None else torch.get_device_module(kind)
    of_all = "_all" if hasattr(accelerator, "get_rng_state_all") else ""  # of all devices; there is but one MPS
    state = None if kind is None else getattr(accelerator, f"get_rng_state{of_all}")()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)
        if state is not None:
            getattr(accelerator, f"set_rng_state{of_all}")(state)


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
