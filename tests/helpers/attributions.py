"""What tests of attribution share: loaders, and the naive gradient that autograd gives."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hf_critmom.attribution import (
    layer_groups,
)

NUMBERS = ("norm", "share", "relative_norm")


def loader_of(task, batch_size=32, split="validation"):
    return DataLoader(task.split(split), batch_size, collate_fn=task.collator)


def assert_same(ours, theirs, rel=1e-4):
    assert ours.groups.keys() == theirs.groups.keys()
    for name, group in ours.groups.items():
        for number in NUMBERS:
            assert getattr(group, number) == pytest.approx(getattr(theirs.groups[name], number), rel=rel, abs=1e-9)
    assert (ours.selected, ours.total) == (theirs.selected, theirs.total)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)


# ------------------------------------------------------------------------------------------------- what autograd says


def naive_norms(model, loss):
    """The reference twin: one backward pass into .grad, and a norm for each group."""
    model.zero_grad()
    loss.backward()
    groups = layer_groups(model).of(model)
    norms = {
        name: math.sqrt(sum(float(p.grad.double().square().sum()) for p in members.values() if p.grad is not None))
        for name, members in groups.items()
    }
    model.zero_grad()
    return norms


def assert_is(attribution, norms, rel=1e-4):
    whole = sum(norm**2 for norm in norms.values())
    for name, norm in norms.items():
        group = attribution.groups[name]
        assert group.norm == pytest.approx(norm, rel=rel, abs=1e-7)
        assert group.share == pytest.approx(norm**2 / whole, rel=2 * rel, abs=1e-7)


class Branching(nn.Module):
    """Has a layer that the loss does not depend on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs, labels):
        logits = self.used(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def vectors(count=24):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [{"inputs": row, "labels": row[:3].argmax()} for row in inputs]
