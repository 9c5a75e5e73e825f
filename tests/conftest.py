"""Fixtures that several test files share."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.browser import started
from helpers.warm_python import serving

# Most tests are about what a single worker does; those about several ask for them.
os.environ["LOKY_MAX_CPU_COUNT"] = "1"

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models gain nothing from threads, and sums keep their order without."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def imported_modules_are_no_garbage():
    """Every run of the Trainer collects garbage twice; without this most of a tiny run's time goes into that."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium for the tests of a file; its event loop ends with it."""
    with started() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def bare_python() -> Iterator[str]:
    """A launcher whose interpreters start at once, with torch and others imported but neither Transformers nor us."""
    folder = Path(tempfile.mkdtemp())  # the path of a socket must be short
    with serving(folder) as launcher:
        yield launcher
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def warm_python(bare_python: str) -> Iterator[str]:
    """A launcher whose interpreters start at once, with everything imported."""
    folder = Path(tempfile.mkdtemp())
    with serving(folder, bare_python) as launcher:
        yield launcher
    shutil.rmtree(folder)


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs a Python interpreter of its own in `tmp_path`: ``run_python("-c", code)`` or ``run_python("script.py")``."""
    return _runner([sys.executable], tmp_path)


@pytest.fixture
def run_bare(bare_python: str, tmp_path: Path) -> RunPython:
    """The same with torch imported already, for claims about what Transformers and this package do when imported."""
    return _runner(bare_python.split(), tmp_path)


def _runner(python: list[str], folder: Path) -> RunPython:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [*python, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )

    return run
