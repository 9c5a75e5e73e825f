"""Runs of AdamW-like optimizers on a few parameters, with and without gradients, that several tests share."""

import numpy as np
import pytest
import torch
from helpers import optimizer_runs

# Warmup from 0, a pause at 0, up beyond what the linear rule can damp, back, and a decay to 0.
SCHEDULE = (0.0, 1e-6, 0.01, 0.1, 0.0, 0.05, 0.3, 1.0, 0.2, 0.26, 0.001, 0.02, 0.0)
SHAPES = ((3, 2), (4,), (5,), ())


def parameters(seed=0, dtype=torch.float64):
    return optimizer_runs.parameters(seed, dtype, SHAPES)


def train(optimizer, params, schedule=SCHEDULE, seed=1, presence=None):
    return optimizer_runs.train(optimizer, params, schedule, seed, presence)


def assert_same(params, values, tolerance=1e-11):
    for p, value in zip(params, values, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=tolerance, atol=tolerance)


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
