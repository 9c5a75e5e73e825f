"""The report of a comparison: tables for the terminal, figures, a card and a page; and its verdicts as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group, RenderableType

from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.figures import (
    curvature_figure,
    damping_figure,
    drift_figure,
    metric_figure,
    reach_figure,
    speed_figure,
    tuning_figure,
)
from hf_critmom.experiments.comparison.findings.findings import BudgetFindings, Findings, read_findings
from hf_critmom.experiments.comparison.findings.sentences import headline_sentence
from hf_critmom.experiments.comparison.rendering.card import comparison_card
from hf_critmom.experiments.comparison.rendering.terminal import terminal_report
from hf_critmom.experiments.comparison.results import write_table, writing
from hf_critmom.reporting.figures import write_figures
from hf_critmom.storage.files import atomic_write, replace_non_finite


def write_report(folder: Path) -> RenderableType:
    """Writes figures, ``results.parquet``, ``README.md`` and ``report.html`` of a comparison from its finished runs.

    Args:
        folder: A comparison's folder, finished or not.

    Returns:
        The tables of results and the verdicts, for the terminal.

    Raises:
        ComparisonError: If the folder holds no comparison or cannot be written, or no run of it has finished.
    """
    found = read_with_results(folder)
    with writing(folder):
        write_table(folder, found.table)
        figures = [figures_of(budget) for budget in found.budgets]
        for budget_figures in figures:
            write_figures(folder, budget_figures)
        with atomic_write(folder / "README.md") as partial:
            partial.write_text(comparison_card(found, figures), encoding="utf-8")
        from hf_critmom.experiments.comparison.rendering.page import (
            write_comparison_page,  # Altair takes a second to import
        )

        write_comparison_page(folder, found)
    return Group(*terminal_report(found))


def read_with_results(folder: Path) -> Findings:
    """Reads the findings of a comparison that has at least one finished run.

    Raises:
        ComparisonError: If the folder holds no comparison, or none of its runs has finished.
    """
    found = read_findings(folder)
    if not found.results.runs:
        raise ComparisonError(
            f"No run of the comparison in {folder} has finished: repeat its command, {found.continuing_command}."
        )
    return found


def verdicts_as_json(folder: Path) -> dict[str, Any]:
    """The verdicts on a comparison's claims as JSON values, with step sizes, advice on momentum, and tuning trials.

    Args:
        folder: A comparison's folder, finished or not; nothing in it changes.

    Raises:
        ComparisonError: If the folder holds no comparison, or a damaged one.
    """
    found = read_findings(folder)
    plan = found.plan
    claims = [claim for budget in found.budgets for claim in _claims(budget)]
    head = {"task": plan.task.name, "metric": plan.task.metric, "runs": len(found.planned), "finished": found.finished}
    outlook = None if found.outlook is None else asdict(found.outlook)
    steps = [{"budget": budget.analysis.budget, **asdict(one)} for budget in found.budgets for one in budget.steps.arms]
    momentum = [
        {"budget": budget.analysis.budget, "role": one.advice and one.advice.role, "sentence": one.sentence}
        for budget in found.budgets
        if (one := budget.curvature) is not None
    ]
    trials = [
        {
            "budget": one.epochs,
            **{
                name: getattr(one, name)
                for name in ("arm", "learning_rate", "weight_decay", "seeds", "diverged", "value", "steps", "chosen")
            },
        }
        for budget in found.budgets
        for one in budget.trials
    ]
    parts = {
        **{"caveats": found.caveats, "claims": claims, "would_decide": outlook},
        **{"steps": steps, "momentum": momentum, "trials": trials},
    }
    return dict(replace_non_finite({**head, "command": plan.command, "commands": found.commands, **parts}))


def figures_of(found: BudgetFindings) -> dict[str, Figure]:
    """The figures of one budget, by file name."""
    analysis, runs, arms = found.analysis, found.runs, found.arms
    suffix = "" if analysis.budget is None else f"-{analysis.budget:g}-epochs"
    figures = {
        f"{analysis.metric.slug}{suffix}.png": metric_figure(analysis, arms),
        f"damping{suffix}.png": damping_figure(runs, arms),
    }
    if found.curvature is not None:
        figures[f"curvature{suffix}.png"] = curvature_figure(runs, arms, found.curvature.batch_size)
    if analysis.drift is not None and (drawn := drift_figure(analysis.drift, analysis.baseline, arms)) is not None:
        figures[f"drift{suffix}.png"] = drawn
    if len(arms) > 1:
        figures[f"speed{suffix}.png"] = speed_figure(analysis, arms)
    figures[f"reach{suffix}.png"] = reach_figure(analysis, arms)
    if (drawn := tuning_figure(found.trials, analysis.metric, arms)) is not None:
        figures[f"tuning{suffix}.png"] = drawn
    return figures


def _claims(found: BudgetFindings) -> Sequence[dict[str, Any]]:
    return [
        {
            "budget": found.analysis.budget,
            "claim": verdict.claim.text,
            "word": verdict.word,
            "sentence": headline_sentence(verdict, found.analysis.outcome),
            "seeds": verdict.seeds,
            "seeds_needed": verdict.needed,
            "against": [
                {
                    "baseline": one.baseline,
                    "ratio": one.ratio.estimate,
                    "low": one.ratio.low,
                    "high": one.ratio.high,
                    "confidence": one.confidence,
                    "test_difference": one.ending.estimate,
                }
                for one in verdict.headlines
            ],
        }
        for verdict in found.analysis.verdicts
    ]
