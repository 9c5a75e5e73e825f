"""Treatment: training some layer groups of a model while everything else stays bit-identical."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_critmom.attribution.groups import LayerGroups
from hf_critmom.attribution.names import named_parameters
from hf_critmom.attribution.predictions import model_loss
from hf_critmom.experiments.repair.errors import RepairError


@contextmanager
def freeze_except(model: nn.Module, groups: LayerGroups, names: Iterable[str]) -> Iterator[None]:
    """Freezes all of a model except some layer groups, and restores which parameters are trainable at the end.

    What is frozen is in evaluation mode whenever the model is called: batch normalization there uses and keeps its
    running statistics, and dropout is off. So frozen layers compute what they computed before, and layers before the
    first trained one need no backward pass. A module is frozen if all of its parameters are. One without parameters
    (dropout, batch normalization without affine parameters) follows the innermost module around it that has any: it is
    frozen if this freezes any of those, because it may lie among them.

    Args:
        model: The model.
        groups: Its layer groups.
        names: Names of the groups to train.

    Raises:
        RepairError: If a group does not exist, or the groups have no trainable parameter.
    """
    chosen = set(groups.check(names))
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for group, parameters in groups.of(model).items():
        for parameter in parameters.values():
            parameter.requires_grad_(group in chosen and trainable[parameter])
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RepairError(f"All parameters of {', '.join(sorted(chosen))} are frozen: there is nothing to train.")
    try:
        with _rest_frozen_modules(model, trainable):
            yield
    finally:
        for parameter, was_trainable in trainable.items():
            parameter.requires_grad_(was_trainable)


@contextmanager
def mask_except(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator["RestoreMasked"]:
    """Freezes all of a model except single parameters, and restores which parameters are trainable at the end.

    The gradients of all others are zero, and any change that the optimizer still makes (by weight decay, say) is undone
    after each step by the callback that this yields, so they stay bit-identical. What is frozen is in evaluation mode,
    as in `freeze_except`.

    Args:
        model: The model.
        masks: For each parameter, by name, a bool tensor of its shape: True for values that are trained.

    Yields:
        A callback for the Trainer.
    """
    parameters = named_parameters(model)
    trainable = {parameter: parameter.requires_grad for parameter in parameters.values()}
    hooks = []
    for name, parameter in parameters.items():
        chosen = name in masks and bool(masks[name].any()) and trainable[parameter]
        parameter.requires_grad_(chosen)
        if chosen:
            hooks.append(parameter.register_hook(lambda gradient, mask=masks[name]: gradient * mask.to(gradient)))
    try:
        with _rest_frozen_modules(model, trainable):
            yield RestoreMasked({name: p for name, p in parameters.items() if p.requires_grad}, masks)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, was_trainable in trainable.items():
            parameter.requires_grad_(was_trainable)


class RestoreMasked(TrainerCallback):
    """Restores the values that are not trained, after each optimizer step.

    Args:
        parameters: The parameters by name, with their values before training.
        masks: Masks of the values that are trained, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self.masks = {name: masks[name] for name in parameters}
        self.before = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, parameter in self.parameters.items():
            device = parameter.device
            mask, before = self.masks[name].to(device), self.before[name].to(device)
            parameter.copy_(torch.where(mask, parameter, before))


def largest_gradients(gradients: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks of the single parameters with the largest absolute gradient.

    Args:
        gradients: Gradient of each parameter, by name.
        count: Number of single parameters to choose, over all parameters.

    Returns:
        For each parameter a bool tensor of its shape; ``count`` values are True over all of them.
    """
    flat = torch.cat([gradient.abs().flatten().cpu() for gradient in gradients.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.topk(count, sorted=False).indices] = True
    parts = chosen.split([gradient.numel() for gradient in gradients.values()])
    return {name: part.view(gradients[name].shape) for name, part in zip(gradients, parts, strict=True)}


@contextmanager
def _rest_frozen_modules(model: nn.Module, trainable: Mapping[nn.Parameter, bool]) -> Iterator[None]:
    """Keeps what is frozen in evaluation mode whenever the model is called; see `freeze_except`.

    Args:
        model: The model, parts of which are frozen.
        trainable: For each parameter, whether it was trainable before.
    """
    resting = list(_frozen_modules(model, trainable))

    def rest(*_: Any) -> None:
        for module in resting:
            module.training = False

    handle = model.register_forward_pre_hook(rest)
    try:
        yield
    finally:
        handle.remove()


def _frozen_modules(
    module: nn.Module, trainable: Mapping[nn.Parameter, bool], around: bool = False
) -> Iterator[nn.Module]:
    """The frozen ones of a module and its submodules; ``around`` is whether what is around it counts as frozen."""
    parameters = list(module.parameters())
    if parameters:
        around = any(trainable[parameter] and not parameter.requires_grad for parameter in parameters)
    if not any(parameter.requires_grad for parameter in parameters) and (parameters or around):
        yield from module.modules()
        return
    for child in module.children():
        yield from _frozen_modules(child, trainable, around)


@torch.no_grad()
def is_finite(model: nn.Module) -> bool:
    """Whether all parameters and buffers of a model are finite."""
    values = [value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
    return all(bool(torch.isfinite(value).all()) for value in values)


def trained_share(groups: LayerGroups, model: nn.Module, names: Iterable[str]) -> float:
    """Share of a model's parameters that training some groups trains, which is not a share of compute.

    Parameters that are frozen already are not trained, and count among all.
    """
    chosen, of_group = set(names), groups.of(model)
    trained = [p.numel() for name in chosen for p in of_group[name].values() if p.requires_grad]
    return sum(trained) / sum(p.numel() for members in of_group.values() for p in members.values())


def step_times(
    model: nn.Module,
    groups: LayerGroups,
    choices: Mapping[str, Iterable[str]],
    batch: Mapping[str, Any],
    steps: int = 10,
) -> dict[str, float]:
    """Median seconds of a forward and backward pass for each of several choices of trained groups.

    The choices take turns, so other load on the machine affects all of them equally. The model does not change:
    gradients are discarded, and buffers restored.

    Args:
        model: The model, on the device of the batch.
        groups: Its layer groups.
        choices: Names of groups to train, by the name of the choice.
        batch: Keyword arguments of the model, including labels.
        steps: Number of measurements of each choice, after one warm-up.
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
                    with freeze_except(model, groups, chosen):
                        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
                        _wait_for(device)
                        began = time.perf_counter()
                        torch.autograd.grad(model_loss(model, dict(batch))[0], trained, allow_unused=True)
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
