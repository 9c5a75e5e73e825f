"""Drift: how the networks that a comparison trained do on corrupted test images."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from torch.utils.data import DataLoader

from hf_critmom.attribution import predict
from hf_critmom.experiments.comparison.drift_statistics import DRIFT_FILE
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import Plan, Run
from hf_critmom.experiments.comparison.records import CLEAN, DriftRecord, read_drift_record, severities
from hf_critmom.experiments.comparison.results import read_results, writing
from hf_critmom.storage.files import write_json
from hf_critmom.storage.locks import locked
from hf_critmom.tasks import (
    CORRUPTIONS,
    TASKS,
    CheckpointArguments,
    DataArguments,
    ImageTask,
    ModelArguments,
    Task,
    corrupt,
    load_checkpoint,
    load_task,
)
from hf_critmom.tasks.images import ImageDataset
from hf_critmom.tasks.stored_arguments import restore_arguments

_SEED = 0  # of the noise: the same corrupted images for every network


def load_compared_task(folder: Path, plan: Plan, *, task: str | None = None, trust_remote_code: bool = False) -> Task:
    """The task of a comparison, from the flags that its plan holds.

    Plans of early versions hold no flags, but names and sizes of the data, which say enough unless the data was local.

    Args:
        folder: The comparison's folder.
        plan: Its plan.
        task: Where the data is, if not where the plan says.
        trust_remote_code: Run code that comes with the model's processor; the plan cannot say so.

    Raises:
        ComparisonError: If the plan does not say where the data is.
        TaskError: If the data cannot be used.
    """
    if plan.arguments:
        data = restore_arguments(DataArguments, plan.arguments.get("data", {}), folder)
        model = restore_arguments(ModelArguments, plan.arguments.get("model", {}), folder)
    else:
        data, model = _early_arguments(folder, plan, task)
    if task is not None:
        elsewhere: dict[str, Any] = {part.name: None for part in dataclasses.fields(data) if _names_data(part.name)}
        data = dataclasses.replace(data, task=task, **elsewhere)
    return load_task(data, dataclasses.replace(model, trust_remote_code=trust_remote_code))


def _names_data(flag: str) -> bool:
    return flag == "dataset_name" or flag.endswith(("_dir", "_file"))


def _early_arguments(folder: Path, plan: Plan, task: str | None) -> tuple[DataArguments, ModelArguments]:
    """Flags that describe the data as a plan without flags does; its fingerprints tell whether they are right."""
    source, splits = plan.task.source, plan.task.splits
    if task is None and source.startswith(("local folder ", "local file ")):
        raise ComparisonError(
            f"The plan in {folder} is of an early version, which did not keep where its data is: name it with --task; "
            f"it was the {source}."
        )
    known = plan.task.name in TASKS and TASKS[plan.task.name].source == source
    data = DataArguments(
        task=plan.task.name if known else source,
        max_train_samples=splits["train"].examples,
        max_eval_samples=max(splits["validation"].examples, splits["test"].examples),
    )
    return data, ModelArguments(model_name_or_path=plan.model.get("model_name_or_path"))


def measure_drift(
    folder: Path,
    task: Task,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    max_samples: int | None = None,
    batch_size: int = 500,
    loading: CheckpointArguments | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> None:
    """Tests every finished run's network on corrupted test images, and keeps the accuracies beside its result.

    The corruptions are a CIFAR-10-C-style subset, see `hf_critmom.tasks.corruptions`; all networks see the same images.
    What was measured before is not repeated.

    Args:
        folder: A comparison's folder whose runs still have their models.
        task: The task that it was made with.
        corruptions: Names in `CORRUPTIONS`.
        max_samples: Test with so many images, drawn at random; None: with all.
        batch_size: Images of a forward pass.
        loading: How the networks are loaded.
        progress: Told of each corruption that is finished.

    Raises:
        ComparisonError: If the task is not the comparison's or not one of images, no run has a model, or an earlier
            measurement used other images.
        TaskError: If a corruption is not known, or a model cannot be loaded.
    """
    plan = Plan.read(folder)
    if not isinstance(task, ImageTask):
        raise ComparisonError(f"Only images can be corrupted, and {task.name} has none.")
    if task.test.fingerprint() != plan.task.splits["test"].sha256:
        raise ComparisonError(
            f"The test images of {task.name} are not those of the comparison in {folder}: bring its data back, or say "
            "with --task where they are."
        )
    examples = _sample(task.test, max_samples)
    process = PartialState()
    runs = [run for run, result in read_results(folder, plan).runs.items() if result.finished]
    runs = [run for run in runs if (folder / run.folder / "config.json").exists()]
    if not runs:
        raise ComparisonError(f"No run of the comparison in {folder} has kept its model: drift is measured on models.")
    runs = runs[process.process_index :: process.num_processes]
    measured = {run: set(_read(folder / run.folder / DRIFT_FILE, len(examples)).accuracy) for run in runs}
    networks = {run: load_checkpoint(str(folder / run.folder), task, loading) for run in runs}
    for name in (CLEAN, *corruptions):
        missing = [run for run in runs if name not in measured[run]]
        if not missing:
            continue
        accuracies: dict[Run, list[float]] = {run: [] for run in missing}
        for severity in severities(name):
            images = examples.images if name == CLEAN else corrupt(examples.images, name, severity, seed=_SEED)
            for run in missing:
                model, own_task = networks[run]
                assert isinstance(own_task, ImageTask)  # as the task is
                seen = _sample(own_task.test, max_samples).evaluated(images)
                loader = DataLoader(seen, batch_size, collate_fn=own_task.collator)
                accuracies[run].append(predict(model.to(process.device), loader).accuracy)
        for run in missing:
            record = DriftRecord(len(examples), {name: tuple(accuracies[run])})
            with writing(folder):
                _add(folder, run, record)
        progress(name)
    process.wait_for_everyone()


def _sample(examples: ImageDataset, max_samples: int | None) -> ImageDataset:
    if max_samples is None or max_samples >= len(examples):
        return examples
    if max_samples < 1:
        raise ComparisonError(f"--max_eval_samples must be at least 1, got {max_samples}.")
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(examples))[:max_samples])
    return examples.take(chosen)


def _read(file: Path, examples: int) -> DriftRecord:
    """What was measured of a network before; nothing yet where there is no file."""
    if not file.exists():
        return DriftRecord(examples, {})
    stored = read_drift_record(file)
    if stored.examples != examples:
        raise ComparisonError(
            f"{file} was measured on {stored.examples:,} images, and this asks for {examples:,}: repeat its "
            "command, or delete it."
        )
    return stored


def _add(folder: Path, run: Run, record: DriftRecord) -> None:
    """Adds accuracies to those of the run's file, to which another launch may have added others meanwhile."""
    file = folder / run.folder / DRIFT_FILE
    with locked(folder, "drift"):
        stored = _read(file, record.examples)
        write_json(file, DriftRecord(record.examples, {**stored.accuracy, **record.accuracy}).as_json())
