"""Claims about the workers of attribute, drift and repair: the same results to the bit, whatever their number."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_critmom.commands import main
from hf_critmom.engines import local
from hf_critmom.experiments.comparison import drift
from hf_critmom.experiments.repair import execution, runner

DATA = ("--max_train_samples", "128", "--max_eval_samples", "64")
COMPARE = (
    *("compare", "--width", "2", "--num_train_epochs", "1", "--arms", "constant", "--num_seeds", "2", "--use_cpu"),
    *("--evaluations_per_epoch", "1"),
)
REPAIR = ("--num_train_epochs", "1", "--use_cpu", "--controls", *DATA)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with two networks, of no use but to be studied."""
    folder = tmp_path_factory.mktemp("made") / "out"
    assert main((*COMPARE, *DATA, "--workers", "1", "--output_dir", str(folder))) == 0
    return folder


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of workers that were forked."""
    numbers: list[int] = []
    for module in (drift, local, runner):
        run = module.run_in_workers

        def counted(*args: Any, run: Callable[..., None] = run, **kwargs: Any) -> None:
            numbers.append(kwargs["workers"])
            run(*args, **kwargs)

        monkeypatch.setattr(module, "run_in_workers", counted)
    return numbers


def test_attribution_does_not_depend_on_the_number_of_workers(made: Path, tmp_path: Path, forked: list[int]) -> None:
    checkpoints = [str(run) for run in sorted(made.glob("runs/constant/*"))]
    found = []
    for workers in ("1", "2"):
        folder = tmp_path / workers
        words = ("attribute", *checkpoints, *DATA, "--workers", workers, "--use_cpu", "--output_dir", str(folder))
        assert main(words) == 0
        content = json.loads((folder / "attribution.json").read_text())
        del content["command"]
        found.append(content)
    assert forked == [2] and found[0] == found[1] and len(found[0]["checkpoints"]) == 2
    assert found[0]["settings"]["threads"] == 1


def test_drift_does_not_depend_on_the_number_of_workers(
    made: Path, tmp_path: Path, forked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for workers in ("1", "3"):
        folder = shutil.copytree(made, tmp_path / workers)
        words = ("drift", str(folder), "--corruptions", "contrast", "brightness", "--workers", workers)
        assert main(words) == 0
        assert sorted(capsys.readouterr().err.split()) == ["brightness", "clean", "contrast"]
        found.append([file.read_text() for file in sorted(folder.glob("runs/*/*/drift.json"))])
    assert forked == [3] and len(found[0]) == 2
    assert [json.loads(one) for one in found[0]] == [json.loads(one) for one in found[1]]


def outcome(folder: Path) -> dict[str, Any]:
    results = {
        str(file.relative_to(folder)): json.loads(file.read_text()) for file in folder.glob("runs/*/*/result.json")
    }
    for result in results.values():
        del result["seconds"], result["samples_per_second"], result["load"]
    weights = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.safetensors")}
    return {**results, **weights, "diagnosis": (folder / "diagnosis.json").read_text()}


def test_a_repair_does_not_depend_on_the_number_of_workers_and_on_one_that_dies(
    made: Path,
    tmp_path: Path,
    forked: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, command, treat = str(made / "runs" / "constant" / "seed-42"), os.getpid(), execution.train_and_verify

    def dies_once(*args: Any) -> Any:
        if os.getpid() != command and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return treat(*args)

    monkeypatch.setattr(execution, "train_and_verify", dies_once)
    for workers in ("1", "2"):
        words = ("repair", checkpoint, *REPAIR, "--workers", workers, "--output_dir", str(tmp_path / workers))
        assert main(words) == 0
    said = capsys.readouterr().err
    assert forked == [1, 2, 1]  # the diagnosis and the cost have one each
    assert "A worker was killed (signal 9): another one takes over its run." in said
    assert outcome(tmp_path / "1") == outcome(tmp_path / "2")
    plan = json.loads((tmp_path / "2" / "repair.json").read_text())
    assert plan["threads"] == 1
    again = (*words[:-4], "--threads_per_worker", "2", "--output_dir", str(tmp_path / "2"))
    assert main(again) == 2
    assert "uses 1 thread per run, and results depend on that number" in capsys.readouterr().err
