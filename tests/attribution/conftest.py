"""A tiny trained network and its task."""

import copy

import pytest
import torch
from helpers.attributions import loader_of
from torch.utils.data import DataLoader

from hf_critmom.tasks import DataArguments, ModelArguments, build_model, load_task


@pytest.fixture(scope="module")
def task():
    return load_task(DataArguments(max_eval_samples=160))


@pytest.fixture(scope="module")
def trained(task):
    """A tiny ResNet that gets most digits right and many wrong."""
    model = build_model(task, ModelArguments(width=2), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        loader = DataLoader(task.train, 64, shuffle=True, collate_fn=task.collator, generator=generator)
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.zero_grad()
    return model


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


@pytest.fixture
def loader(task):
    return loader_of(task)
