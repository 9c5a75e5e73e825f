"""Runs a comparison: makes the missing runs of the requested plan; each result is written completely or not at all."""

import copy
import dataclasses
import shutil
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hf_critmom.engines.interface import Engine, Executor, Work
from hf_critmom.engines.selection import select_engine
from hf_critmom.experiments.comparison.arguments import DEFAULT_MAX_SEEDS, ComparisonArguments, ComparisonRequest
from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX, Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.findings.analyses import undecided_claims
from hf_critmom.experiments.comparison.findings.sentences import join_seeds
from hf_critmom.experiments.comparison.growth import has_started, load_or_create_plan, merged_tuning
from hf_critmom.experiments.comparison.pilot import (
    begun_pilot,
    is_same_pilot,
    pilot_announcement,
    pilot_folder,
    pilot_plan,
    remove_other_pilot,
    with_pilot_targets,
)
from hf_critmom.experiments.comparison.plan import (
    PLAN_FILE_FORMAT,
    Plan,
    Run,
    Trial,
    left_out_by_name,
    with_tuned,
)
from hf_critmom.experiments.comparison.planning import (
    changed_versions,
    default_targets,
    next_seed,
    plan_request,
    select_arms,
    should_measure_threads,
    steps_per_epoch,
    with_measured_cadence,
    with_stored_cadence,
)
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.results import (
    read_results,
    read_run,
    results_table,
    separate_tuned_runs,
    write_results,
    writing,
)
from hf_critmom.experiments.comparison.running.checks import check_request, step_seconds_of, try_arms
from hf_critmom.experiments.comparison.running.execution import ArmRun, RunStore
from hf_critmom.experiments.comparison.running.progress import Notifier, Progress
from hf_critmom.experiments.comparison.running.task_executor import TaskExecutor
from hf_critmom.experiments.comparison.tuning import BestTrial
from hf_critmom.reporting.text import join_names
from hf_critmom.storage.cores import usable_cores
from hf_critmom.storage.locks import locked, single_writer, try_lock
from hf_critmom.storage.run_folder import RunFolder
from hf_critmom.storage.threads import choose_threads, resolve_threads
from hf_critmom.storage.workers import resolve_workers
from hf_critmom.tasks import Task, build_model, check_model, load_task
from hf_critmom.tasks.stored_arguments import check_output_folder


def run_comparison(request: ComparisonRequest) -> Path:
    """Makes the missing runs of a comparison, in as many processes as the request has workers.

    Several launches, on one machine or on several that share the folder, share out the runs. If the folder holds a
    comparison with the same conditions, further arms, seeds and targets are added to it.

    Args:
        request: The request.

    Returns:
        The folder with ``comparison.json``, ``runs/ARM/seed-N/`` and ``results.parquet``.

    Raises:
        ComparisonError: If the request cannot be met, the folder holds a comparison with other conditions, a run
            failed, or the folder cannot be written to any more; finished runs are kept.
        TaskError: If the data or the model cannot be used.
    """
    with single_writer(request.engine.on_ray):  # machines of a Ray cluster do not write to the folder
        return _run_comparison(request)


def _run_comparison(request: ComparisonRequest) -> Path:
    folder = Path(str(request.training.output_dir))
    PartialState()
    torch.set_num_threads(1)  # workers are forked: no pool of threads may exist before
    check_output_folder(folder, request.data)
    stored = _stored_plan(folder)
    request = with_stored_cadence(request, stored)
    default_threads = 1 if request.training.device.type == "cpu" else min(usable_cores(), 8)
    threads = resolve_threads(
        None if stored is None else stored.recorded_threads,
        request.engine.threads_per_worker,
        lambda: default_threads,
        folder=folder,
        kind="comparison",
        error=ComparisonError,
    )
    on_cpu = "use_cpu" in request.given and request.training.use_cpu

    def engine_of(threads: int) -> Engine:
        workers = _settle_workers(request, threads)
        return select_engine(request.engine, workers=workers, threads=threads, on_cpu=on_cpu)

    engine = engine_of(threads)
    arms = select_arms(request.comparison, folder, stored)
    task = load_task(request.data, request.model)
    probe = build_model(task, request.model, seed=0)
    check_model(probe, task)
    check_request(request, task, probe)
    num_parameters = probe.num_parameters()
    del probe

    def planned(request: ComparisonRequest) -> Plan:
        plan = plan_request(request, arms, task, num_parameters, folder, stored)
        return dataclasses.replace(plan, threads=threads)

    pilots = stored is None and not (request.comparison.targets or default_targets(request, task))
    earlier = begun_pilot(pilot_folder(folder)) if pilots else None
    if earlier is not None:
        same = with_stored_cadence(request, earlier)
        its_threads = request.engine.threads_per_worker or earlier.threads or threads
        if is_same_pilot(earlier, pilot_plan(dataclasses.replace(planned(same), threads=its_threads))):
            request, threads = same, its_threads
            engine = engine_of(threads)
        else:
            earlier = None
    if stored is not None:  # a refusal comes before any work
        load_or_create_plan(planned(request), folder, write=False)
    if stored is None or _unfinished(folder, stored, planned(request)):
        settings = {name: planned(request).settings(arm) for name, arm in arms.items()}
        tried = [with_settings(arm, *settings[name]) for name, arm in arms.items()]
        step_seconds, evaluation_seconds = broadcast_object_list([try_arms(request, tried, task)])[0]
        if stored is None and earlier is None and should_measure_threads(request):
            threads = choose_threads(lambda: step_seconds_of(request, tried[0], task), step_seconds)
            engine = engine_of(threads)
        if request.training.cadence_is_unset:
            an_epoch = steps_per_epoch(request.training, task)
            request = with_measured_cadence(request, step_seconds, evaluation_seconds, an_epoch)
    requested = planned(request)
    if pilots:
        requested = _with_pilot_targets(requested, request, task, folder, engine_of(threads))
    make_runs(requested, TaskExecutor(request, task), request.comparison, folder, arms, engine, stored is not None)
    if PartialState().is_main_process:  # one may be left of a command that was interrupted later
        shutil.rmtree(pilot_folder(folder), ignore_errors=True)
    return folder


def _with_pilot_targets(requested: Plan, request: ComparisonRequest, task: Task, folder: Path, engine: Engine) -> Plan:
    """The requested plan with targets from a pilot run, which is made in a folder of its own, as a comparison is."""
    plan, place, process = pilot_plan(requested), pilot_folder(folder), PartialState()
    (run,) = plan.runs()
    Notifier(shown=process.is_main_process).note(pilot_announcement(run.arm, run.seed))
    training = copy.copy(request.training)
    training.report_to = []  # it is not a run of the comparison
    comparison = dataclasses.replace(request.comparison, measure_curvature=False, until_decided=False)
    executor = TaskExecutor(dataclasses.replace(request, training=training, comparison=comparison), task)
    with writing(folder):
        if process.is_main_process:
            PLAN_FILE_FORMAT.open_folder(folder)
        process.wait_for_everyone()
        remove_other_pilot(place, plan)
        process.wait_for_everyone()
        begun = PLAN_FILE_FORMAT.exists(place)
        make_runs(plan, executor, comparison, place, dict(plan.arms), engine, begun)
        return with_pilot_targets(requested, plan, read_run(place, plan, run))


def make_runs(
    requested: Plan,
    executor: Executor,
    comparison: ComparisonArguments,
    folder: Path,
    arms: dict[str, Arm],
    engine: Engine,
    continued: bool,
) -> None:
    """Stores a requested plan, makes its missing runs, and collects the results.

    Args:
        requested: The requested plan.
        executor: Makes a single run.
        comparison: Flags that define what is compared.
        folder: The comparison's folder.
        arms: The arms of the request.
        engine: Distributes the runs over processes or machines.
        continued: Whether the folder holds the comparison already.

    Raises:
        ComparisonError: See `run_comparison`.
    """
    process = PartialState()
    with closing(engine), writing(folder):
        if not continued or _unfinished(folder, Plan.read(folder), requested):
            engine.start()
        if process.is_main_process and not PLAN_FILE_FORMAT.exists(folder):
            PLAN_FILE_FORMAT.open_folder(folder)
        process.wait_for_everyone()
        with try_lock(folder, "launch") as alone:
            plan = load_or_create_plan(requested, folder, write=process.is_main_process, alone=alone)
            process.wait_for_everyone()
            read_results(folder, plan)  # a damaged result is an error now, not after hours
            runner = _Runner(executor, comparison, plan, folder, arms, engine)
            if continued and (note := changed_versions(plan)):
                runner.notifier.note(note)
            runner.run_extent(plan.seeds if comparison.until_decided else requested.seeds)
            if comparison.until_decided:
                runner.add_seeds_until_decided(requested)
        if process.is_main_process:
            runner.collect()
    process.wait_for_everyone()


class _Runner:
    """Makes the runs of one comparison: those that its plan has, and those that its results call for."""

    def __init__(
        self,
        executor: Executor,
        comparison: ComparisonArguments,
        plan: Plan,
        folder: Path,
        arms: dict[str, Arm],
        engine: Engine,
    ) -> None:
        self.executor, self.comparison, self.plan, self.folder = executor, comparison, plan, folder
        self.arms = {name: plan.arms[name] for name in arms}
        self.engine = engine
        self.choices: list[BestTrial] = []
        self.process = PartialState()
        self.notifier = Notifier(shown=self.process.is_main_process)

    def run_extent(self, seeds: Sequence[int]) -> None:
        """Makes the trials of the request's arms, then their runs with these seeds, tuned variants included."""
        self.run_all([run for run in self.plan.trials() if run.arm in self.arms])
        runs = [run for run in self.plan.runs() if run.arm in self.arms and run.seed in seeds]
        self.run_all([*runs, *(run for run in self.tuned_runs() if run.seed in seeds)])

    def add_seeds_until_decided(self, requested: Plan) -> None:
        """Adds seeds until every claim about the request's arms is decided, or up to the maximum.

        Seeds go to the arms and tuned variants of the open claims: one, or as many as workers have room for. What is
        decided does not depend on that, since every seed is a look, whether somebody looked or not.

        Args:
            requested: The requested plan.
        """
        arms = list(requested.arms)
        planned = self.plan.planned_looks
        max_seeds = self.comparison.max_seeds or max(planned.last, DEFAULT_MAX_SEEDS)
        if planned.first == planned.last:
            self.notifier.note(
                f"The comparison was planned with {planned.last} seeds, and its verdicts may have been seen: further "
                "seeds can decide a claim only with the small error probability that is reserved for them."
            )
        while True:
            results = read_results(self.folder, self.plan)
            claims = undecided_claims(self.plan, results, results_table(results.runs.values()), arms)
            undecided, tested = broadcast_object_list([claims])[0]  # all processes stop at the same seed
            run = self._with_own_runs(with_tuned(arms))
            numbers = sorted({len(self.plan.first_seeds_of([name])) for name in run})
            decided = f"{tested - len(undecided)} of {tested} claim{'s' if tested != 1 else ''} decided"
            decided = f"{' to '.join(dict.fromkeys(map(str, (numbers[0], numbers[-1]))))} seeds: {decided}"
            growing = self._with_own_runs(name for compared in undecided for name in compared)
            number = len(self.plan.first_seeds_of(growing))
            if not undecided or number >= max_seeds:
                end = "every claim is decided." if not undecided else f"--max_seeds {max_seeds} is reached."
                if not tested:
                    end = f"no claim compares only {join_names(arms)}: name the arms that decide it as well."
                self.notifier.note(f"{decided}; {end}")
                return
            seeds = []
            for _ in range(self._seeds_at_a_time(growing, max_seeds - number)):
                seeds.append(next_seed(self.plan, growing))
                self._add_seed(requested, seeds[-1], growing)
            everyone = self._with_own_runs(with_tuned(self.plan.arms))
            whose = "every arm" if growing == everyone else join_names(growing)
            added = f"seed {seeds[0]} is" if len(seeds) == 1 else f"seeds {join_seeds(seeds)} are"
            self.notifier.note(f"{decided}; {added} added to {whose}.")
            self.run_extent(seeds)

    def _with_own_runs(self, names: Iterable[str]) -> list[str]:
        """The arms and tuned variants whose runs are those of some: a variant may have runs of its arm.

        That is so at the budgets at which the arm's own settings are the best.
        """
        separate = self._separate_variants()
        as_arm = {choice.arm for choice in self.choices if choice.trial == Trial()}
        found = set[str]()
        for name in names:
            arm = name.removesuffix(TUNED_SUFFIX)
            found |= {name} if name in separate else {arm}
            found |= {arm} if arm in as_arm else set()
        return [name for name in with_tuned(self.plan.arms) if name in found]

    def _separate_variants(self) -> set[str]:
        """Names of the tuned variants that have runs of their own."""
        return {run.arm for run in separate_tuned_runs(self.plan, self.choices)}

    def _seeds_at_a_time(self, names: Collection[str], largest: int) -> int:
        """How many seeds of some arms and tuned variants make runs for every worker."""
        tuned = {(run.arm, run.epochs) for run in separate_tuned_runs(self.plan, self.choices) if run.arm in names}
        runs_of_a_seed = sum(name in self.plan.arms for name in names) * len(self.plan.budgets) + len(tuned)
        return max(1, self.engine.num_workers(largest * runs_of_a_seed) // runs_of_a_seed)

    def _add_seed(self, requested: Plan, seed: int, names: Collection[str]) -> None:
        """Adds a seed to some of the request's arms and tuned variants in the plan."""
        separate = self._separate_variants()
        left_out = {}
        for name in with_tuned(requested.arms):
            own = name if name in separate else name.removesuffix(TUNED_SUFFIX)
            left_out[name] = self._left_out(name, seed, is_added=own in names)
        seeds = tuple(dict.fromkeys((*self.plan.seeds, seed)))
        extended = dataclasses.replace(requested, seeds=seeds, left_out=left_out_by_name(left_out))
        self.plan = load_or_create_plan(extended, self.folder, write=self.process.is_main_process)
        self.process.wait_for_everyone()

    def _left_out(self, name: str, seed: int, *, is_added: bool) -> tuple[int, ...]:
        """The seeds that an arm or tuned variant leaves out once this one is added to it, or to others."""
        before = self.plan.seeds_left_out(name)
        if is_added:
            return tuple(one for one in before if one != seed)
        return before if seed in self.plan.seeds else (*before, seed)

    def run_all(self, runs: list[Run]) -> None:
        """Makes the runs that are not finished, and waits for those that other launches are making."""
        if not runs:
            return
        missing = [run for run in runs if not RunFolder(self.folder / run.folder).finished()]
        jobs = [ArmRun(run, self._arm(run)) for run in missing]
        store = RunStore(self.folder)
        with Progress(len(runs), self.notifier, workers=self.engine.num_workers(len(jobs))) as progress:
            events = _Events(self, progress, runs, earlier=[run for run in runs if run not in missing])
            self.engine.run(Work(jobs, self.plan, self.executor, store, self.plan.versions), events)
            events.finish()

    def tuned_runs(self) -> list[Run]:
        """Runs of the tuned variants of the arms whose trials are finished; also registers the variants as arms."""
        self.choices = read_results(self.folder, self.plan).choices
        runs = []
        for run, choice in separate_tuned_runs(self.plan, self.choices).items():
            if choice.arm in self.arms:
                self.arms[run.arm] = dataclasses.replace(self.arms[choice.arm], name=run.arm, base=choice.arm)
                runs.append(run)
        return runs

    def collect(self) -> None:
        """Collects the finished runs of every launch in the table of results."""
        with locked(self.folder, "results"):  # so that the last one to write has read every result
            write_results(self.folder, Plan.read(self.folder))

    def result(self, run: Run) -> RunResult | None:
        """The result of a run; None if it is not finished."""
        trial = None if (base := self.arms[run.arm].base) is None else self._choice(base, run)
        return read_run(self.folder, self.plan, run, trial)

    def _choice(self, base: str, run: Run) -> Trial:
        """The point of the grid that the trials of an arm chose for a run of its tuned variant."""
        return next(choice.trial for choice in self.choices if (choice.arm, choice.epochs) == (base, run.epochs))

    def _arm(self, run: Run) -> Arm:
        """The run's arm with the learning rate and weight decay of the run."""
        arm = self.arms[run.arm]
        trial = run.trial if arm.base is None else self._choice(arm.base, run)
        return with_settings(arm, *self.plan.settings(arm, trial))


class _Events:
    """Handles the events of workers; each run is shown once, even if several workers report it.

    Args:
        runner: The runner.
        progress: The progress display.
        runs: All runs.
        earlier: Runs that were finished before.
    """

    def __init__(self, runner: _Runner, progress: Progress, runs: Sequence[Run], *, earlier: Sequence[Run]) -> None:
        self._runs = {run.folder: run for run in runs}
        self.runner, self.progress = runner, progress
        self.failures: list[str] = []
        self._shown: set[Run] = set()
        self._seen: dict[Run, None] = {}  # finished runs in order, which may have been made by another launch
        for run in earlier:
            self._show(run, earlier=True)

    def handle(self, worker: int, kind: str, *content: Any) -> None:
        """Handles an event of a worker."""
        if kind == "finished":
            folder, earlier = content
            run = self._runs[folder]
            self._seen[run] = None
            if not earlier:  # a worker that did not make the run reports it as an earlier one
                self._show(run, earlier=False)
        elif kind == "failed":
            self.failures.append(content[0])
            self.progress.failed(content[0])
        else:
            self.progress.handle(worker, kind, *content)

    def workers_started(self) -> None:
        """Starts the display."""
        self.progress.start()

    def worker_died(self, worker: int, sentence: str) -> None:
        """Shows that a worker died."""
        self.progress.worker_died(worker, sentence)

    def finish(self) -> None:
        """Shows the runs that other launches have made.

        Raises:
            ComparisonError: If a run failed.
        """
        for run in self._seen:
            self._show(run, earlier=True)
        if self.failures:
            raise ComparisonError(" ".join(self.failures))

    def _show(self, run: Run, *, earlier: bool) -> None:
        if run in self._shown or (result := self.runner.result(run)) is None:
            return
        self._shown.add(run)
        self.progress.finished(run, result, earlier=earlier)
        if not earlier and self.runner.process.is_main_process:
            self.runner.collect()


def with_settings(arm: Arm, learning_rate: float, weight_decay: float) -> Arm:
    """An arm with another learning rate and weight decay."""
    return dataclasses.replace(arm, learning_rate=learning_rate, weight_decay=weight_decay)


def _stored_plan(folder: Path) -> Plan | None:
    """The plan that a command continues: one whose runs have started, or that another launch is working on."""
    if not PLAN_FILE_FORMAT.exists(folder):
        return None
    plan = Plan.read(folder)
    if has_started(folder):
        return plan
    with try_lock(folder, "launch") as alone:
        return None if alone else plan


def _settle_workers(request: ComparisonRequest, threads: int) -> int:
    """Number of workers: that of the flag, else one on an accelerator or as many as there are cores for."""
    alone = request.training.device.type != "cpu" or request.training.world_size > 1
    return resolve_workers(1 if alone and request.engine.workers is None else request.engine.workers, threads)


def _unfinished(folder: Path, stored: Plan, requested: Plan) -> bool:
    """Whether runs of a request that continues a comparison are missing."""
    plan = dataclasses.replace(stored, arms={**requested.arms, **stored.arms}, tuning=merged_tuning(stored, requested))
    trials = [run for run in plan.trials() if run.arm in requested.arms]
    if any(not (folder / run.folder / "result.json").exists() for run in (*requested.runs(), *trials)):
        return True
    results = read_results(folder, stored)
    tuned = separate_tuned_runs(stored, results.choices)
    return any(
        run not in results.runs
        for run, choice in tuned.items()
        if choice.arm in requested.arms and run.seed in requested.seeds
    )
