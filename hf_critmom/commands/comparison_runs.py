"""Logs of the runs of comparisons: the log is in ``result.json``, the settings are in the plan."""

from dataclasses import replace
from pathlib import Path

from hf_critmom.experiments.comparison import find_run
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.records import ExpectedRun, RunResult, read_result
from hf_critmom.experiments.comparison.results import RESULT_FILE
from hf_critmom.experiments.doctor import Settings, TrainingLog, named_settings


def recorded_training(folder: Path) -> TrainingLog | None:
    """Reads the log of a finished run of a comparison; None for any other folder.

    Raises:
        InputError: If the plan or the result is damaged.
    """
    found = find_run(folder)
    if found is None or not (folder / RESULT_FILE).exists():
        return None
    plan, place, seed = found
    arm = place.split(", ")[0]
    result = read_result(folder / RESULT_FILE, ExpectedRun(arm, seed, plan.task.metric))
    evaluations = [
        {
            "step": float(one.step),
            "epoch": one.epoch,
            **{f"eval_{name}": value for name, value in one.values.items() if name in ("loss", plan.task.metric)},
        }
        for one in result.evaluations
    ]
    return TrainingLog(
        folder=folder,
        source=RESULT_FILE,
        records=[*result.training_log, *evaluations, *result.curvature],
        settings=_settings(plan, arm, result),
        step=result.steps,
        max_steps=result.steps if result.finished else None,
        epoch=result.evaluations[-1].epoch if result.evaluations else None,
    )


def _settings(plan: Plan, arm: str, result: RunResult) -> Settings:
    """The settings of a run, from the plan of its comparison."""
    method = plan.arms.get(arm.removesuffix("_tuned"))
    settings = Settings() if method is None else named_settings(method.optimizer, method.options, "comparison.json")
    batch_size = plan.training.get("total_train_batch_size")
    return replace(
        settings,
        weight_decay=result.weight_decay,
        max_grad_norm=float(plan.training_argument("max_grad_norm")),
        batch_size=batch_size if isinstance(batch_size, int) else None,
        hides_nan=False,
        metric=plan.task.metric,
        greater_is_better=plan.task.greater_is_better,
        targets=(*plan.targets, *plan.exploratory_targets),
    )
