"""Runs a comparison in a user's script: the dry run, the plan, and the missing runs."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hf_critmom.engines.selection import select_engine
from hf_critmom.experiments.comparison.arguments import DEFAULT_SCRIPT_ARMS
from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.growth import has_started, load_or_create_plan
from hf_critmom.experiments.comparison.pilot import (
    begun_pilot,
    is_same_pilot,
    pilot_announcement,
    pilot_folder,
    pilot_note,
    pilot_plan,
    pilot_targets,
    remove_other_pilot,
)
from hf_critmom.experiments.comparison.plan import PLAN_FILE_FORMAT, Plan, Run
from hf_critmom.experiments.comparison.planning import select_arms
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.results import writing
from hf_critmom.experiments.comparison.runner import make_runs, with_settings
from hf_critmom.experiments.comparison.running.execution import ArmRun
from hf_critmom.experiments.comparison.running.progress import Notifier, Progress
from hf_critmom.experiments.comparison.script.arguments import ScriptRequest
from hf_critmom.experiments.comparison.script.arms import arms_for
from hf_critmom.experiments.comparison.script.devices import Devices, visible_devices
from hf_critmom.experiments.comparison.script.dry_run import dry_run
from hf_critmom.experiments.comparison.script.execution import ScriptExecutor
from hf_critmom.experiments.comparison.script.planning import ScriptFacts, plan_script
from hf_critmom.experiments.comparison.script.processes import RunFailed
from hf_critmom.storage.files import write_json
from hf_critmom.storage.locks import LOCKS_FOLDER, locked, single_writer, try_lock
from hf_critmom.storage.run_folder import RESULT_FILE
from hf_critmom.storage.threads import resolve_threads
from hf_critmom.storage.typed import RecordError, from_json, read_json
from hf_critmom.storage.workers import check_workers, usable_cores


def run_script_comparison(request: ScriptRequest) -> Path:
    """Makes the missing runs of a comparison in a script.

    Args:
        request: The request.

    Returns:
        The comparison's folder.

    Raises:
        ComparisonError: If the script cannot be compared, the folder holds a comparison with other conditions, a run
            failed, or the folder cannot be written to any more; finished runs are kept.
    """
    with single_writer(request.engine.on_ray):
        return _run_script_comparison(request)


def _run_script_comparison(request: ScriptRequest) -> Path:
    request, folder = request.check(), request.folder
    PartialState(cpu=True)  # this process does not train
    torch.set_num_threads(1)
    workers = request.engine.workers or 1
    sharing = 1 if request.engine.on_ray else workers  # Ray gives each run its own GPUs
    devices = Devices(sharing, bool(request.script.launcher), visible_devices())
    with writing(folder):
        fresh = not PLAN_FILE_FORMAT.exists(folder)
        if fresh:
            PLAN_FILE_FORMAT.open_folder(folder)
        try:
            with locked(folder, "dry-run"):  # another launch of the same command waits, and then finds the plan
                requested, stored, threads = _prepare_plan(request, folder, devices)
        except ComparisonError:
            if fresh:
                _remove_traces(folder)
            raise
        shutil.rmtree(pilot_folder(folder), ignore_errors=True)
    arms = dict(requested.arms)
    content = requested.task.content
    runs = ScriptExecutor(request.script, request.metric, content["flags"], threads, int(content["steps"]), devices)
    on_cpu = request.script.switched_on("use_cpu")
    engine = select_engine(request.engine, workers=workers, threads=threads, on_cpu=on_cpu)
    make_runs(requested, runs, request.comparison, folder, arms, engine, stored is not None)
    return folder


def _prepare_plan(request: ScriptRequest, folder: Path, devices: Devices) -> tuple[Plan, Plan | None, int]:
    """Stores the requested plan; returns it, the plan that was there before, and the number of threads per process."""
    comparison, script, workers = request.comparison, request.script, devices.workers
    stored = Plan.read(folder) if PLAN_FILE_FORMAT.exists(folder) else None
    if stored is not None and not has_started(folder) and stored.task.content.get("script") != script.record():
        with try_lock(folder, "launch") as alone:
            stored = None if alone else stored
    if stored is not None and not stored.task.is_script:
        raise ComparisonError(f"{folder} holds a comparison on {stored.task.name}: choose another --output_dir.")
    if stored is not None and stored.task.metric == request.metric and request.flags.greater_is_better is None:
        # An earlier version may have judged the name of the metric otherwise.
        request = replace(request, flags=replace(request.flags, greater_is_better=stored.task.greater_is_better))
    threads = resolve_threads(
        None if stored is None else stored.recorded_threads,
        request.engine.threads_per_worker,
        lambda: max(1, usable_cores() // workers),
        folder=folder,
        kind="comparison",
        error=ComparisonError,
    )
    check_workers(workers, threads)
    own = str(script.value("optim") or "adamw_torch")
    arms = select_arms(comparison, folder, stored, arms_for(own), DEFAULT_SCRIPT_ARMS)
    notifier = Notifier(shown=True)
    if stored is not None:
        facts, targets = ScriptFacts.from_plan(stored), tuple(comparison.targets or stored.targets)
    else:
        first = next(iter(arms.values()))
        notifier.note(f"Dry run of {script.title}: a few steps and an evaluation.")
        facts = ScriptFacts.from_dry_run(request, dry_run(request, first, threads, devices))
        targets = tuple(comparison.targets or ())
        if not targets:
            facts, targets = _pilot(request, facts, arms, folder, threads, devices, notifier)
    requested = plan_script(request, facts, arms, targets, threads, stored)
    with try_lock(folder, "launch") as alone:
        load_or_create_plan(requested, folder, write=True, alone=alone)
    return requested, stored, threads


def _pilot(
    request: ScriptRequest,
    facts: ScriptFacts,
    arms: dict[str, Arm],
    folder: Path,
    threads: int,
    devices: Devices,
    notifier: Notifier,
) -> tuple[ScriptFacts, tuple[float, ...]]:
    """Targets from a pilot run, which is made before the plan, and the facts with a note on them.

    A pilot run that an earlier command has begun is continued, with the evaluation cadence that was measured then.
    """

    def plan_with(facts: ScriptFacts) -> Plan:
        return pilot_plan(plan_script(request, facts, arms, (0.0,), threads, None))

    place, plan = pilot_folder(folder), plan_with(facts)
    earlier = begun_pilot(place)
    if earlier is not None and request.flags.evaluations_per_epoch is None:
        cadence = ScriptFacts.from_plan(earlier).flags
        same = replace(facts, flags=cadence, training={**facts.training, **cadence})
        if cadence.keys() == facts.flags.keys() and is_same_pilot(earlier, plan_with(same)):
            facts, plan = same, plan_with(same)
    (run,) = plan.runs()
    path = place / run.folder
    notifier.note(pilot_announcement(run.arm, run.seed))
    remove_other_pilot(place, plan)
    if not PLAN_FILE_FORMAT.exists(place):
        shutil.rmtree(place, ignore_errors=True)  # nobody knows under which conditions
        place.mkdir()
        plan.write(place)
    file = path / RESULT_FILE
    if file.exists():
        with suppress(OSError, RecordError):
            result = from_json(RunResult, read_json(file))
            return _with_targets(request, facts, run, result)
    flags = {**facts.flags, "report_to": "none"}  # it is not a run of the comparison
    runs = ScriptExecutor(request.script, request.metric, flags, threads, facts.steps, devices)
    arm = plan.arms[run.arm]
    with Progress(1, notifier) as progress:
        try:
            result = runs.execute(
                ArmRun(run, with_settings(arm, *plan.settings(arm))),
                plan,
                path,
                lambda *event: _show(progress, *event),
            )
        except RunFailed as error:
            raise ComparisonError(f"The pilot run failed: {error}") from None
    if result.finished:
        write_json(file, result.as_json())
    return _with_targets(request, facts, run, result)


def _with_targets(
    request: ScriptRequest, facts: ScriptFacts, run: Run, result: RunResult
) -> tuple[ScriptFacts, tuple[float, ...]]:
    """The facts with a note on the pilot run, and the targets that it sets."""
    targets = pilot_targets(result, run.arm, request.metric, greater_is_better=request.greater_is_better)
    return replace(facts, notes=(*facts.notes, pilot_note(run.arm, run.seed))), targets


def _show(progress: Progress, kind: str, *content: Any) -> None:
    progress.handle(0, kind, *content)


def _remove_traces(folder: Path) -> None:
    """Removes a folder that a refused command has created, unless it holds files of another launch."""
    with suppress(OSError):
        for lock in (folder / LOCKS_FOLDER).glob("*.lock"):
            lock.unlink()
        (folder / LOCKS_FOLDER).rmdir()
        folder.rmdir()
