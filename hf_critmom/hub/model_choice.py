"""Chooses the run of a comparison whose model is pushed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.results import read_results
from hf_critmom.hub.errors import HubError
from hf_critmom.hub.files import model_files


@dataclass(frozen=True)
class ChosenRun:
    """The run whose model is pushed.

    Attributes:
        folder: Folder of the run.
        result: Result of the run.
        reason: Why the run was chosen, as a clause.
    """

    folder: Path
    result: RunResult
    reason: str = ""

    def __str__(self) -> str:
        parts = [part.removeprefix("epochs-") for part in self.folder.parts if part.startswith("epochs-")]
        budget = f"{parts[-1]} epochs, " if parts else ""
        return f"{self.result.arm}, {budget}seed {self.result.seed}"


def finished_runs(folder: Path, plan: Plan) -> dict[Path, RunResult]:
    """Results of a comparison's finished runs by their folders, in the plan's order."""
    return {folder / run.folder: result for run, result in read_results(folder, plan).runs.items()}


def choose_run(
    plan: Plan, runs: Mapping[Path, RunResult], *, arm: str | None = None, seed: int | None = None
) -> ChosenRun | None:
    """Chooses the run whose model is pushed: the best on validation among the runs of the given arm and seed.

    The criterion is the metric of the last evaluation on the validation split; the test split plays no part. The first
    of equal runs is chosen, and never one that diverged.

    Args:
        plan: The comparison's plan.
        runs: Results by run folder.
        arm: Choose only among this arm's runs.
        seed: Choose only among this seed's runs.

    Returns:
        The run; None if every run diverged and neither arm nor seed was given.

    Raises:
        HubError: If the comparison has no such arm or seed, or all its runs diverged or are unfinished.
    """
    given = {name: value for name, value in (("arm", arm), ("seed", seed)) if value is not None}
    for name, planned in (("arm", plan.arms), ("seed", plan.seeds)):
        known = dict.fromkeys([*planned, *(getattr(result, name) for result in runs.values())])
        if name in given and given[name] not in known:
            raise HubError(
                f"The comparison has no {name} {given[name]}: choose --{name} among {', '.join(map(str, known))}."
            )
    subset = f" of {' and '.join(f'{name} {value}' for name, value in given.items())}" if given else ""
    metric, better = plan.task.metric, 1.0 if plan.task.greater_is_better else -1.0
    values = {
        run: value
        for run, result in runs.items()
        if result.finished
        and (value := result.evaluations[-1].values[metric]) is not None
        and all(getattr(result, name) == wanted for name, wanted in given.items())
    }
    if not values:
        if given:
            raise HubError(f"No run{subset} finished without diverging: choose another with --arm and --seed.")
        return None
    best = max(values, key=lambda run: better * values[run])
    among = "the only finished run" if len(values) == 1 else f"the best of {len(values)} finished runs"
    return ChosenRun(best, runs[best], f"{among}{subset} by final validation {metric}, {values[best]:.4f}")


def chosen_model_files(
    chosen: ChosenRun | None, runs: Mapping[Path, RunResult], folder: Path, *, explicit: bool
) -> tuple[list[Path], str]:
    """Files of the chosen run's model.

    Args:
        chosen: The run; None if every run diverged.
        runs: Results of all finished runs by their folders.
        folder: The comparison's folder.
        explicit: Whether the user named the run by arm or seed, so that it must have a model.

    Returns:
        The files, and why this model was chosen, or why there is none.

    Raises:
        HubError: If a run that the user named has no model, or one of the files is a link.
    """
    if chosen is None:
        return [], "every run diverged"
    if files := model_files(chosen.folder, folder):
        return files, f"{chosen}, {chosen.reason}"
    others = [str(ChosenRun(*run)) for run in runs.items() if model_files(run[0], folder)]
    remedy = f"--arm and --seed choose another, such as {others[0]}" if others else ""
    if explicit:
        raise HubError(f"{chosen.folder} holds no model: {remedy or 'leave --arm and --seed out to push none'}.")
    return [], f"the weights of {chosen}, {chosen.reason}, were not kept" + (f"; {remedy}" if remedy else "")
