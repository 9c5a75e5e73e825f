"""The findings of a comparison on disk: plan, results and the analysis of each budget, for every form of its report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX, Arm
from hf_critmom.experiments.comparison.failures import failure_messages
from hf_critmom.experiments.comparison.findings.analyses import analyse_budget
from hf_critmom.experiments.comparison.findings.commands import continuing_command, recorded_commands
from hf_critmom.experiments.comparison.findings.fairness import StepComparison, compare_steps
from hf_critmom.experiments.comparison.findings.momentum import CurvatureSummary, summarise_curvature
from hf_critmom.experiments.comparison.findings.outlook import Outlook, outlook
from hf_critmom.experiments.comparison.findings.tuning import doubtful_choices
from hf_critmom.experiments.comparison.plan import Plan, Run
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.results import Results, read_drift, read_results, separate_tuned_runs
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.experiments.comparison.statistics.pairing import pairing_sentences
from hf_critmom.experiments.comparison.table import results_table
from hf_critmom.experiments.comparison.tuning import JudgedTrial, judge_trials
from hf_critmom.reporting.text import counted


@dataclass(frozen=True)
class BudgetFindings:
    """The findings at one budget.

    Attributes:
        analysis: The analysis.
        curvature: Summary of measured curvature and gradient noise; None if they were not measured.
        steps: The arms' steps relative to one another.
        runs: Results of the runs at this budget.
        arms: The arms that have results at this budget, in order.
        trials: The finished trials at this budget.
    """

    analysis: Analysis
    curvature: CurvatureSummary | None
    steps: StepComparison
    runs: tuple[RunResult, ...]
    arms: dict[str, Arm]
    trials: tuple[JudgedTrial, ...] = ()


@dataclass(frozen=True)
class Findings:
    """The findings of a comparison.

    Attributes:
        folder: The comparison's folder.
        plan: The plan.
        results: Results of the finished runs.
        table: The table of results of all budgets.
        arms: The arms that have results, in the plan's order, each followed by its tuned variant.
        budgets: The findings at each budget that has results.
        failures: Sentences on failed runs of a script.
    """

    folder: Path
    plan: Plan
    results: Results
    table: pd.DataFrame
    arms: dict[str, Arm]
    budgets: tuple[BudgetFindings, ...]
    failures: tuple[str, ...] = ()

    @cached_property  # each form of a report shows them
    def caveats(self) -> list[str]:
        """Sentences that a reader must know before any number.

        They are on failed pairing, a missing test split, doubtful choices among trials, and failed runs.
        """
        sentences = [sentence for budget in self.budgets for sentence in pairing_sentences(budget.runs)]
        doubts = [doubtful_choices(self.plan, self.results, one.trials, one.analysis.budget) for one in self.budgets]
        return list(dict.fromkeys([*sentences, *filter(None, doubts), *self.failures]))

    @property
    def planned(self) -> list[Run]:
        """All runs to be made; those of tuned variants as soon as trials have chosen their point."""
        return [*self.plan.runs(), *separate_tuned_runs(self.plan, self.results.choices)]

    @property
    def finished(self) -> int:
        """Number of planned runs that are finished."""
        return len(self.planned) - len(self.missing)

    @property
    def missing(self) -> list[Run]:
        """The planned runs that are not finished."""
        return [run for run in self.planned if run not in self.results.runs]

    @property
    def missing_trials(self) -> int:
        """Number of tuning trials that are not finished."""
        return len(self.plan.trials()) - len(self.results.trials)

    @property
    def unfinished(self) -> str:
        """How much is finished, such as "15 of 40 runs, 6 of 21 tuning trials"; empty if all is."""
        trials = len(self.plan.trials())
        if not self.missing and not self.missing_trials:
            return ""
        of_trials = f", {trials - self.missing_trials} of {counted(trials, 'tuning trial')}" if trials else ""
        return f"{self.finished} of {counted(len(self.planned), 'run')}{of_trials}"

    @property
    def commands(self) -> list[str]:
        """The commands that made the comparison, one after another."""
        return recorded_commands(self.plan, self.folder)

    @property
    def continuing_command(self) -> str:
        """The command that makes the missing runs."""
        return continuing_command(self.plan, self.folder)

    @property
    def outlook(self) -> Outlook | None:
        """The number of seeds that would probably decide the open claims; None if it cannot be estimated."""
        return outlook(self.plan, self.folder, [verdict for one in self.budgets for verdict in one.analysis.verdicts])


def read_findings(folder: Path) -> Findings:
    """Reads the findings of a comparison so far; nothing in its folder changes.

    Args:
        folder: A comparison's folder, finished or not.

    Raises:
        ComparisonError: If the folder holds no comparison, or a damaged one.
    """
    plan = Plan.read(folder)
    results = read_results(folder, plan)
    failures = failure_messages(folder, plan) if plan.task.is_script else ()
    return findings_of(folder, plan, results, read_drift(folder, results), failures)


def findings_of(
    folder: Path, plan: Plan, results: Results, drift: pd.DataFrame | None = None, failures: Sequence[str] = ()
) -> Findings:
    """The findings from these results.

    Args:
        folder: The comparison's folder.
        plan: The plan.
        results: Results of the finished runs.
        drift: Accuracies on corrupted images, see `read_drift`, if they were measured.
        failures: Sentences on failed runs of a script.
    """
    arms, table = _arms(plan, results), results_table(results.runs.values())
    analyses = [
        analyse_budget(plan, results, table, list(arms), epochs, drift) for epochs in plan.budgets if results.runs
    ]
    best = {(choice.arm, choice.epochs, choice.trial) for choice in results.choices}
    trials = [
        replace(one, chosen=(one.arm, one.epochs, one.trial) in best) for one in judge_trials(plan, results.trials)
    ]
    budgets = tuple(_at_budget(plan, results, arms, analysis, trials) for analysis in analyses if analysis.arms)
    return Findings(folder, plan, results, table, arms, budgets, tuple(failures))


def _arms(plan: Plan, results: Results) -> dict[str, Arm]:
    with_results = {run.arm for run in results.runs.values()}
    arms: dict[str, Arm] = {}
    for name, arm in plan.arms.items():
        tuned = f"{name}{TUNED_SUFFIX}"
        arms[name] = arm
        arms[tuned] = replace(arm, name=tuned, base=name, help=f"{arm.help}, tuned: {_chosen(results, tuned)}")
    return {name: arm for name, arm in arms.items() if name in with_results}


def _chosen(results: Results, tuned: str) -> str:
    """Learning rate and weight decay of a tuned variant, at each budget."""
    chosen = {run.epochs: found for run, found in results.runs.items() if run.arm == tuned}
    return ", ".join(
        f"learning rate {found.learning_rate:g}, weight decay {found.weight_decay:g}"
        + ("" if epochs is None else f" at {epochs:g} epochs")
        for epochs, found in chosen.items()
    )


def _at_budget(
    plan: Plan, results: Results, arms: dict[str, Arm], analysis: Analysis, trials: Sequence[JudgedTrial]
) -> BudgetFindings:
    runs = tuple(result for run, result in results.runs.items() if run.epochs == analysis.budget)
    batch_size = plan.training.get("total_train_batch_size")
    curvature = summarise_curvature(runs, analysis.arms, analysis.baseline, batch_size)
    present = {name: arms[name] for name in analysis.arms}
    steps = compare_steps(runs, present, analysis.baseline, float(plan.training_argument("max_grad_norm")))
    tried = tuple(one for one in trials if one.epochs == analysis.budget)
    return BudgetFindings(analysis, curvature, steps, runs, present, tried)
