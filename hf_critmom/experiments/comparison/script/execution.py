"""Makes the runs of a comparison in a script: each runs the script in separate processes, in the run's folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hf_critmom.engines.interface import ComputeEnvironment
from hf_critmom.errors import InputError
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.failures import FAILURE_FILE, write_failure
from hf_critmom.experiments.comparison.plan import Plan, Run
from hf_critmom.experiments.comparison.records import DIVERGED, FINISHED, RunResult
from hf_critmom.experiments.comparison.running.execution import ArmRun
from hf_critmom.experiments.comparison.running.progress import metric_note
from hf_critmom.experiments.comparison.script.arms import arm_flags
from hf_critmom.experiments.comparison.script.command_line import Script
from hf_critmom.experiments.comparison.script.devices import Devices
from hf_critmom.experiments.comparison.script.dry_run import check_metric
from hf_critmom.experiments.comparison.script.instructions import LOG_FILE, Recording
from hf_critmom.experiments.comparison.script.processes import RunFailed, ScriptRun, clear
from hf_critmom.experiments.comparison.script.recording import TRAINER_STATE_FILE
from hf_critmom.storage.checkpoints import last_complete_checkpoint
from hf_critmom.storage.environment import device_name, versions
from hf_critmom.storage.files import replace_non_finite
from hf_critmom.storage.plan import differences
from hf_critmom.storage.typed import from_json
from hf_critmom.storage.workers import Send
from hf_critmom.training.trackers import default_project

_DAMPING = ("momentum", "damping_ratio", "damping_regime", "damping_curvature", "effective_lr", "nu")


class ScriptExecutor:
    """Makes runs of a script: an `Executor`.

    Args:
        script: The script.
        metric: Metric of the targets, without prefix.
        flags: Flags that every run sets.
        threads: Number of threads of each process.
        max_steps: Number of optimizer steps of a run.
        devices: The GPUs of this machine.
    """

    def __init__(
        self, script: Script, metric: str, flags: Mapping[str, Any], threads: int, max_steps: int, devices: Devices
    ) -> None:
        self.script, self.metric, self.flags = script, metric, dict(flags)
        self.threads, self.max_steps, self.devices = threads, max_steps, devices

    @property
    def resumable(self) -> bool:
        """Whether runs can resume from checkpoints, which depends on the script."""
        return True

    def isolate(self) -> None:
        """Does nothing: runs have their own processes, which share no files."""

    def prepare(self, plan: Plan, threads: int) -> ComputeEnvironment:
        """Checks that the script exists on this machine, and is the plan's."""
        torch.set_num_threads(threads)
        self.script.check()
        if (found := self.script.record()) != plan.task.content["script"]:
            different = "; ".join(differences("script", plan.task.content["script"], found))
            raise ComparisonError(
                f"{self.script.title} differs from the script of the plan ({different}): give every machine the same "
                "one."
            )
        return ComputeEnvironment(device_name(), versions())

    def execute(self, job: ArmRun, plan: Plan, folder: Path, send: Send) -> RunResult:
        """Makes a run, or resumes it from its last complete checkpoint, see `Executor`."""
        run, arm = job.run, job.arm
        folder = folder.resolve()
        flags = {**arm_flags(arm), **self.flags, **run_flags(self.script, run, folder)}
        environment = self.devices.environment()
        script_run = ScriptRun(self.script, folder, arm, flags, threads=self.threads, environment=environment)
        script_run.wait_for_earlier()
        found = last_complete_checkpoint(folder, world_size=None, skip=lambda checkpoint, sentence: None)
        started, failed = ((folder / name).exists() for name in (LOG_FILE, FAILURE_FILE))
        clear(folder, but=None if found is None else Path(found))
        if found is not None:
            script_run.flags = {**flags, "resume_from_checkpoint": found}
        elif started and not failed:
            send("message", f"{run.title} was interrupted before it saved a checkpoint: it starts again.")
        send("begin", run.title, 0, self.max_steps)

        def on_event(kind: str, *content: Any) -> None:
            if kind == "begin":
                send("begin", run.title, *content)
                if found is not None and content[0] == 0:
                    send("message", f"{self.script.title} does not resume from checkpoints: {run.title} starts again.")
            elif kind == "evaluated":
                epoch, values = content
                if (value := values.get(self.metric)) is not None:
                    send("evaluated", run.title, epoch, metric_note(self.metric, value))
            else:
                send(kind, *content)

        try:
            recording = script_run.make(on_event)
            script_run.check(recording, run.seed)
            check_batch(self.script.title, recording, plan)
            if not recording.diverged:
                check_metric(self.script.title, recording, self.metric)
        except (RunFailed, InputError) as error:  # which concerns this run only: the others continue
            lines = list(script_run.lines)
            write_failure(folder, str(error), lines)
            raise RunFailed(str(error), lines) from None
        return run_result(run, recording, self.metric, read_log(folder))


def check_batch(title: str, recording: Recording, plan: Plan) -> None:
    """Refuses a run whose steps have another number of examples than the plan's, as with another number of GPUs.

    Raises:
        ComparisonError: If they have.
    """
    planned, found = (one.training.get("total_train_batch_size") for one in (plan, recording))
    if planned is not None and found != planned:
        raise ComparisonError(
            f"{title} trained with {found} examples per step instead of the plan's {planned}: give its runs as many "
            "processes and GPUs as when the comparison was started."
        )


def run_flags(script: Script, run: Run, folder: Path) -> dict[str, Any]:
    """Flags of a single run: its seed, its folder, and its name in trackers unless the user has set one."""
    tracked = {"run_name": run.name, "project": default_project(folder.absolute().parents[len(run.folder.parts) - 1])}
    own = {flag: value for flag, value in tracked.items() if script.value(flag) is None}
    return {"seed": run.seed, "data_seed": run.seed, "output_dir": str(folder), **own}


def read_log(folder: Path) -> list[dict[str, float | None]]:
    """The training records in a run's ``trainer_state.json``, each with the damping that was logged at the same step.

    Args:
        folder: The run's folder.
    """
    content = json.loads((folder / TRAINER_STATE_FILE).read_text(encoding="utf-8"))
    records: dict[int, dict[str, float | None]] = {}
    for record in content.get("log_history", []):
        step = record.get("step")
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        if "loss" in record:
            records[step] = {**records.get(step, {}), **numbers}
        elif "momentum" in record:
            damping = {name: value for name, value in numbers.items() if name.startswith(_DAMPING)}
            records[step] = {**records.get(step, {"step": step}), **damping}
    return [dict(replace_non_finite(record)) for _, record in sorted(records.items()) if "loss" in record]


def run_result(
    run: Run,
    recording: Recording,
    metric: str,
    log: list[dict[str, float | None]],
) -> RunResult:
    """The result of a run, from its recording and its log.

    Args:
        run: The run.
        recording: The recording.
        metric: Metric of the targets, without prefix.
        log: The training records, see `read_log`.
    """
    for record in log:
        norm = recording.gradient_norms.get(str(record.get("step")))
        if norm is not None:
            record.setdefault("grad_norm", norm)
    evaluations: list[dict[str, Any]] = []
    measured = [one for one in recording.evaluations if metric in one]  # others are of other datasets
    for one in measured:
        used = [record for record in log if (record["step"] or 0) <= one["step"]][-1:]
        state = ("momentum", "damping_ratio")
        evaluations.append({**one, **{name: record[name] for record in used for name in state if name in record}})
    last = dict(measured[-1]) if measured else {}
    ended: dict[str, Any] = {name: value for name, value in last.items() if name in recording.metrics()}
    ended |= recording.test if metric in recording.test else recording.final
    names = ["loss", metric] if "loss" in recording.metrics() else [metric]
    result: dict[str, Any] = {
        "arm": run.arm,
        "seed": run.seed,
        "status": DIVERGED if recording.diverged else FINISHED,
        "steps": recording.steps,
        "train_seconds": recording.train_seconds,
        "evaluations": evaluations,
        "test": {} if run.trial is not None else {name: ended.get(name) for name in names},
        "versions": dict(recording.versions),
        "budget": recording.num_train_epochs if recording.args_max_steps <= 0 else None,
        "learning_rate": recording.learning_rate,
        "weight_decay": recording.weight_decay,
        "trainer_seconds": recording.wall_seconds,
        "wall_seconds": recording.wall_seconds,
        "training_log": log,
        "threads": recording.threads,
        "ended_on": "test" if metric in recording.test else "validation",
        "pairing": dict(recording.pairing),
        **recording.summary,
    }
    return from_json(RunResult, replace_non_finite(result))
