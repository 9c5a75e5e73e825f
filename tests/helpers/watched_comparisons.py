"""Comparisons of tiny networks on the embedded digits through the command line, watched from inside."""

import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import Arm, runner
from hf_critmom.experiments.comparison.plan import Run
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.tasks import Task
from hf_critmom.tasks.images import ImageDataset

ARM_NAMES, SEEDS, TARGETS = ("constant", "critmom", "hybrid"), (42, 43), (0.05, 0.999)
TRAIN, EVALUATED, BATCH, EPOCHS = 128, 64, 64, 2
STEPS = EPOCHS * TRAIN // BATCH
SMALL = (
    *("--width", "2", "--per_device_train_batch_size", str(BATCH), "--num_train_epochs", str(EPOCHS)),
    *("--max_train_samples", str(TRAIN), "--max_eval_samples", str(EVALUATED), "--use_cpu"),
    *("--workers", "1"),
)
TINY = (*SMALL, "--evaluations_per_epoch", "1")
WHOLE = (*TINY, "--arms", *ARM_NAMES, "--num_seeds", "2", "--targets", *map(str, TARGETS))


@dataclass
class Witnessed:
    """What one run was seen to do."""

    plan_was_written: bool
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    indices: dict[str, list[list[int]]] = field(default_factory=lambda: {"train": [], "validation": [], "test": []})
    batches: list[dict[str, torch.Tensor]] = field(default_factory=list)


@dataclass
class Witness:
    """Watches comparisons from inside: every model that is built and every batch that is handed out."""

    runs: dict[tuple[str, int], Witnessed] = field(default_factory=dict)
    outside_of_runs: list[str] = field(default_factory=list)
    task: Task | None = None
    _current: Witnessed | None = None

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        run, build, load, hand_out = (
            execution.execute_run,
            execution.build_model,
            runner.load_task,
            ImageDataset.__getitems__,
        )

        def watched_run(training: Any, model: Any, arm: Arm, planned: Run, task: Task, folder: Path, *rest: Any) -> Any:
            self._current = Witnessed((folder.parents[2] / "comparison.json").exists())
            self.runs[arm.name, planned.seed] = self._current
            try:
                return run(training, model, arm, planned, task, folder, *rest)
            finally:
                self._current = None

        def watched_build(*words: Any, **options: Any) -> Any:
            model = build(*words, **options)
            if self._current is not None:
                self._current.weights = {name: value.clone() for name, value in model.state_dict().items()}
            return model

        def watched_load(*words: Any) -> Task:
            self.task = load(*words)
            return self.task

        def watched_hand_out(dataset: ImageDataset, indices: Any) -> dict[str, torch.Tensor]:
            batch = hand_out(dataset, indices)
            assert self.task is not None
            splits = {"train": self.task.train, "validation": self.task.validation, "test": self.task.test}
            name = next(name for name, split in splits.items() if split is dataset)
            if self._current is None:
                self.outside_of_runs.append(name)
            else:
                self._current.indices[name].append(list(indices))
                if name == "train":
                    self._current.batches.append({key: value.clone() for key, value in batch.items()})
            return batch

        patch.setattr(execution, "execute_run", watched_run)
        patch.setattr(execution, "build_model", watched_build)
        patch.setattr(runner, "load_task", watched_load)
        patch.setattr(ImageDataset, "__getitems__", watched_hand_out)


@dataclass
class Finished:
    """A finished comparison: its folder, what it printed and what was seen of it."""

    folder: Path
    printed: str
    witness: Witness

    def result(self, arm: str, seed: int) -> dict[str, Any]:
        return read_result(self.folder, arm, seed)

    def results(self) -> list[dict[str, Any]]:
        return [self.result(arm, seed) for arm in ARM_NAMES for seed in SEEDS]


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def read_result(folder: Path, arm: str, seed: int) -> dict[str, Any]:
    file = folder / "runs" / arm / f"seed-{seed}" / "result.json"
    return json.loads(file.read_text(), parse_constant=refuse_constant)


def weights_in(folder: Path, arm: str, seed: int) -> bytes:
    return (folder / "runs" / arm / f"seed-{seed}" / "model.safetensors").read_bytes()


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def printed_by(words: tuple[str, ...], patch: pytest.MonkeyPatch) -> str:
    """Runs a command that must succeed; returns what it printed on a wide terminal."""
    out = io.StringIO()
    patch.setenv("COLUMNS", "200")
    patch.setattr(sys, "stdout", out)
    assert main(words) == 0
    return out.getvalue()
