"""Fixtures of the tests of the command line."""

from pathlib import Path

import datasets
import pytest
from helpers.command_line import Refused, files_below, status_of, the_sentence


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail with one sentence and write nothing; returns the sentence."""

    def run(*words: str) -> str:
        before = files_below(tmp_path)
        capfd.readouterr()
        status = status_of(words)
        shown = capfd.readouterr()
        assert status != 0
        assert files_below(tmp_path) == before
        assert shown.out == ""
        assert the_sentence(shown.err).startswith(("hf-critmom: error: ", f"hf-critmom {words[0]}: error: "))
        return shown.err

    return run
