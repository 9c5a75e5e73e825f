"""Merges comparisons with the same conditions, such as the shares of several machines, in one folder."""

import dataclasses
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.findings.commands import continuing_command
from hf_critmom.experiments.comparison.plan import PLAN_FILE_FORMAT, Plan, Run
from hf_critmom.experiments.comparison.records import DRIFT_FILE, DriftRecord, RunResult, read_drift_record
from hf_critmom.experiments.comparison.results import (
    read_results,
    read_tuned_runs,
    separate_tuned_runs,
    write_results,
    writing,
)
from hf_critmom.experiments.comparison.union import Part, merge_plans
from hf_critmom.storage.files import remove_partial_files, write_json
from hf_critmom.storage.locks import is_locked, locked, try_lock
from hf_critmom.storage.plan import differences
from hf_critmom.storage.run_folder import RESULT_FILE, lock_name
from hf_critmom.tasks import DataArguments, ModelArguments
from hf_critmom.tasks.stored_arguments import restore_arguments, store_arguments

STAGING_FOLDER = ".merging"
"""Folder for copied runs until all of them are there."""
LOCK = "merge"
"""Lock of a folder in which comparisons are being merged."""


@dataclass(frozen=True)
class Source:
    """A folder that is merged.

    Attributes:
        name: Name in messages: its path, or the repository that it was pulled from.
        folder: The folder.
        is_pulled: Whether it was pulled from a repository, so that its paths do not exist on this machine.
    """

    name: str
    folder: Path
    is_pulled: bool = False


@dataclass(frozen=True)
class _Part(Part):
    """A source with its content.

    Attributes:
        source: The source.
        drift: Drift of its runs as far as it was measured, by run.
    """

    source: Source
    drift: Mapping[Run, DriftRecord]

    def path(self, run: Run) -> Path:
        """The folder of a run."""
        return self.source.folder / run.folder


def merge_comparisons(sources: Sequence[Source], output: Path) -> list[str]:
    """Merges comparisons in a folder, and adds them to the comparison that it may hold.

    Everything is read and checked before anything is written. Runs appear in the folder one by one, each complete: an
    interrupted merge leaves a valid comparison, and the same merge again completes it.

    Args:
        sources: The folders; the first one determines the baseline and the order of the arms.
        output: The folder to write to.

    Returns:
        Sentences that the reader of the merged comparison should know.

    Raises:
        ComparisonError: If a source holds no comparison, a launch is working in it, its conditions differ, or two
            sources have different results of the same run; or if the output folder holds other files.
    """
    for source in sources:
        if not source.folder.is_dir():
            raise ComparisonError(f"There is no folder {source.name}: name folders of comparisons.")
        if source.folder.resolve() == output.resolve():
            raise ComparisonError(f"{source.name} is the --output_dir itself: name only folders to add to it.")
    if len({source.folder.resolve() for source in sources}) < len(sources):
        raise ComparisonError("A folder is named twice: name each once.")
    merged = None if PLAN_FILE_FORMAT.exists(output) else _merge(sources, output)  # a failure leaves no folder behind
    PLAN_FILE_FORMAT.open_folder(output)
    with writing(output), locked(output, LOCK):  # of two concurrent merges, the second adds to what the first wrote
        if merged is None or PLAN_FILE_FORMAT.exists(output):
            merged = _merge([Source(str(output), output), *sources], output)
        parts, plan, chosen = merged
        _write(plan, parts, chosen, output)
    return _notes(parts, plan, output)


def _merge(sources: Sequence[Source], output: Path) -> tuple[list[_Part], Plan, dict[Run, _Part]]:
    """Reads and checks the sources: returns their contents, the merged plan, and the part that each run comes from."""
    parts = [_read(source) for source in sources]
    plan = _with_paths(merge_plans(parts), parts, output)
    chosen = _choose(parts)
    _check_drift(parts)
    return parts, plan, chosen


def _read(source: Source) -> _Part:
    """Reads and checks a source."""
    plan = Plan.parse(Path(source.name), PLAN_FILE_FORMAT.read(source.folder))
    if is_locked(source.folder, ignore=LOCK):
        raise ComparisonError(
            f"A launch is making runs of the comparison in {source.name}: wait until it has ended, or stop it, then "
            "merge."
        )
    results = read_results(source.folder, plan)
    every_run = {**results.runs, **read_tuned_runs(source.folder, plan), **results.trials}
    # A tuned variant may have the results of its arm, and no folder.
    runs = {run: result for run, result in every_run.items() if (source.folder / run.folder / RESULT_FILE).exists()}
    drift = {run: read_drift_record(file) for run in runs if (file := source.folder / run.folder / DRIFT_FILE).exists()}
    return _Part(source.name, plan, runs, source, drift)


def _choose(parts: Sequence[_Part]) -> dict[Run, _Part]:
    """The part from which each run is copied: the first one with the run's model, else the first one with the run.

    Raises:
        ComparisonError: If two parts have different results of the same run.
    """
    chosen: dict[Run, _Part] = {}
    for part in parts:
        for run, result in part.runs.items():
            before = chosen.setdefault(run, part)
            if different := _difference(before.runs[run], result):
                raise ComparisonError(
                    f"{before.name} and {part.name} have different results of the run {run.title} ({different}), which "
                    "should be the same: find out why, and delete one of the two run folders."
                )
            if not _has_model(before, run) and _has_model(part, run):
                chosen[run] = part
    return chosen


def _difference(one: RunResult, other: RunResult) -> str:
    """The first difference between two results of a run, apart from measured times; empty if there is none."""
    left, right = (_computed(result) for result in (one, other))
    names = [name for name in left if left[name] not in (None, {}, []) and right[name] not in (None, {}, [])]
    found = [line for name in names for line in differences(name, left[name], right[name])]
    return found[0] if found else ""


def _computed(result: RunResult) -> dict[str, Any]:
    """The part of a result that follows from the plan alone."""
    content = result.as_json()
    names = ("status", "steps", "test", "threads", "integrated_step", "shrinkage")
    evaluations = {f"step {one.step}": {"epoch": one.epoch, **one.values} for one in result.evaluations}
    return {"evaluations": evaluations, **{name: content[name] for name in names}}


def _has_model(part: _Part, run: Run) -> bool:
    return (part.path(run) / "config.json").exists()


def _check_drift(parts: Iterable[_Part]) -> None:
    """Checks that all networks were tested on the same number of images, and that two parts' accuracies agree."""
    known: tuple[str, int] | None = None
    measured: dict[Run, tuple[str, DriftRecord]] = {}
    for part in parts:
        for run, record in part.drift.items():
            known = known or (part.name, record.examples)
            if record.examples != known[1]:
                raise ComparisonError(
                    f"Drift was measured on {known[1]:,} images in {known[0]} and on {record.examples:,} in "
                    f"{part.name}: delete the {DRIFT_FILE} of every run in one of them, and measure drift again there."
                )
            name, before = measured.setdefault(run, (part.name, record))
            for corruption in before.accuracy.keys() & record.accuracy.keys():
                if before.accuracy[corruption] != record.accuracy[corruption]:
                    raise ComparisonError(
                        f"{name} and {part.name} have different accuracies of the run {run.title} under {corruption}: "
                        f"delete the run's {DRIFT_FILE} in one of them, and measure drift again there."
                    )


def _with_paths(plan: Plan, parts: Sequence[_Part], output: Path) -> Plan:
    """The plan with the paths of data and model relative to the folder that it is written to."""
    if parts[0].source.folder == output:
        return plan
    local = [part for part in parts if not part.source.is_pulled and part.plan.arguments]
    if not local:
        return plan
    folder, stored = local[0].source.folder, local[0].plan.arguments
    types: dict[str, Any] = {"data": DataArguments, "model": ModelArguments}
    moved = {
        name: store_arguments(restore_arguments(types[name], stored[name], folder), output)
        for name in types
        if name in stored
    }
    return dataclasses.replace(plan, arguments={**stored, **moved})


def _write(plan: Plan, parts: Sequence[_Part], chosen: Mapping[Run, _Part], output: Path) -> None:
    """Writes plan and runs; runs are copied to a staging folder before anything changes."""
    staged = output / STAGING_FOLDER
    shutil.rmtree(staged, ignore_errors=True)  # left by a merge that was killed
    remove_partial_files(output)
    copied = [run for run, part in chosen.items() if part.source.folder != output]
    try:
        for run in copied:
            _copy(chosen[run].path(run), staged / run.folder)
        with locked(output, "plan"):
            before = Plan.read(output) if PLAN_FILE_FORMAT.exists(output) else None
            if before is not None and before != parts[0].plan:
                raise ComparisonError(f"The comparison in {output} has changed in the meantime: repeat the command.")
            if before != plan:
                plan.write(output)
        for run in copied:
            _move(staged, run, output)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    _write_drift(parts, chosen, output)
    with locked(output, "results"):
        write_results(output, plan)


def _copy(run: Path, staged: Path) -> None:
    """Copies the files of a finished run, but not its checkpoints, which lie in folders and are no longer needed.

    Raises:
        ComparisonError: If one of the files is a link.
    """
    staged.mkdir(parents=True)
    for file in sorted(run.iterdir()):
        if file.is_symlink():
            raise ComparisonError(f"{file} is a link, which is not followed: replace it by the file it points to.")
        if stat.S_ISREG(file.stat().st_mode) and not file.name.startswith("."):
            shutil.copyfile(file, staged / file.name)


def _move(staged: Path, run: Run, output: Path) -> None:
    """Moves a copied run to its place, unless a launch is making it there."""
    target = output / run.folder
    with try_lock(output, lock_name(run.folder)) as acquired:
        if not acquired:
            raise ComparisonError(
                f"A launch is making runs of the comparison in {output}: wait until it has ended, or stop it, then "
                "merge."
            )
        if target.exists():  # unfinished, or without its model
            replaced = staged / "replaced" / run.folder
            replaced.parent.mkdir(parents=True, exist_ok=True)
            target.rename(replaced)
        target.parent.mkdir(parents=True, exist_ok=True)
        (staged / run.folder).rename(target)


def _write_drift(parts: Sequence[_Part], chosen: Mapping[Run, _Part], output: Path) -> None:
    """Writes the drift of each run, merged from all parts."""
    for run in chosen:
        records = [part.drift[run] for part in parts if run in part.drift]
        if not records:
            continue
        accuracy = {name: values for record in records for name, values in record.accuracy.items()}
        file, record = output / run.folder / DRIFT_FILE, DriftRecord(records[0].examples, accuracy)
        with locked(output, "drift"):
            if not file.exists() or read_drift_record(file) != record:
                write_json(file, record.as_json())


def _notes(parts: Sequence[_Part], plan: Plan, output: Path) -> list[str]:
    """Sentences that the reader of the merged comparison should know."""
    notes = []
    if others := [part for part in parts[1:] if part.plan.baseline_arm != plan.baseline_arm]:
        own = ", ".join(f"{part.plan.baseline_arm} in {part.name}" for part in others)
        notes.append(f"The baseline is {plan.baseline_arm}, that of {parts[0].name} ({own}).")
    versions = parts[0].plan.versions
    for part in parts[1:]:
        changed = [
            f"{name} {part.plan.versions[name]} instead of {version}"
            for name, version in versions.items()
            if name != "hardware" and part.plan.versions.get(name, version) != version
        ]
        if changed:
            notes.append(f"{part.name} was started with {', '.join(changed)}.")
    results = read_results(output, plan)
    planned = {*plan.runs(), *plan.trials(), *separate_tuned_runs(plan, results.choices)}
    if missing := len(planned - {*results.runs, *results.trials}):
        notes.append(
            f"{missing} of {len(planned)} runs are missing; this command makes them: {continuing_command(plan, output)}"
        )
    return notes
