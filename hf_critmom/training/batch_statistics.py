"""Batch normalization statistics for optimizers that evaluate other weights than they train with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

NUM_BATCHES = 50
"""Number of batches, the same as in the examples of the authors of Schedule-Free."""


def averages_weights(optimizer: Any) -> bool:
    """Whether an optimizer has modes for training and evaluation, as Schedule-Free optimizers do."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper has both for every optimizer
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


@torch.no_grad()
def recalibrate(model: nn.Module, dataset: Any, batch_size: int, collator: Callable[[Any], dict[str, Any]]) -> None:
    """Recomputes the batch normalization statistics for the current weights, as means over training batches.

    Running statistics belong to the weights that were trained with. Schedule-Free evaluates an average of weights,
    which has other activations, so its authors ask for this before every evaluation (Defazio et al., arXiv 2405.15682,
    and the README of the package ``schedulefree``). Models without batch normalization are left alone, and so is the
    random state: every call takes the same examples.

    Args:
        model: The model; its training or evaluation mode is preserved.
        dataset: Training examples.
        batch_size: Number of examples in a batch.
        collator: Collates examples into a batch.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if not layers or not len(dataset):
        return
    training = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    device = next(model.parameters()).device
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    starts = range(0, min(NUM_BATCHES * batch_size, len(order)), batch_size)
    try:
        for start in starts:
            indices = order[start : start + batch_size]
            if len(indices) < min(batch_size, len(order)):
                break  # the rest would weigh as much as a whole batch
            batch = collator(dataset.__getitems__(indices))
            model(**{name: value.to(device) for name, value in batch.items()})
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for module, mode in training.items():
            module.training = mode
