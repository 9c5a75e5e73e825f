"""The report of a comparison: a table for the terminal, and a README.md that is a model card."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from hf_critmom.experiments.comparison.analyses import analyse_budget
from hf_critmom.experiments.comparison.analysis import Analysis
from hf_critmom.experiments.comparison.arms import TUNED_SUFFIX, Arm
from hf_critmom.experiments.comparison.drift_statistics import CLEAN, CORRUPTED, DriftSummary, read_drift
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.figures import (
    curvature_figure,
    damping_figure,
    drift_figure,
    metric_figure,
    reach_figure,
    speed_figure,
    write_figures,
)
from hf_critmom.experiments.comparison.momentum import HEADER, CurvatureSummary, summarise_curvature
from hf_critmom.experiments.comparison.plan import Plan, Trial
from hf_critmom.experiments.comparison.ratios import PairedRatio
from hf_critmom.experiments.comparison.results import (
    Results,
    read_results,
    results_table,
    tuned_runs,
    write_results,
    writing,
)
from hf_critmom.experiments.comparison.sentences import (
    difference_in_words,
    explanations,
    headline_sentence,
    interval_in_words,
)
from hf_critmom.experiments.comparison.statistics import ArmSummary, Metric, TimeToTarget
from hf_critmom.experiments.comparison.tuning import Choice
from hf_critmom.experiments.comparison.verdict import Verdict
from hf_critmom.reporting.page import Section, write_page
from hf_critmom.reporting.tables import Table
from hf_critmom.reporting.templates import render
from hf_critmom.storage.files import atomic_write, finite


def write_report(folder: Path) -> RenderableType:
    """Builds figures, ``results.parquet`` and ``README.md`` of a comparison from its plan and finished runs.

    Args:
        folder: A comparison's folder, finished or not.

    Returns:
        The tables of results and the verdicts, for the terminal.

    Raises:
        ComparisonError: If the folder holds no comparison or cannot be written, or no run of it has finished.
    """
    plan = Plan.read(folder)
    results = read_results(folder, plan)
    if not results.runs:
        raise ComparisonError(f"No run of the comparison in {folder} has finished: repeat its command, {plan.command}.")
    arms = _arms(plan, results)
    drift = read_drift(folder, plan)
    with writing(folder):
        table = write_results(folder, plan)
        analyses = [analyse_budget(plan, results, table, list(arms), epochs, drift) for epochs in plan.budgets]
        analyses = [analysis for analysis in analyses if analysis.arms]
        curvatures = [_curvature(plan, results, analysis) for analysis in analyses]
        figures = [
            _figures(results, analysis, arms, curvature)
            for analysis, curvature in zip(analyses, curvatures, strict=True)
        ]
        for of_budget in figures:
            write_figures(folder, of_budget)
        with atomic_write(folder / "README.md") as partial:
            partial.write_text(_card(plan, results, arms, analyses, curvatures, figures), encoding="utf-8")
        _write_page(folder, plan, results, table, arms, analyses, curvatures)
    said = [Text(curvature.sentence) for curvature in curvatures if curvature is not None and curvature.sentence]
    return Group(*(part for analysis in analyses for part in _for_terminal(plan, analysis)), *said)


def verdicts_as_json(folder: Path) -> dict[str, Any]:
    """What a comparison says about each claim, as JSON holds it: for programs.

    Args:
        folder: A comparison's folder, finished or not; nothing in it changes.

    Raises:
        ComparisonError: If the folder holds no comparison, or a damaged one.
    """
    plan = Plan.read(folder)
    results = read_results(folder, plan)
    arms, drift = _arms(plan, results), read_drift(folder, plan)
    table = results_table(results.runs.values())
    budgets = plan.budgets if results.runs else []
    analyses = [analyse_budget(plan, results, table, list(arms), epochs, drift) for epochs in budgets]
    claims = [
        {
            "budget": analysis.budget,
            "claim": verdict.claim.text,
            "word": verdict.word,
            "sentence": headline_sentence(verdict),
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
        for analysis in analyses
        for verdict in analysis.verdicts
    ]
    finished = sum(run in results.runs for run in plan.runs())
    found = {"task": plan.task.name, "metric": plan.task.metric, "runs": len(plan.runs()), "finished": finished}
    return dict(finite({**found, "command": plan.command, "claims": claims}))


def _arms(plan: Plan, results: Results) -> dict[str, Arm]:
    """The arms that have results, in the plan's order, each followed by its tuned variant."""
    with_results = {run.arm for run in results.runs.values()}
    arms: dict[str, Arm] = {}
    for name, arm in plan.arms.items():
        tuned = f"{name}{TUNED_SUFFIX}"
        arms[name] = arm
        arms[tuned] = Arm(**{**vars(arm), "name": tuned, "base": name, "help": f"{arm.help}, tuned"})
    return {name: arm for name, arm in arms.items() if name in with_results}


def _curvature(plan: Plan, results: Results, analysis: Analysis) -> CurvatureSummary | None:
    """What was measured of the runs of one budget, if anything was."""
    runs = [result for run, result in results.runs.items() if run.epochs == analysis.budget]
    batch_size = plan.training.get("total_train_batch_size")
    return summarise_curvature(runs, analysis.arms, analysis.baseline, batch_size)


def _figures(
    results: Results, analysis: Analysis, arms: Mapping[str, Arm], curvature: CurvatureSummary | None
) -> dict[str, Figure]:
    """The figures of one budget by file name."""
    runs = [result for run, result in results.runs.items() if run.epochs == analysis.budget]
    present = {name: arms[name] for name in analysis.arms}
    suffix = "" if analysis.budget is None else f"-{analysis.budget:g}-epochs"
    figures = {
        f"{analysis.metric.name}{suffix}.png": metric_figure(analysis, present),
        f"damping{suffix}.png": damping_figure(runs, present),
    }
    if curvature is not None:
        figures[f"curvature{suffix}.png"] = curvature_figure(runs, present, curvature.batch_size)
    if analysis.drift is not None:
        figures[f"drift{suffix}.png"] = drift_figure(analysis.drift, present)
    if len(present) > 1:
        figures[f"speed{suffix}.png"] = speed_figure(analysis, present)
    figures[f"reach{suffix}.png"] = reach_figure(analysis, present)
    return figures


def _write_page(
    folder: Path,
    plan: Plan,
    results: Results,
    table: pd.DataFrame,
    arms: Mapping[str, Arm],
    analyses: Sequence[Analysis],
    curvatures: Sequence[CurvatureSummary | None],
) -> None:
    """Writes ``report.html``, the report to look at."""
    from hf_critmom.experiments.comparison import page  # Altair takes a second to import

    metric, sections, headlines = _metric(plan), [], []
    for analysis, curvature in zip(analyses, curvatures, strict=True):
        budget = analysis.budget
        headlines += page.headlines(analysis)
        sections += page.sections(
            analysis,
            table if budget is None else table[table["budget"] == budget],
            [result for run, result in results.runs.items() if run.epochs == budget],
            {name: arms[name] for name in analysis.arms},
            Table(*table_rows(analysis.summaries, metric.title)),
            Table(*drift_rows(analysis.drift, analysis.baseline)),
            curvature,
        )
    if len(analyses) > 1:  # the controls of the first budget set the charts of all
        first = len(sections) // len(analyses)
        sections = [*sections[:first], *(replace(section, controls=()) for section in sections[first:])]
    missing = len(plan.runs()) - sum(run in results.runs for run in plan.runs())
    what = [f"{name}: {arm.help}." for name, arm in arms.items()]
    how = "Made by hf-critmom compare. How it was measured stands in README.md beside this page; the command:"
    write_page(
        folder,
        title=f"{plan.task.name}: {', '.join(arms)}",
        subtitle=f"{_training_in_words(plan, analyses[0].budget)}, {_counted([len(plan.seeds)], 'seed')}",
        notice=f"Unfinished: {missing} of {len(plan.runs())} runs are missing; the command continues it."
        if missing
        else "",
        headlines=headlines,
        sections=[*sections, Section("What was compared", paragraphs=[*what, how], code=plan.command)],
    )


def table_rows(summaries: Sequence[ArmSummary], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results; a cell of two lines holds steps above seconds."""
    targets = summaries[0].targets
    header = ["arm", *(f"steps, seconds to {target.target:.4g}" for target in targets), f"test {metric}", "seeds"]
    rows = []
    for summary in summaries:
        seeds = str(summary.seeds) + (f", {summary.diverged} diverged" if summary.diverged else "")
        rows.append([summary.arm, *(_time(target) for target in summary.targets), _mean_and_spread(summary), seeds])
    return header, rows


def relative_rows(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table that relates arms to the baseline, seed by seed.

    A cell holds the ratio of steps with its interval, the ratio of seconds and the p-value of the log-rank test.
    """
    header = [
        "arm",
        *(f"steps to {target:.4g}" for target in analysis.targets),
        f"test {analysis.metric.title}, difference",
    ]
    rows = []
    for found in analysis.relative:
        cells = []
        for steps, seconds, p in zip(found.steps, found.seconds, found.logrank, strict=True):
            if steps.both_censored == steps.ratio.n:
                cells.append("neither reached it" if steps.ratio.n else "no seed in common")
                continue
            cells.append(f"{_ratio(steps)}\nseconds {_ratio(seconds, interval=False)}\nlog-rank p {p:.2g}")
        rows.append([found.arm, *cells, difference_in_words(found.ending)])
    return header, rows


def drift_rows(drift: DriftSummary | None, baseline: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of accuracies on clean and corrupted images, means over seeds and severities."""
    if drift is None:
        return [], []
    names = drift.corruptions
    header = ["arm", CLEAN, *(name.replace("_", " ") for name in names), f"corrupted, less {baseline}'s"]
    rows = []
    for found in drift.arms:
        less = difference_in_words(found.differences[CORRUPTED]) if CORRUPTED in found.differences else "-"
        rows.append([found.arm, *(f"{found.accuracy[name]:.4f}" for name in (CLEAN, *names)), less])
    return header, rows


def _time(target: TimeToTarget) -> str:
    """Median steps and seconds with their ranges, or how many seeds reached the target where not all did."""
    if target.reached == 0:
        return "not reached"
    if target.reached < target.seeds:
        reached = f"reached by {target.reached} of {target.seeds}"
        if math.isinf(target.steps):
            return reached
        return f"{target.steps:.0f}\n{target.seconds:.1f} s\n{reached}"
    if target.seeds == 1:
        return f"{target.steps:.0f}\n{target.seconds:.1f} s"
    (few, many), (short, long) = target.steps_range, target.seconds_range
    return f"{target.steps:.0f} ({few:.0f}-{many:.0f})\n{target.seconds:.1f} ({short:.1f}-{long:.1f}) s"


def _mean_and_spread(summary: ArmSummary) -> str:
    if summary.diverged == summary.seeds:
        return "diverged"
    mean = f"{summary.test.estimate:.4f}"
    return mean if math.isnan(summary.test_std) else f"{mean} ± {summary.test_std:.4f}"


def _verdict(verdict: Verdict, metric: Metric) -> str:
    """A verdict in Markdown: its headline, and what stands behind it."""
    headline = f"**{headline_sentence(verdict, name='`{}`'.format)}.**"
    return " ".join([headline, *explanations(verdict, metric, name="`{}`".format)])


def _ratio(found: PairedRatio, *, interval: bool = True) -> str:
    if found.bound == "unknown":
        return "open"
    sign = {"exact": "", "at least": "≥ ", "at most": "≤ "}[found.bound]
    text = f"{sign}{found.ratio.estimate:.2f}"
    return f"{text} ({interval_in_words(found)})" if interval else text


def _metric(plan: Plan) -> Metric:
    return Metric(plan.task.metric, plan.task.greater_is_better)


def _for_terminal(plan: Plan, analysis: Analysis) -> list[RenderableType]:
    header, rows = table_rows(analysis.summaries, analysis.metric.title)
    table = RichTable(
        title=f"{plan.task.name}: {_training_in_words(plan, analysis.budget)}",
        caption="Steps and seconds of training until validation first reached the target: median (range) over seeds. "
        "Test: mean ± standard deviation over seeds.",
    )
    for name in header:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(*row)
    found = [Text(f"{headline_sentence(one)}.") for one in analysis.verdicts]
    return [table, *found]


def _title(analysis: Analysis) -> str:
    """What the budget is called where there are several."""
    return "" if analysis.budget is None else _epochs(analysis.budget)


def _epochs(budget: float) -> str:
    return f"{budget:g} epoch{'' if budget == 1 else 's'}"


def _training_in_words(plan: Plan, epochs: float | None) -> str:
    budget = plan.training_argument("num_train_epochs") if epochs is None else epochs
    max_steps = plan.training_argument("max_steps")
    length = f"{max_steps} steps" if max_steps > 0 else _epochs(budget)
    return f"{_model_in_words(plan)}, {length}, learning rate {plan.training_argument('learning_rate'):g}"


def _model_in_words(plan: Plan) -> str:
    """The checkpoint, or the model with its sizes."""
    if "model_name_or_path" in plan.model:
        return plan.model["model_name_or_path"]
    sizes = {name: size for name, size in plan.model.items() if name not in ("model", "num_parameters")}
    told = ", ".join(f"{name.removeprefix('num_').replace('_', ' ')} {size}" for name, size in sizes.items())
    return f"{plan.model['model']} of {told}"


def _choice_row(choice: Choice, results: Results, metric: str) -> list[str]:
    tuned = next(
        (
            result
            for run, result in results.runs.items()
            if (run.arm, run.epochs) == (f"{choice.arm}{TUNED_SUFFIX}", choice.epochs)
        ),
        None,
    )
    values = "-" if tuned is None else f"{tuned.learning_rate:g}, {tuned.weight_decay:g}"
    notes = [f"{choice.diverged} diverged"] if choice.diverged else []
    notes += [f"**{name} on the edge of the grid**" for name in choice.edges]
    return [
        choice.arm,
        "-" if choice.epochs is None else f"{choice.epochs:g}",
        f"{choice.trial.learning_rate:g}, {choice.trial.weight_decay:g}",
        values,
        f"{choice.value:.4f}",
        f"{choice.trials}" + (f" ({', '.join(notes)})" if notes else ""),
    ]


def _card(
    plan: Plan,
    results: Results,
    arms: Mapping[str, Arm],
    analyses: Sequence[Analysis],
    curvatures: Sequence[CurvatureSummary | None],
    figures: Sequence[Mapping[str, Figure]],
) -> str:
    metric = _metric(plan)
    runs = list(results.runs.values())
    evaluated = [
        EvalResult(
            task_type=plan.task.hub_task,
            dataset_type=plan.task.name,
            dataset_name=plan.task.source,
            dataset_split="test",
            metric_type=metric.name,
            metric_name=", ".join(
                part
                for part in (
                    metric.title,
                    summary.arm,
                    _title(analysis),
                    f"mean of {summary.test.n} seed{'s' if summary.test.n > 1 else ''}",
                )
                if part
            ),
            metric_value=round(summary.test.estimate, 6),
        )
        for analysis in analyses
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
    # A tuned variant that is the arm itself has no run of its own.
    tuned = [run for run, choice in tuned_runs(plan, results.choices).items() if choice.trial != Trial()]
    asked = [*plan.runs(), *tuned]
    loads = [run.load.mean for run in runs if run.load.mean is not None]
    return render(
        "comparison.md",
        front_matter=data.to_yaml(),
        plan=plan,
        settings=[_training_in_words(plan, analysis.budget) for analysis in analyses],
        reports=[
            {
                "title": _title(analysis),
                "verdicts": [_verdict(one, metric) for one in analysis.verdicts],
                "results": _cells(table_rows(analysis.summaries, metric.title)),
                "relative": _cells(relative_rows(analysis)),
                "drift": drift_rows(analysis.drift, analysis.baseline),
                "drift_examples": f"{0 if analysis.drift is None else analysis.drift.examples:,}",
                "baseline": analysis.baseline,
                "curvature": curvature,
                "curvature_header": HEADER,
                "figures": _captions(of_budget, analysis),
            }
            for analysis, curvature, of_budget in zip(analyses, curvatures, figures, strict=True)
        ],
        arms=arms,
        metric=metric,
        margin=analyses[0].margin,
        smoothed=any(analysis.smoothed for analysis in analyses),
        grid={
            name: [f"{factor:g}" for factor in getattr(plan.tuning, name, ())]
            for name in ("learning_rate", "weight_decay")
        },
        choices=[_choice_row(choice, results, metric.name) for choice in results.choices],
        finished=sum(run in results.runs for run in asked),
        asked=len(asked),
        trials_finished=len(results.trials),
        trials_asked=len(plan.trials()),
        diverged=sum(not run.finished for run in runs),
        hardware=sorted({run.versions["hardware"] for run in runs}),
        load=max(loads, default=None),
        versions={name: version for name, version in plan.versions.items() if name != "hardware"},
        evaluations=_counted([len(run.evaluations) for run in runs], "evaluation"),
    )


def _counted(counts: Sequence[int], what: str) -> str:
    few, many = min(counts), max(counts)
    return f"{many if few == many else f'{few} to {many}'} {what}{'s' if many != 1 else ''}"


def _cells(table: tuple[list[str], list[list[str]]]) -> tuple[list[str], list[list[str]]]:
    header, rows = table
    return header, [[cell.replace("\n", "<br>") for cell in row] for row in rows]


def _captions(figures: Mapping[str, Figure], analysis: Analysis) -> list[tuple[str, str]]:
    """File name and description of each figure."""
    metric = analysis.metric
    captions = {
        metric.name: f"Validation {metric.title} over epochs, by arm: median and every seed",
        "damping": "Momentum and damping ratio (at k = 1) over steps, by arm",
        "curvature": "Measured top curvature and gradient noise scale over steps, by arm",
        "drift": "Test accuracy on corrupted images against severity, by arm: mean over seeds, and their range",
        "speed": f"Steps to each target relative to {analysis.baseline}, with intervals by Holm's correction",
        "reach": "Share of seeds that have reached each target, over steps",
    }
    return [(name, caption) for name in figures for key, caption in captions.items() if name.startswith(key)]
