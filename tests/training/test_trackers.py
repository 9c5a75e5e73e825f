"""Claims about trackers of many runs that one process makes: a run for each, named alike, in one project."""

import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from hf_critmom.training import trackers
from hf_critmom.training.trackers import name_space, project_name, tracked_run

NAMES = ("constant-seed-42", "critmom-seed-42")


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x).square().mean()}


class Ones(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(1)}


def arguments(folder: Path, tracker: str, **options: Any) -> TrainingArguments:
    fixed = {"max_steps": 2, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    return TrainingArguments(str(folder), report_to=tracker, **{**fixed, **options})


def train(folder: Path, tracker: str) -> None:
    """Two runs of a comparison, one after the other, as a worker makes them."""
    for name in NAMES:
        args = arguments(folder, tracker)
        with tracked_run(args, folder, name):
            args.run_name, args.project = name, project_name(args, folder)
            trainer = Trainer(Line(), args, train_dataset=Ones())
            trainer.train()
            trainer.log({"test_loss": 0.5})  # after the training, as the test of a run


def test_tensorboard_shows_a_run_for_each_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = os.environ.get("TENSORBOARD_LOGGING_DIR")
    train(tmp_path, "tensorboard")
    assert os.environ.get("TENSORBOARD_LOGGING_DIR") == before
    assert sorted(path.name for path in (tmp_path / "tensorboard").iterdir()) == sorted(NAMES)
    for name in NAMES:
        tags: set[str] = set()
        for file in (tmp_path / "tensorboard" / name).iterdir():
            board = EventAccumulator(str(file))
            board.Reload()
            tags |= {*board.Tags()["scalars"]}
        assert {"train/loss", "test/loss"} <= tags


def test_a_folder_of_the_users_holds_the_runs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))
    train(tmp_path / "comparison", "tensorboard")
    assert sorted(path.name for path in (tmp_path / "boards").iterdir()) == sorted(NAMES)


def test_trackio_has_one_project_for_all_and_a_run_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio", reason="pip install '.[trackers]'")
    for module in ("trackio.sqlite_storage", "trackio.utils", "trackio"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    train(tmp_path / "digits run", "trackio")
    assert trackio.context_vars.current_run.get() is None
    (database,) = (tmp_path / "trackio").glob("*.db")
    assert database.stem == "digits-run"
    with sqlite3.connect(database) as stored:
        counts = dict(stored.execute("select run_name, count(*) from metrics group by run_name"))
    assert set(counts) == {*NAMES} and min(counts.values()) >= 3


def test_wandb_ends_a_run_before_it_begins_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install '.[trackers]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    begun: list[Any] = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: begun.append(init(**options)) or begun[-1])
    train(tmp_path / "comparison", "wandb")
    assert wandb.run is None
    assert [(run.name, run.project) for run in begun] == [(name, "comparison") for name in NAMES]
    assert len({run.id for run in begun}) == 2


def test_the_project_is_the_users_or_the_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    args = arguments(tmp_path, "none")
    assert project_name(args, tmp_path / "comparison-digits") == "comparison-digits"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert project_name(args, tmp_path / "comparison-digits") == "mine"
    args.project = "given"
    assert project_name(args, tmp_path / "comparison-digits") == "given"


def test_the_model_is_tagged_with_the_space_that_shows_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SimpleNamespace(get=lambda: "tester/digits")
    fake = SimpleNamespace(context_vars=SimpleNamespace(current_space_id=space))
    monkeypatch.setitem(trackers.sys.modules, "trackio", fake)  # no Hub is there to make a Space
    model: Any = SimpleNamespace(model_tags=["x", "trackio:https://huggingface.co/spaces/old/one"])
    name_space(model, ["trackio"])
    assert model.model_tags == ["x", "trackio", "trackio:https://huggingface.co/spaces/tester/digits"]
    other: Any = SimpleNamespace()
    name_space(other, ["tensorboard"])
    assert not hasattr(other, "model_tags")
