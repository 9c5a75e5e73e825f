"""A launcher whose processes start at once, for all tests of a file."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.warm_python import serving


@pytest.fixture(scope="module")
def warm() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp())  # the path of a socket must be short
    os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    with serving(folder) as launcher:
        yield launcher
    shutil.rmtree(folder)
