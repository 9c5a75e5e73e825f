"""Fixtures for the tests of comparisons."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.watched_comparisons import Witness, printed_by


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Repeats a command under a new witness; returns what was printed and the witness."""

    def run(*words: str) -> tuple[str, Witness]:
        witness = Witness()
        with monkeypatch.context() as patch:
            witness.watch(patch)
            return printed_by(words, patch), witness

    yield run
