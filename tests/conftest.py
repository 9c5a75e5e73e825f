"""Fixtures that several test files share."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.browser import started

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


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs a Python interpreter of its own in `tmp_path`: ``run_python("-c", code)`` or ``run_python("script.py")``."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    return run
