"""Runs of AdamW-like optimizers on a few parameters, with and without gradients, that several tests share."""

import io

import numpy as np
import pytest
import torch

IMPLEMENTATIONS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
any_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
# Warmup from 0, a pause at 0, up beyond what the linear rule can damp, back, and a decay to 0.
SCHEDULE = (0.0, 1e-6, 0.01, 0.1, 0.0, 0.05, 0.3, 1.0, 0.2, 0.26, 0.001, 0.02, 0.0)
SHAPES = ((3, 2), (4,), (5,), ())


def parameters(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def give_gradients(params, generator, present=None):
    """Random gradients, the same for the same generator whichever of them are present; returns those given."""
    for i, p in enumerate(params):
        gradient = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        p.grad = gradient if present is None or present[i] else None
    return [None if p.grad is None else p.grad.clone() for p in params]


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def train(optimizer, params, schedule=SCHEDULE, seed=1, presence=None):
    generator = torch.Generator().manual_seed(seed)
    for i, lr in enumerate(schedule):
        set_lr(optimizer, lr)
        give_gradients(params, generator, presence and presence[i])
        optimizer.step()
    return [p.detach().clone() for p in params]


def assert_same(params, values, tolerance=1e-11):
    for p, value in zip(params, values, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=tolerance, atol=tolerance)


def assert_identical(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


def through_a_file(state_dict):
    """What `torch.load` gives back with its safe default."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


NEVER, ALWAYS, LATE, EARLY = (lambda i: False), (lambda i: True), (lambda i: i >= 4), (lambda i: i < 4)
PATTERNS = {
    "one joins late": (ALWAYS, ALWAYS, LATE, ALWAYS),
    "one leaves early": (ALWAYS, EARLY, ALWAYS, ALWAYS),
    "one never has any": (ALWAYS, NEVER, ALWAYS, ALWAYS),
    "two alternate": (ALWAYS, lambda i: i % 2 == 0, lambda i: i % 2 == 1, ALWAYS),
    "all miss some steps": (lambda i: i % 3 > 0,) * 4,
    "each as it likes": tuple(lambda i, j=j: (i * 7 + j * j * 5) % 11 < 6 for j in range(4)),
    "nobody at first": (LATE, lambda i: i >= 6, LATE, NEVER),
}
any_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


def presence_of(pattern):
    return [[has(i) for has in pattern] for i in range(len(SCHEDULE))]
