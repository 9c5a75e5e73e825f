"""Runs of optimizers on a few parameters with random gradients, which their tests share."""

import io

import pytest
import torch

IMPLEMENTATIONS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
any_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
SHAPES = ((3, 2), (4,), ())


def parameters(seed=0, dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes
    ]


def give_gradients(params, generator, present=None):
    """Random gradients, the same for the same generator whichever of them are present; returns those given."""
    for i, p in enumerate(params):
        gradient = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.grad = gradient if present is None or present[i] else None
    return [None if p.grad is None else p.grad.clone() for p in params]


def flat(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).tolist()


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def train(optimizer, params, schedule, seed=1, presence=None):
    """Steps along `schedule` with random gradients, the same for the same seed; returns copies of the parameters."""
    generator = torch.Generator().manual_seed(seed)
    for i, lr in enumerate(schedule):
        set_lr(optimizer, lr)
        give_gradients(params, generator, presence and presence[i])
        optimizer.step()
    return [p.detach().clone() for p in params]


def assert_identical(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


def assert_a_closure_is_evaluated_once(optimizer):
    """With gradients even where they are off, and its loss is returned; the optimizer has a parameter of one value."""
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (optimizer.param_groups[0]["params"][0] ** 2).sum()
        loss.backward()
        losses.append(loss)
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1


def through_a_file(state_dict):
    """What `torch.load` gives back with its safe default."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
