"""Claims about run folders: every run is executed once, and its result is written completely or not at all."""

import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from hf_critmom.storage import run_folder
from hf_critmom.storage.run_folder import RunFolder, run_all


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    made, seen = [], []

    def execute(run: int, folder: RunFolder) -> None:
        made.append(run)
        folder.finish({"run": run, "loss": math.nan})

    for _ in range(2):
        run_all(
            tmp_path,
            [1, 2],
            path=lambda run: Path("runs", str(run)),
            execute=execute,
            on_finished=lambda run, folder, earlier: seen.append((run, earlier)),
        )
    assert made == [1, 2]
    assert seen == [(1, False), (2, False), (1, True), (2, True)]
    assert json.loads((tmp_path / "runs/1/result.json").read_text()) == {"run": 1, "loss": None}


def test_a_failed_run_leaves_no_result_and_is_repeated(tmp_path: Path) -> None:
    attempts = []

    def execute(run: str, folder: RunFolder) -> None:
        attempts.append(run)
        if len(attempts) == 1:
            raise RuntimeError("out of memory")
        folder.finish({})

    for _ in range(2):
        try:
            run_all(tmp_path, ["a"], path=Path, execute=execute)
        except RuntimeError:
            assert not RunFolder(tmp_path / "a").finished()
    assert attempts == ["a", "a"] and RunFolder(tmp_path / "a").finished()


def _launch(folder: Path, dies_in: str | None) -> None:
    def execute(run: str, at: RunFolder) -> None:
        (folder / f"{run}-by-{os.getpid()}").touch()
        time.sleep(0.05)
        if run == dies_in:
            os._exit(9)
        at.finish({"by": os.getpid()})

    run_folder.POLL_SECONDS = 0.05
    run_all(folder, ["a", "b", "c", "d"], path=lambda run: Path("runs", run), execute=execute)


@pytest.mark.parametrize("dies_in", [None, "b"])
def test_launches_share_out_the_runs_and_take_over_that_of_a_dead_one(tmp_path: Path, dies_in: str | None) -> None:
    context = multiprocessing.get_context("fork")
    launches = [context.Process(target=_launch, args=(tmp_path, one)) for one in (dies_in, None, None)]
    for launch in launches:
        launch.start()
    for launch in launches:
        launch.join(60)
    finished = sorted(path.parent.name for path in tmp_path.glob("runs/*/result.json"))
    assert finished == ["a", "b", "c", "d"]
    made = [path.name.split("-")[0] for path in tmp_path.glob("*-by-*")]
    assert len(made) - len(set(made)) <= (1 if dies_in else 0)
