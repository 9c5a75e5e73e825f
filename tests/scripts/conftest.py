"""A synthetic CIFAR-10 as ``scripts/fetch_cifar10.py`` writes it."""

from pathlib import Path

import pytest
from helpers.cifar10_sources import run, write_npm


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    assert run(write_npm(folder / "source"), folder / "cifar10") == 0
    return folder / "cifar10"
