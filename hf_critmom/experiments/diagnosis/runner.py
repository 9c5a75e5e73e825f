"""Runs the ``attribute`` command: studies checkpoints, and writes each result at once."""

import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from hf_critmom.attribution.groups import layer_groups
from hf_critmom.attribution.predictions import model_loss
from hf_critmom.attribution.problems import TOP
from hf_critmom.engines.interface import Work
from hf_critmom.engines.selection import select_engine
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.execution import StudyExecutor, StudyJob, StudyStore
from hf_critmom.experiments.diagnosis.plan import AttributionRequest, settings_record
from hf_critmom.experiments.diagnosis.results import KIND, RESULTS_FILE, read_results, stored_results
from hf_critmom.experiments.diagnosis.tables import same_weights_finding
from hf_critmom.reporting.text import console_text, printable
from hf_critmom.storage.digest import weights_digest
from hf_critmom.storage.environment import versions
from hf_critmom.storage.files import create_or_open_folder, explain_write_errors, remove_partial_files
from hf_critmom.storage.locks import broadcast_from_main, single_writer
from hf_critmom.storage.threads import choose_threads, resolve_threads
from hf_critmom.storage.workers import resolve_workers
from hf_critmom.tasks import ImageTask, Task, load_checkpoint, load_task_of
from hf_critmom.tasks.provenance import check_trained_on
from hf_critmom.tasks.stored_arguments import check_output_folder


def run_attribution(request: AttributionRequest) -> Path:
    """Studies the checkpoints of an attribution that have no result yet; several launches share them out.

    Args:
        request: The request.

    Returns:
        The folder with ``attribution.json``.

    Raises:
        DiagnosisError: If the arguments are not valid, or a checkpoint cannot be diagnosed; results for others are
            stored by then, and the same command continues from there.
        AttributionError: If the layer groups cannot be formed.
        EngineError: If the engine is not available.
        TaskError: If the data or a checkpoint cannot be used.
    """
    with single_writer(request.engine.on_ray):
        return _run_attribution(request)


def _run_attribution(request: AttributionRequest) -> Path:
    args = request.attribution
    check_output_folder(Path(str(args.output_dir)), request.data)
    accelerator = Accelerator(cpu=args.use_cpu or not torch.accelerator.is_available())
    apart = accelerator.device.type == "cpu" and accelerator.num_processes == 1
    if apart:
        torch.set_num_threads(1)  # workers are forked: no thread pool may exist before
    task = load_task_of(request.checkpoints[0].path, request.data, request.loading)
    task.split(args.split)
    for flag, value in (("corruption", args.corruption), ("check_labels", args.check_labels)):
        if value and not isinstance(task, ImageTask):
            raise DiagnosisError(f"--{flag} is for images with classes, and {task.name} has none: leave it out.")
    executor = StudyExecutor(request, task, accelerator)
    digests = _check_checkpoints(request, task)
    jobs = StudyJob.of_each(request.checkpoints, digests)
    folder = Path(str(args.output_dir))
    threads = _resolve_threads(request, task, folder, measure=apart)
    wanted = request.engine.workers if apart or request.engine.workers is not None else 1
    workers = resolve_workers(wanted, threads, len(jobs))
    engine = select_engine(request.engine, workers=workers, threads=threads, on_cpu=args.use_cpu)
    settings = settings_record(request, task, threads)
    store = StudyStore(folder, settings, request.command, [job.spec.label for job in jobs])
    kept = "results for other checkpoints are kept, and not computed again"
    with closing(engine):
        if not (folder / RESULTS_FILE).exists():
            engine.start()  # a missing engine is reported before a folder is created
        if broadcast_from_main(not (folder / RESULTS_FILE).exists()):
            create_or_open_folder(folder, KIND, RESULTS_FILE, DiagnosisError, write=accelerator.is_main_process)
        accelerator.wait_for_everyone()
        with explain_write_errors(folder, DiagnosisError, kept):
            stored_results(folder, settings, digests)
            if accelerator.is_main_process:
                remove_partial_files(folder)
            missing = [job for job in jobs if not store.finished(job)]
            with _Watcher(missing, len(executor.severities), shown=accelerator.is_main_process) as watcher:
                if accelerator.is_main_process:
                    watcher.say_what_is_left_out(jobs)
                engine.run(Work(missing, settings, executor, store, versions()), watcher)
            watcher.check()
    accelerator.wait_for_everyone()
    return folder


class _Watcher:
    """Shows the progress of studies: the `Observer` of an engine.

    Args:
        jobs: The studies.
        parts: Number of parts of each study.
        shown: Whether this process shows progress.
    """

    def __init__(self, jobs: list[StudyJob], parts: int, *, shown: bool) -> None:
        self.console = Console(stderr=True, highlight=False)
        # Redrawn on events only: no drawing thread may exist when workers are forked.
        self._bars = Progress(
            console=self.console, disable=not (shown and self.console.is_terminal), transient=True, auto_refresh=False
        )
        self._bar = self._bars.add_task("checkpoints", total=len(jobs) * parts)
        self._parts, self._done = parts, Counter[Path]()
        self._failures: list[str] = []
        self._said: set[str] = set()

    def __enter__(self) -> "_Watcher":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Handles an event of a worker."""
        if kind == "studying":
            self._show(description=console_text(content[0]))
        elif kind == "studied":
            self._done[content[0]] += 1
        elif kind == "finished":
            self._done[content[0]] = self._parts
        elif kind == "waiting":
            self._show(description=f"another launch studies the last {content[0]}")
        elif kind == "machines":
            running = sum(number for number, _ in content[0].values())
            self._show(description=f"{running} running, {content[1]} waiting")
        elif kind == "failed":
            self._failures.append(content[0])
        elif kind == "message":
            self._say(content[0])
        self._show(completed=self._done.total())

    def workers_started(self) -> None:
        """Does nothing: progress is drawn on events only."""

    def worker_died(self, worker: int, sentence: str) -> None:
        """Reports that a worker died."""
        self._say(sentence)

    def say_what_is_left_out(self, jobs: list[StudyJob]) -> None:
        """Names the checkpoints that are not studied because another one has their weights."""
        for job in jobs:
            if job.same_weights:
                self._say(printable(same_weights_finding(job.spec.label, job.same_weights)))

    def check(self) -> None:
        """Raises if a study failed.

        Raises:
            DiagnosisError: If a study failed.
        """
        if self._failures:
            raise DiagnosisError(" ".join(self._failures))

    def _say(self, text: str) -> None:
        if text.strip() and text not in self._said:
            self._said.add(text)
            self.console.print(text, markup=False)

    def _show(self, **changes: Any) -> None:
        self._bars.update(self._bar, refresh=True, **changes)


def _resolve_threads(request: AttributionRequest, task: Task, folder: Path, *, measure: bool) -> int:
    """Number of threads of each study: that of the attribution in the folder, else the flag's, else the measured one.

    Raises:
        DiagnosisError: If the flag contradicts the attribution in the folder.
    """
    requested = request.engine.threads_per_worker
    stored = read_results(folder).all_settings.get("threads") if (folder / RESULTS_FILE).exists() else None
    if stored is not None and (type(stored) is not int or stored < 1):
        raise DiagnosisError(f"{folder / RESULTS_FILE} is corrupt (settings.threads is {stored!r}): delete it.")

    def default() -> int:
        return choose_threads(lambda: _pass_seconds(request, task)) if measure else torch.get_num_threads()

    return resolve_threads(stored, requested, default, folder=folder, kind="attribution", error=DiagnosisError)


def _pass_seconds(request: AttributionRequest, task: Task) -> float:
    """Seconds of a forward and backward pass of the first checkpoint, the fastest of three."""
    model, own_task = load_checkpoint(request.checkpoints[0].path, task, request.loading)
    examples = own_task.split(request.attribution.split).evaluated()
    batch = next(iter(DataLoader(examples, _MEASURED_EXAMPLES, collate_fn=own_task.collator)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    measured = []
    for _ in range(3):
        began = time.perf_counter()
        torch.autograd.grad(model_loss(model, dict(batch))[0], trained, allow_unused=True)
        measured.append(time.perf_counter() - began)
    return min(measured)


_MEASURED_EXAMPLES = 32
"""Number of examples in a measured backward pass, the same as in an attribution."""


def _check_checkpoints(request: AttributionRequest, task: Task) -> dict[str, str]:
    """Loads every checkpoint once before anything is computed, and returns digests of their weights, by label."""
    groups_of: dict[str, tuple[str, ...]] = {}
    digests = {}
    for spec in request.checkpoints:
        check_trained_on(spec.label, spec.trained_on, task, request.attribution.split)
        model, _ = load_checkpoint(spec.path, task, request.loading)
        groups_of[spec.label] = layer_groups(model, request.attribution.layer_groups).names
        digests[spec.label] = weights_digest(model)
    first = next(iter(groups_of))
    if request.attribution.num_top_groups > max(len(groups_of[first]), TOP):  # fewer groups than the default are fine
        raise DiagnosisError(
            f"--num_top_groups is {request.attribution.num_top_groups}, and {first} has {len(groups_of[first])} layer "
            f"groups ({', '.join(groups_of[first])}): choose fewer."
        )
    for label, names in groups_of.items():
        if names != groups_of[first]:
            raise DiagnosisError(
                f"{first} and {label} have different layer groups ({', '.join(groups_of[first])} and "
                f"{', '.join(names)}): attribute models of one architecture together, others separately."
            )
    return digests
