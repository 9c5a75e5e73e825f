"""The card of a comparison: a README.md that is a valid model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from matplotlib.figure import Figure

from hf_critmom.experiments.comparison.arms.arm import is_adaptive
from hf_critmom.experiments.comparison.findings.analyses import disturbed_arms
from hf_critmom.experiments.comparison.findings.descriptions import (
    budget_title,
    describe_seeds,
    describe_training,
    format_counts,
    list_seeds,
)
from hf_critmom.experiments.comparison.findings.findings import BudgetFindings, Findings
from hf_critmom.experiments.comparison.findings.history import describe_history
from hf_critmom.experiments.comparison.findings.momentum import HEADER
from hf_critmom.experiments.comparison.findings.sentences import explanations, headline_sentence
from hf_critmom.experiments.comparison.findings.tuning import describe_tuning
from hf_critmom.experiments.comparison.rendering.tables import (
    choices_table,
    claims_table,
    drift_rows,
    relative_rows,
    table_rows,
    trials_table,
)
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.experiments.comparison.statistics.claims import claim_title
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.statistics.verdict import NOT_TESTED, Verdict
from hf_critmom.reporting.templates import render


def comparison_card(found: Findings, figures: Sequence[Mapping[str, Figure]]) -> str:
    """The card as Markdown with metadata.

    Args:
        found: The findings of the comparison.
        figures: Figures of each budget by file name.
    """
    plan, results, budgets = found.plan, found.results, found.budgets
    metric = budgets[0].analysis.metric
    runs = list(results.runs.values())
    evaluated = [
        EvalResult(
            task_type=plan.task.hub_task,
            dataset_type=plan.task.name,
            dataset_name=plan.task.source,
            dataset_split=budgets[0].analysis.ended_on.removeprefix("final "),
            metric_type=metric.name,
            metric_name=", ".join(
                part
                for part in (
                    metric.title,
                    summary.arm,
                    budget_title(analysis.budget),
                    f"mean of {summary.test.n} seed{'s' if summary.test.n > 1 else ''}",
                )
                if part
            ),
            metric_value=round(summary.test.estimate, 6),
        )
        for analysis in (budget.analysis for budget in budgets)
        for summary in analysis.summaries
        if summary.test.n
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=plan.task.hub_task,
        tags=["hf-critmom", "optimizer-comparison", "momentum"],
        metrics=[metric.name],
        model_name=f"{plan.task.name} momentum comparison",
        eval_results=evaluated or None,
    )
    # A tuned variant with the arm's own values has no run of its own.
    loads = [run.load.mean for run in runs if run.load.mean is not None]
    return render(
        "comparison.md",
        front_matter=data.to_yaml(),
        plan=plan,
        settings=[f"{describe_training(plan, budget.analysis.budget)}, {describe_seeds(plan)}" for budget in budgets],
        num_sgd=sum(not is_adaptive(arm.optimizer.lower()) for arm in found.arms.values()),
        seeds=list_seeds(plan),
        reports=[_report(budget, drawn) for budget, drawn in zip(budgets, figures, strict=True)],
        arms=found.arms,
        curvature_header=HEADER,
        metric=metric,
        caveats=found.caveats,
        ended_on=budgets[0].analysis.ended_on,
        paired=all(budget.analysis.paired for budget in budgets),
        margin=budgets[0].analysis.margin,
        smoothed=any(budget.analysis.smoothed for budget in budgets),
        history=describe_history(plan),
        outlook=found.outlook,
        commands=found.commands,
        continuing_command=found.continuing_command,
        tuning=" ".join(describe_tuning(plan, results.choices, name="`{}`".format)),
        choices=choices_table(results, metric),
        trials=[_trials(budget, drawn) for budget, drawn in zip(budgets, figures, strict=True)],
        unfinished=found.unfinished,
        diverged=sum(not run.finished for run in runs),
        hardware=sorted({run.versions["hardware"] for run in runs}),
        load=max(loads, default=None),
        retries=sum(run.load.retries or 0 for run in runs),
        disturbed=sorted({arm for one in budgets for arm in disturbed_arms(results, one.analysis.budget)}),
        versions={name: version for name, version in plan.versions.items() if name != "hardware"},
        evaluations=format_counts([len(run.evaluations) for run in runs], "evaluation"),
    )


def _report(found: BudgetFindings, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """The card's content for one budget."""
    analysis = found.analysis
    return {
        "title": budget_title(analysis.budget),
        "verdicts": [
            f"**{headline_sentence(one, analysis.outcome, name='`{}`'.format)}.**" for one in analysis.verdicts
        ],
        "claims": claims_table(analysis),
        "reasons": [_reasons(one, analysis.metric) for one in analysis.verdicts if one.word != NOT_TESTED],
        "results": _cells(table_rows(analysis.summaries, analysis.metric.title, analysis.ended_on)),
        "relative": _cells(relative_rows(analysis)),
        "drift": drift_rows(analysis.drift, analysis.baseline),
        "drift_examples": f"{0 if analysis.drift is None else analysis.drift.examples:,}",
        "baseline": analysis.baseline,
        "steps": found.steps.table(),
        "caveat": found.steps.caveat(name="`{}`".format),
        "curvature": found.curvature,
        "figures": _figures(figures, analysis),
    }


def _trials(found: BudgetFindings, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Table and figures of the trials at one budget."""
    analysis = found.analysis
    return {
        "title": budget_title(analysis.budget),
        "table": trials_table(found.trials, analysis.metric),
        "figures": _captions(figures, {"tuning": f"Last validation {analysis.metric.title} of every trial, by arm"}),
    }


def _reasons(verdict: Verdict, metric: Metric) -> str:
    """The evidence for a verdict, in Markdown."""
    return f"{claim_title(verdict.claim)}: {' '.join(explanations(verdict, metric, name='`{}`'.format))}"


def _cells(table: tuple[list[str], list[list[str]]]) -> tuple[list[str], list[list[str]]]:
    header, rows = table
    return header, [[cell.replace("\n", "<br>") for cell in row] for row in rows]


def _figures(figures: Mapping[str, Figure], analysis: Analysis) -> list[tuple[str, str]]:
    """File name and description of each figure of the results."""
    metric = analysis.metric
    captions = {
        metric.slug: f"Validation {metric.title} over epochs, by arm: median and every seed",
        "damping": "Momentum and damping ratio (at k = 1) over steps, by arm",
        "curvature": "Measured top curvature and gradient noise scale over steps, by arm",
        "drift": f"Test accuracy on corrupted images less that of {analysis.baseline}, by arm, with intervals",
        "speed": f"Steps to each target relative to {analysis.baseline}, with intervals by Holm's correction",
        "reach": "Share of seeds that have reached each target, over steps",
    }
    return _captions(figures, captions)


def _captions(figures: Mapping[str, Figure], captions: Mapping[str, str]) -> list[tuple[str, str]]:
    """File name and description of each figure that has one of these captions, by the first word of its name."""
    found = ((name, key) for name in figures for key in captions if name.startswith((f"{key}.", f"{key}-")))
    return [(name, captions[key]) for name, key in found]
