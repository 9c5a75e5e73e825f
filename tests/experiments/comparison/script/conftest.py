"""A launcher whose processes start at once, and what they inherit."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def warm(warm_python: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield warm_python
