"""Runs the ``attribute`` command: studies of checkpoints, each result written as soon as it is there."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress, TaskID
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, set_seed

from hf_critmom.attribution.attribution import predict
from hf_critmom.attribution.doubtful_labels import DoubtfulLabel, find_doubtful_labels
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.groups import layer_groups
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.plan import AttributionRequest, CheckpointSpec, settings_record
from hf_critmom.experiments.diagnosis.results import (
    KIND,
    RESULTS_FILE,
    Result,
    read_results,
    store_result,
    stored_results,
)
from hf_critmom.experiments.diagnosis.study import Study, make_study
from hf_critmom.reporting.text import console_text
from hf_critmom.storage.digest import weights_digest
from hf_critmom.storage.files import create_or_open_folder, explain_write_errors, remove_partial_files
from hf_critmom.storage.locks import broadcast_from_main, try_lock
from hf_critmom.storage.run_folder import SECONDS_BETWEEN_LOOKS
from hf_critmom.storage.threads import computing_with, settle_threads
from hf_critmom.storage.workers import Send, check_workers, run_in_workers, settle_workers
from hf_critmom.tasks import ImageTask, Task, corrupt, load_checkpoint, load_task_of, parse_corruption
from hf_critmom.tasks.images import ImageDataset
from hf_critmom.tasks.provenance import check_trained_on
from hf_critmom.tasks.stored_arguments import check_output_folder
from hf_critmom.training.history import read_history


def run_attribution(request: AttributionRequest) -> Path:
    """Studies what is not yet studied of an attribution; several launches divide the checkpoints among themselves.

    Args:
        request: The arguments.

    Returns:
        The folder with ``attribution.json``.

    Raises:
        DiagnosisError: If the arguments cannot be followed, or a checkpoint cannot be diagnosed; what was found for
            others by then is stored, and the same command goes on from there.
        AttributionError: If the layer groups cannot be made.
        TaskError: If the data or a checkpoint cannot be used.
    """
    args = request.attribution
    check_output_folder(Path(str(args.output_dir)), request.data)
    accelerator = Accelerator(cpu=args.use_cpu or not torch.accelerator.is_available())
    apart = accelerator.device.type == "cpu" and accelerator.num_processes == 1
    if apart:
        torch.set_num_threads(1)  # workers are forked: no pool of threads may exist before
    corruption, severities = (None, (0,)) if args.corruption is None else parse_corruption(args.corruption)
    if len(severities) > 1:
        severities = (0, *severities)  # the clean images beside them
    task = load_task_of(request.checkpoints[0].path, request.data, request.loading)
    task.split(args.split)
    for flag, value in (("corruption", args.corruption), ("check_labels", args.check_labels)):
        if value and not isinstance(task, ImageTask):
            raise DiagnosisError(f"--{flag} is for images with classes, and {task.name} has none: leave it out.")
    digests = _check_checkpoints(request, task)
    folder = Path(str(args.output_dir))
    threads = _settle_threads(request, task, folder, measure=apart)
    wanted = args.workers if apart or args.workers is not None else 1
    workers = settle_workers(wanted, threads, len(request.checkpoints))
    check_workers(workers, threads)
    settings = settings_record(request, task, threads)
    if broadcast_from_main(not (folder / RESULTS_FILE).exists()):
        create_or_open_folder(folder, KIND, RESULTS_FILE, DiagnosisError, write=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    kept = "what was found for other checkpoints stays, and is not computed again"
    with explain_write_errors(folder, DiagnosisError, kept):
        stored_results(folder, settings, digests)
        if accelerator.is_main_process:
            remove_partial_files(folder)
        runner = DiagnosisRunner(request, task, digests, settings, accelerator, corruption, severities)
        if workers > 1:
            runner.run_apart(folder, workers, threads)
        else:
            with computing_with(threads):
                runner.run(folder)
    accelerator.wait_for_everyone()
    return folder


class DiagnosisRunner:
    """Studies checkpoints, one after another.

    Args:
        request: The arguments.
        task: The data.
        digests: Digest of each checkpoint's weights, by label.
        settings: What results depend on, as JSON.
        accelerator: Of this launch.
        corruption: Name of the corruption of the images, or None.
        severities: Its severities; 0 for clean images.
    """

    def __init__(
        self,
        request: AttributionRequest,
        task: Task,
        digests: dict[str, str],
        settings: dict[str, Any],
        accelerator: Accelerator,
        corruption: str | None,
        severities: tuple[int, ...],
    ) -> None:
        self.request, self.task, self.digests, self.settings = request, task, digests, settings
        self.accelerator, self.corruption, self.severities = accelerator, corruption, severities

    def run_apart(self, folder: Path, workers: int, threads: int) -> None:
        """Studies checkpoints in workers, each as a launch of its own.

        Args:
            folder: The folder.
            workers: Number of workers.
            threads: Threads of each.
        """
        console = Console(stderr=True, highlight=False)
        studied: set[str] = set()

        def work(send: Send) -> None:
            for split in self.task.splits.values():
                split.isolate()
            self.run(folder, studied=lambda spec: send("studied", spec.label), shown=False)

        with Progress(console=console, disable=not console.is_terminal, transient=True, auto_refresh=False) as progress:
            bar = progress.add_task("checkpoints", total=len(self.request.checkpoints))

            def handle(worker: int, kind: str, *content: Any) -> None:
                if kind == "studied":
                    studied.add(content[0])
                    progress.update(bar, completed=len(studied), refresh=True)
                else:
                    console.print(content[0], markup=False)

            run_in_workers(
                work,
                workers=workers,
                threads=threads,
                handle=handle,
                died=lambda worker, number: console.print(
                    f"A worker was killed (signal {number}): the others study its checkpoint."
                ),
            )

    def run(
        self, folder: Path, *, studied: Callable[[CheckpointSpec], None] = lambda spec: None, shown: bool = True
    ) -> None:
        """Studies every checkpoint that no launch has studied, and waits for those that others study."""
        console = Console(stderr=True)
        shown = shown and self.accelerator.is_main_process and console.is_terminal
        order = [spec.label for spec in self.request.checkpoints]
        with Progress(console=console, disable=not shown, transient=True) as progress:
            bar = progress.add_task("", total=len(order) * len(self.severities))
            waiting = list(self.request.checkpoints)
            while waiting:
                left = []
                for spec in waiting:
                    if self._studied(spec, folder, order, progress, bar):
                        studied(spec)
                    else:
                        left.append(spec)
                if len(left) == len(waiting):
                    progress.update(bar, description=f"another launch studies the last {len(left)}")
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                waiting = left

    def _studied(self, spec: CheckpointSpec, folder: Path, order: list[str], progress: Progress, bar: TaskID) -> bool:
        """Studies a checkpoint unless it is; False if another launch is studying it."""
        if self._is_stored(spec, folder):
            progress.advance(bar, len(self.severities))
            return True
        with try_lock(folder, f"study-{self.digests[spec.label][:16]}") as acquired:
            if not acquired:
                return False
            if self._is_stored(spec, folder):
                progress.advance(bar, len(self.severities))
                return True
            result = self._study(spec, progress, bar)
            if self.accelerator.is_main_process:
                store_result(folder, self.settings, result, self.request.command, order)
            self.accelerator.wait_for_everyone()
        return True

    def _is_stored(self, spec: CheckpointSpec, folder: Path) -> bool:
        stored = {}
        if self.accelerator.is_main_process and (folder / RESULTS_FILE).exists():
            stored = {one.label: one.sha256 for one in read_results(folder).checkpoints}
        return broadcast_from_main(stored.get(spec.label) == self.digests[spec.label])

    def _study(self, spec: CheckpointSpec, progress: Progress, bar: TaskID) -> Result:
        model, task = load_checkpoint(spec.path, self.task, self.request.loading)
        studies = []
        for severity in self.severities:
            title = f"{spec.label}, severity {severity}" if severity else spec.label
            progress.update(bar, description=console_text(title))
            try:
                studies.append(self._study_of(spec, model, task, severity))
            except AttributionError as error:
                at = f" at severity {severity}" if severity else ""
                raise DiagnosisError(f"{spec.label}{at}: {error}") from None
            progress.advance(bar)
        return Result(
            spec.label,
            spec.arm,
            spec.seed,
            self.digests[spec.label],
            sum(parameter.numel() for parameter in model.parameters()),
            tuple(studies),
            _history(spec.path),
            self._doubtful_labels(model, task) if self.request.attribution.check_labels else None,
        )

    def _study_of(self, spec: CheckpointSpec, model: PreTrainedModel, task: Task, severity: int) -> Study:
        args = self.request.attribution
        initial = None
        if args.initial:
            set_seed((spec.seed or 0) % 2**32)
            initial = self._placed(type(model)(model.config).to(model.dtype), task)
        return make_study(
            self._placed(model, task),
            self._loader(task, severity),
            select=args.select,
            initial=initial,
            groups=args.layer_groups,
            class_names=task.label_names if isinstance(task, ImageTask) else (),
            batch_size=args.gradient_batch_size,
            num_top=args.num_top_groups,
            seed=args.seed,
            accelerator=self.accelerator,
            corruption=self.corruption,
            severity=severity,
        )

    def _doubtful_labels(self, model: PreTrainedModel, task: Task) -> tuple[DoubtfulLabel, ...]:
        loader = self._loader(task, 0)
        return tuple(find_doubtful_labels(predict(model, loader, accelerator=self.accelerator, probabilities=True)))

    def _placed(self, model: PreTrainedModel, task: Task) -> PreTrainedModel:
        return model.to(device=self.accelerator.device, memory_format=task.memory_format)

    def _loader(self, task: Task, severity: int) -> Any:
        args = self.request.attribution
        examples = task.split(args.split).evaluated()
        if self.corruption is not None and severity and isinstance(examples, ImageDataset):
            images = corrupt(examples.images, self.corruption, severity, seed=args.seed)
            examples = examples.evaluated(images)
        loader = DataLoader(examples, args.per_device_eval_batch_size, collate_fn=task.collator)
        return self.accelerator.prepare_data_loader(loader)


def _settle_threads(request: AttributionRequest, task: Task, folder: Path, *, measure: bool) -> int:
    """Threads that each study computes with: those of the attribution in the folder, the flag's, else as measured.

    Raises:
        DiagnosisError: If the flag contradicts the folder: another number of threads gives other results.
    """
    wanted = request.attribution.threads_per_worker
    stored = read_results(folder).all_settings.get("threads") if (folder / RESULTS_FILE).exists() else None
    if stored is not None and (type(stored) is not int or stored < 1):
        raise DiagnosisError(f"{folder / RESULTS_FILE} is corrupt (settings.threads is {stored!r}): delete it.")
    measured = (lambda: _pass_seconds(request, task)) if measure else None
    return settle_threads(stored, wanted, measured, folder=folder, kind="attribution", error=DiagnosisError)


def _pass_seconds(request: AttributionRequest, task: Task) -> float:
    """Seconds of a forward and backward pass of the first checkpoint, the fastest of three."""
    model, own_task = load_checkpoint(request.checkpoints[0].path, task, request.loading)
    examples = own_task.split(request.attribution.split).evaluated()
    batch = next(iter(DataLoader(examples, _MEASURED_EXAMPLES, collate_fn=own_task.collator)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    measured = []
    for _ in range(3):
        began = time.perf_counter()
        torch.autograd.grad(model(**batch)["loss"], trained, allow_unused=True)
        measured.append(time.perf_counter() - began)
    return min(measured)


_MEASURED_EXAMPLES = 32
"""Examples of a backward pass, as of the gradients of an attribution."""


def _check_checkpoints(request: AttributionRequest, task: Task) -> dict[str, str]:
    """Loads every checkpoint once, before anything is computed; returns digests of their weights by label."""
    groups_of: dict[str, tuple[str, ...]] = {}
    digests = {}
    for spec in request.checkpoints:
        check_trained_on(spec.label, spec.trained_on, task, request.attribution.split)
        model, _ = load_checkpoint(spec.path, task, request.loading)
        groups_of[spec.label] = layer_groups(model, request.attribution.layer_groups).names
        digests[spec.label] = weights_digest(model)
    first = next(iter(groups_of))
    for label, names in groups_of.items():
        if names != groups_of[first]:
            raise DiagnosisError(
                f"{first} and {label} have different layer groups ({', '.join(groups_of[first])} and "
                f"{', '.join(names)}): attribute models of one architecture together, others apart."
            )
    return digests


def _history(path: str) -> tuple[dict[str, Any], ...]:
    """What `AttributionCallback` kept while a checkpoint was trained: in its folder, or the one of its run."""
    for folder in (Path(path), Path(path).parent if Path(path).name.startswith("checkpoint-") else Path(path)):
        if found := read_history(folder):
            return tuple(entry for entry in found if entry["prefix"] == "eval")
    return ()
