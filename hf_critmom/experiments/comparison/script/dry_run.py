"""The dry run of a script: a few steps and an evaluation, so that what would fail after hours fails now."""

import tempfile
from pathlib import Path

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.script.arguments import ScriptRequest
from hf_critmom.experiments.comparison.script.arms import arm_flags
from hf_critmom.experiments.comparison.script.devices import Devices
from hf_critmom.experiments.comparison.script.instructions import Recording
from hf_critmom.experiments.comparison.script.processes import RunFailed, ScriptRun

DRY_RUN_FLAGS = {"logging_strategy": "steps", "logging_steps": 1, "save_strategy": "no", "report_to": "none"}


def dry_run(request: ScriptRequest, arm: Arm, threads: int, devices: Devices) -> Recording:
    """Runs the script for a few steps with an arm's optimizer and the script's own learning rate.

    Args:
        request: The request.
        arm: The arm.
        threads: Number of threads of each process.
        devices: The GPUs of this machine.

    Returns:
        The recording of the run, whose folder is removed.

    Raises:
        ComparisonError: If the script cannot be compared; the message says why.
    """
    script, seed = request.script, request.flags.seed
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "dry-run"
        optimizer = {name: value for name, value in arm_flags(arm).items() if name in ("optim", "optim_args")}
        flags = {
            **optimizer,
            "seed": seed,
            "data_seed": seed,
            "output_dir": str(folder),
            "eval_strategy": "steps",
            "eval_steps": 1000000,
            "load_best_model_at_end": None,
            **DRY_RUN_FLAGS,
        }
        run = ScriptRun(script, folder, arm, flags, threads=threads, environment=devices.environment(), dry_run=True)
        try:
            recording = run.make()
            run.check(recording, seed)
        except RunFailed as error:
            raise ComparisonError(f"A dry run of {script.title} failed: {error}") from None
    check_metric(script.title, recording, request.metric)
    return recording


def check_metric(title: str, recording: Recording, metric: str) -> None:
    """Refuses a script whose evaluations do not log the metric.

    Raises:
        ComparisonError: If there is no evaluation, or none with the metric.
    """
    if not recording.evaluations:
        raise ComparisonError(
            f"{title} never evaluates: give its Trainer an eval_dataset, on which times to targets are measured."
        )
    if metric not in recording.metrics():
        logged = ", ".join(f"eval_{name}" for name in recording.metrics())
        raise ComparisonError(f"{title} logs no eval_{metric}, only {logged}: choose one of these with --metric.")
