"""Treatment: training some layer groups of a model while everything else stays as it is, to the bit."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_critmom.attribution.errors import DiagnosisError
from hf_critmom.attribution.groups import LayerGroups


@contextmanager
def only_trained(model: nn.Module, groups: LayerGroups, names: Iterable[str]) -> Iterator[None]:
    """Freezes all of a model but some layer groups; afterwards everything is trainable that was.

    Modules of which no parameter is trained are in evaluation mode whenever the model is called: their batch
    normalisation uses and keeps its running statistics, and their dropout does nothing. So frozen layers compute what
    they computed before, and the layers in front of the first trained one need no backward pass.

    Args:
        model: The model.
        groups: Its layer groups.
        names: Names of the groups to train.

    Raises:
        DiagnosisError: If a group does not exist, or none of their parameters is trainable.
    """
    chosen = set(groups.check(names))
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for group, parameters in groups.of(model).items():
        for parameter in parameters.values():
            parameter.requires_grad_(group in chosen and trainable[parameter])
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DiagnosisError(f"All parameters of {', '.join(sorted(chosen))} are frozen: there is nothing to train.")
    resting = list(_resting_modules(model))

    def rest(*_: Any) -> None:
        for module in resting:
            module.training = False

    handle = model.register_forward_pre_hook(rest)
    try:
        yield
    finally:
        handle.remove()
        for parameter, was_trainable in trainable.items():
            parameter.requires_grad_(was_trainable)


def _resting_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that hold parameters, none of which is trained, and all modules within them."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            yield from module.modules()


def trained_share(groups: LayerGroups, model: nn.Module, names: Iterable[str]) -> float:
    """Share of a model's parameters that some groups hold: not of the compute that training them takes."""
    sizes = {group: sum(p.numel() for p in members.values()) for group, members in groups.of(model).items()}
    return sum(sizes[name] for name in names) / sum(sizes.values())


def step_times(
    model: nn.Module,
    groups: LayerGroups,
    choices: Mapping[str, Iterable[str]],
    batch: Mapping[str, Any],
    steps: int = 10,
) -> dict[str, float]:
    """Seconds of a forward and backward pass with each of several choices of trained groups, measured side by side.

    The choices take turns, so that what else the machine does falls on all of them; the median is returned. Nothing of
    the model changes: gradients are thrown away, and buffers restored.

    Args:
        model: The model, on the device of the batch.
        groups: Its layer groups.
        choices: Names of groups to train, by the name of the choice.
        batch: What the model is called with, with labels.
        steps: Measurements of each choice, after one that is not counted.
    """
    measured: dict[str, list[float]] = {name: [] for name in choices}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for number in range(steps + 1):
                for name, chosen in choices.items():
                    model.train()
                    with only_trained(model, groups, chosen):
                        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
                        _wait_for(device)
                        began = time.perf_counter()
                        torch.autograd.grad(model(**batch)["loss"], trained, allow_unused=True)
                        _wait_for(device)
                    if number:
                        measured[name].append(time.perf_counter() - began)
    finally:
        for name, buffer in model.named_buffers():
            buffer.data.copy_(buffers[name])
        for module, training in modes.items():
            module.training = training
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
    return {name: sorted(seconds)[len(seconds) // 2] for name, seconds in measured.items()}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
