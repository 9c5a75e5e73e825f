"""Claims about the local engine: a run that fails is made and reported once, and the others go on."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.descents import Descent, Descents, Told

from hf_critmom.engines.interface import Work
from hf_critmom.engines.local import LocalEngine


@dataclass(frozen=True)
class Failing(Descents):
    """Descents of which number 0 fails in the user's code."""

    exits: bool = False

    def _middle(self, job: Descent) -> None:
        if job.number == 0 and self.exits:
            sys.exit()
        assert job.number, "the loss is not finite"


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("exits", [False, True])
def test_a_run_that_fails_is_made_and_reported_once(tmp_path: Path, exits: bool, workers: int) -> None:
    folder, data, told = tmp_path / "out", tmp_path / "data", Told()
    folder.mkdir()
    data.mkdir()
    descents = Failing(folder, data, exits)
    LocalEngine(workers, 1).run(Work([Descent(number) for number in range(6)], 0.1, descents, descents), told)
    failed = [content[0] for kind, *content in told.events if kind == "failed"]
    assert len(failed) == 1 and "The run descent 0 failed" in failed[0]
    assert sorted((data / "begun").read_text().split()) == ["0", "1", "2", "3", "4", "5"]
    assert {content[0] for kind, *content in told.events if kind == "finished"} == {
        Descent(number).folder for number in range(1, 6)
    }
