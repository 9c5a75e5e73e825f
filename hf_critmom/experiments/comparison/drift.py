"""Drift: accuracy of a comparison's networks on corrupted test images."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader

from hf_critmom.attribution import predict
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import Plan, Run
from hf_critmom.experiments.comparison.records import CLEAN, DRIFT_FILE, DriftRecord, read_drift_record, severities
from hf_critmom.experiments.comparison.results import read_results, writing
from hf_critmom.storage.files import write_json
from hf_critmom.storage.locks import locked, try_lock
from hf_critmom.storage.run_folder import POLL_SECONDS
from hf_critmom.storage.threads import torch_threads
from hf_critmom.storage.workers import Send, check_workers, resolve_workers, run_in_workers
from hf_critmom.tasks import (
    CORRUPTIONS,
    TASKS,
    CheckpointArguments,
    DataArguments,
    ImageTask,
    ModelArguments,
    Task,
    corrupt,
    corruptions_of,
    load_checkpoint,
    load_task,
)
from hf_critmom.tasks.images import ImageDataset
from hf_critmom.tasks.stored_arguments import restore_arguments

_SEED = 0  # of corruptions and samples, so that every network sees the same images


def load_compared_task(folder: Path, plan: Plan, *, task: str | None = None, trust_remote_code: bool = False) -> Task:
    """The task of a comparison, from the flags that its plan stores.

    Early plans store no flags, but names and sizes of the data, which suffice unless the data was local.

    Args:
        folder: The comparison's folder.
        plan: The comparison's plan.
        task: Where the data is, if it is not where the plan says.
        trust_remote_code: Whether code that comes with the model's processor may run, which plans never store.

    Raises:
        ComparisonError: If the plan does not say where the data is, or the comparison is of a script.
        TaskError: If the data cannot be used.
    """
    if plan.task.is_script:
        raise ComparisonError(
            f"{folder} holds a comparison in a script, which loads its data by itself: drift can be measured only for "
            "comparisons without --script."
        )
    if plan.arguments:
        data = restore_arguments(DataArguments, plan.arguments.get("data", {}), folder)
        model = restore_arguments(ModelArguments, plan.arguments.get("model", {}), folder)
    else:
        data, model = _early_arguments(folder, plan, task)
    if task is not None:
        unset: dict[str, Any] = {part.name: None for part in dataclasses.fields(data) if _names_data(part.name)}
        data = dataclasses.replace(data, task=task, **unset)
    return load_task(data, dataclasses.replace(model, trust_remote_code=trust_remote_code))


def _names_data(flag: str) -> bool:
    return flag == "dataset_name" or flag.endswith(("_dir", "_file"))


def _early_arguments(folder: Path, plan: Plan, task: str | None) -> tuple[DataArguments, ModelArguments]:
    """Flags reconstructed from an early plan; the fingerprints of the data will show whether they are right."""
    source, splits = plan.task.source, plan.task.splits
    if task is None and source.startswith(("local folder ", "local file ")):
        raise ComparisonError(
            f"The plan in {folder} is of an early version, which did not store where its data is: name it with --task; "
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
    workers: int | None = 1,
) -> None:
    """Tests the network of every finished run on corrupted test images, and writes the accuracies next to its result.

    The corruptions are a CIFAR-10-C-style subset, see `hf_critmom.tasks.corruptions`; all networks see the same images.
    Earlier measurements are not repeated, and several launches or workers share out the corruptions.

    Args:
        folder: A comparison's folder whose runs still have their models.
        task: The task of the comparison.
        corruptions: Names in `CORRUPTIONS`; those that leave the images as they are are left out.
        max_samples: Number of test images, drawn at random; None for all.
        batch_size: Images of a forward pass.
        loading: How the networks are loaded.
        progress: Called with the name of each corruption that is finished.
        workers: Processes that measure at the same time, forked from this one, which must not have computed with
            several threads before; None for as many as there are cores for. Accuracies do not depend on their number.

    Raises:
        ComparisonError: If the task is not the comparison's or has no images, no run has a model, or an earlier
            measurement used another number of images.
        TaskError: If a corruption is not known, or a model cannot be loaded.
    """
    plan = Plan.read(folder)
    if not isinstance(task, ImageTask):
        raise ComparisonError(f"Only images can be corrupted, and {task.name} has none.")
    if task.test.fingerprint() != plan.task.splits["test"].sha256:
        raise ComparisonError(
            f"The test images of {task.name} are not those of the comparison in {folder}: restore its data, or say "
            "with --task where it is."
        )
    process = PartialState()
    runs = [run for run, result in read_results(folder, plan).runs.items() if result.finished]
    runs = [run for run in runs if (folder / run.folder / "config.json").exists()]
    if not runs:
        raise ComparisonError(
            f"No finished run of the comparison in {folder} has its model, on which drift is measured: restore the "
            "models, or make the runs again."
        )
    runs = runs[process.process_index :: process.num_processes]
    examples = _sample(task.test, max_samples)
    used = corruptions_of(examples.images, corruptions)
    for name in corruptions:
        if name not in used:
            progress(f"{name} is left out, because it changes nothing but colours, and the images are grey")
    names = list(dict.fromkeys((CLEAN, *used)))
    threads = plan.recorded_threads or 1
    alone = process.device.type != "cpu" or process.num_processes > 1
    workers = resolve_workers(1 if alone and workers is None else workers, threads, len(names))
    check_workers(workers, threads)
    for run in runs:
        _read(folder / run.folder / DRIFT_FILE, len(examples))  # a refusal comes before any work
    networks = {run: load_checkpoint(str(folder / run.folder), task, loading) for run in runs}
    measuring = _Measuring(folder, networks, examples, max_samples, batch_size, process)
    if workers > 1:
        measured: set[str] = set()

        def handle(worker: int, kind: str, *content: Any) -> None:
            if content[0] not in measured:  # every worker reports every corruption
                measured.add(content[0])
                progress(content[0])

        def work(send: Send) -> None:
            for split in task.splits.values():
                split.isolate()
            measuring.measure_all(names, lambda name: send("progress", name))

        run_in_workers(work, workers=workers, threads=threads, on_event=handle)
    else:
        with torch_threads(torch.get_num_threads() if process.device.type != "cpu" else threads):
            measuring.measure_all(names, progress)
    process.wait_for_everyone()


@dataclasses.dataclass(frozen=True)
class _Measuring:
    """The measurement of a launch or a worker.

    Attributes:
        folder: The comparison's folder.
        networks: The networks by run, each with the task as its preprocessing needs it.
        examples: The test images.
        max_samples: Number of images that were requested; None for all.
        batch_size: Images of a forward pass.
        process: The process of this launch.
    """

    folder: Path
    networks: dict[Run, tuple[Any, Task]]
    examples: ImageDataset
    max_samples: int | None
    batch_size: int
    process: PartialState

    def measure_all(self, names: Sequence[str], progress: Callable[[str], None]) -> None:
        """Measures what is missing, and waits for what other workers and launches are measuring."""
        left = list(names)
        while left:
            waiting = [name for name in left if not self._measured(name, progress)]
            if len(waiting) == len(left):
                time.sleep(POLL_SECONDS)
            left = waiting

    def _measured(self, name: str, progress: Callable[[str], None]) -> bool:
        """Measures what is missing of a corruption; False if another worker or launch is measuring it."""
        if self.process.num_processes > 1:  # each process has its own share of the networks
            self._measure(name, progress)
            return True
        with writing(self.folder), try_lock(self.folder, f"drift-{name}") as acquired:
            if acquired:
                self._measure(name, progress)
        return acquired

    def _measure(self, name: str, progress: Callable[[str], None]) -> None:
        missing = [run for run in self.networks if name not in self._known(run)]
        if not missing:
            return
        accuracies: dict[Run, list[float]] = {run: [] for run in missing}
        for severity in severities(name):
            images = self.examples.images
            if name != CLEAN:
                images = corrupt(images, name, severity, seed=_SEED)
            for run in missing:
                model, own_task = self.networks[run]
                assert isinstance(own_task, ImageTask)  # like the task itself
                seen = _sample(own_task.test, self.max_samples).evaluated(images)
                loader = DataLoader(seen, self.batch_size, collate_fn=own_task.collator)
                accuracies[run].append(predict(model.to(self.process.device), loader).accuracy)
        for run in missing:
            record = DriftRecord(len(self.examples), {name: tuple(accuracies[run])})
            with writing(self.folder):
                _add(self.folder, run, record)
        progress(name)

    def _known(self, run: Run) -> set[str]:
        return set(_read(self.folder / run.folder / DRIFT_FILE, len(self.examples)).accuracy)


def _sample(examples: ImageDataset, max_samples: int | None) -> ImageDataset:
    if max_samples is None or max_samples >= len(examples):
        return examples
    if max_samples < 1:
        raise ComparisonError(f"--max_eval_samples must be at least 1, got {max_samples}.")
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(examples))[:max_samples])
    return examples.take(chosen)


def _read(file: Path, examples: int) -> DriftRecord:
    """Earlier measurements of a network; empty if there is no file."""
    if not file.exists():
        return DriftRecord(examples, {})
    stored = read_drift_record(file)
    if stored.examples != examples:
        raise ComparisonError(
            f"{file} was measured on {stored.examples:,} images, and {examples:,} are requested: give the same "
            "--max_eval_samples, or delete the file."
        )
    return stored


def _add(folder: Path, run: Run, record: DriftRecord) -> None:
    """Adds accuracies to the run's file, to which another launch may have added others in the meantime."""
    file = folder / run.folder / DRIFT_FILE
    with locked(folder, "drift"):
        stored = _read(file, record.examples)
        write_json(file, DriftRecord(record.examples, {**stored.accuracy, **record.accuracy}).as_json())
