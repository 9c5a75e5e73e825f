"""What tests of quasi-hyperbolic momentum share: parameters, gradients and a schedule."""

import pytest
import torch

IMPLEMENTATIONS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


any_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)


SCHEDULE = (0.0, 0.0005, 0.01, 0.1, 0.3, 1.0, 0.26, 0.2, 0.05, 0.5, 0.001, 0.1, 0.0, 0.0, 0.02)


SHAPES = ((3, 2), (4,), ())


def parameters(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES
    ]


def give_gradients(params, generator):
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def flat(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).tolist()


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def train(optimizer, params, schedule=SCHEDULE, seed=1):
    """Steps along `schedule` with random gradients, the same for the same seed; returns the parameters, flat."""
    generator = torch.Generator().manual_seed(seed)
    for lr in schedule:
        set_lr(optimizer, lr)
        give_gradients(params, generator)
        optimizer.step()
    return flat(params)
