"""The report of a comparison: a table for the terminal, and a README.md that is a model card."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hf_critmom.experiments.comparison.arms import TUNED_SUFFIX, Arm, arm_from_record
from hf_critmom.experiments.comparison.drift import CLEAN, drift_differences, read_drift
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.figures import (
    damping_figure,
    drift_figure,
    metric_figure,
    reach_figure,
    speed_figure,
    write_figures,
)
from hf_critmom.experiments.comparison.plan import Plan, Trial
from hf_critmom.experiments.comparison.results import Results, read_results, tuned_runs, write_results, writing
from hf_critmom.experiments.comparison.statistics import (
    ArmSummary,
    Metric,
    PairedRatio,
    TimeToTarget,
    logrank,
    paired_difference,
    paired_ratio,
    summarise,
    times,
)
from hf_critmom.experiments.comparison.tuning import Choice
from hf_critmom.experiments.comparison.verdict import (
    Verdict,
    difference_in_words,
    ending,
    interval_in_words,
    sentence,
    verdicts,
)
from hf_critmom.reporting.templates import render
from hf_critmom.storage.files import written_whole


@dataclass(frozen=True)
class BudgetReport:
    """What the report says of one budget.

    Attributes:
        epochs: The budget in epochs where there are several; None: the only one.
        summaries: Every arm's summary.
        verdicts: What the comparison says about each claim.
        baseline: The arm that the others are related to.
        figures: Its figures by file name.
        relative: Header and rows of the table of arms relative to the baseline.
        drift: Header and rows of the table of accuracies on corrupted images; no rows if they were not measured.
        drift_examples: Of how many images.
    """

    epochs: float | None
    summaries: list[ArmSummary]
    verdicts: list[Verdict]
    baseline: str
    figures: dict[str, Figure]
    relative: tuple[list[str], list[list[str]]]
    drift: tuple[list[str], list[list[str]]]
    drift_examples: int = 0

    @property
    def title(self) -> str:
        """What it is called where there are several budgets."""
        return "" if self.epochs is None else _epochs(self.epochs)


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
        reports = [_of_budget(plan, results, table, drift, arms, epochs) for epochs in plan.budgets]
        reports = [report for report in reports if report.summaries]
        for report in reports:
            write_figures(folder, report.figures)
        with written_whole(folder / "README.md") as partial:
            partial.write_text(_card(plan, results, arms, reports), encoding="utf-8")
    return Group(*(part for report in reports for part in _for_terminal(plan, report)))


def _arms(plan: Plan, results: Results) -> dict[str, Arm]:
    """The arms that have results, in the plan's order, each followed by its tuned variant."""
    with_results = {run["arm"] for run in results.runs.values()}
    arms: dict[str, Arm] = {}
    for name, record in plan.arms.items():
        arm, tuned = arm_from_record(name, record), f"{name}{TUNED_SUFFIX}"
        arms[name] = arm
        arms[tuned] = Arm(**{**vars(arm), "name": tuned, "base": name, "help": f"{arm.help}, tuned"})
    return {name: arm for name, arm in arms.items() if name in with_results}


def _of_budget(
    plan: Plan,
    results: Results,
    table: pd.DataFrame,
    drift: pd.DataFrame,
    arms: Mapping[str, Arm],
    epochs: float | None,
) -> BudgetReport:
    metric = _metric(plan)
    rows = table if epochs is None else table[table["budget"] == epochs]
    runs = [result for run, result in results.runs.items() if run.epochs == epochs]
    present = {name: arm for name, arm in arms.items() if (rows["arm"] == name).any()}
    if not present:
        return BudgetReport(epochs, [], [], "", {}, ([], []), ([], []))
    baseline = "constant" if "constant" in present else next(iter(present))
    suffix = "" if epochs is None else f"-{epochs:g}-epochs"
    figures = {
        f"{metric.name}{suffix}.png": metric_figure(rows, present, metric, plan.targets),
        f"damping{suffix}.png": damping_figure(runs, present),
    }
    of_budget = drift if epochs is None else drift[drift["budget"] == epochs]
    if (of_budget["corruption"] != CLEAN).any():
        figures[f"drift{suffix}.png"] = drift_figure(of_budget, present)
    if len(present) > 1:
        figures[f"speed{suffix}.png"] = speed_figure(rows, present, baseline, metric, plan.targets)
    figures[f"reach{suffix}.png"] = reach_figure(rows, present, metric, plan.targets)
    return BudgetReport(
        epochs,
        summarise(rows, list(present), metric, plan.targets),
        verdicts(rows, metric, plan.targets),
        baseline,
        figures,
        relative_rows(rows, [name for name in present if name != baseline], baseline, metric, plan.targets),
        drift_rows(of_budget, list(present), baseline),
        0 if of_budget.empty else int(of_budget["examples"].max()),
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


def relative_rows(
    table: pd.DataFrame, arms: Sequence[str], baseline: str, metric: Metric, targets: Sequence[float]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table that relates arms to a baseline, seed by seed.

    A cell holds the ratio of steps with its interval, the ratio of seconds and the p-value of the log-rank test.
    """
    header = ["arm", *(f"steps to {target:.4g}" for target in targets), f"test {metric.title}, difference"]
    rows = []
    for arm in arms:
        cells = []
        for target in targets:
            steps, seconds = (paired_ratio(table, arm, baseline, metric, target, by) for by in ("step", "seconds"))
            if steps.both_censored == steps.ratio.n:
                cells.append("neither reached it" if steps.ratio.n else "no seed in common")
                continue
            mine, theirs = (times(table, name, metric, target) for name in (arm, baseline))
            cells.append(
                f"{_ratio(steps)}\nseconds {_ratio(seconds, interval=False)}\nlog-rank p {logrank(mine, theirs):.2g}"
            )
        rows.append([arm, *cells, difference_in_words(paired_difference(table, arm, baseline, metric))])
    return header, rows


def drift_rows(drift: pd.DataFrame, arms: Sequence[str], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of accuracies on clean and corrupted images, means over seeds and severities."""
    names = [name for name in dict.fromkeys(drift["corruption"]) if name != CLEAN]
    if not names:
        return [], []
    header = ["arm", CLEAN, *(name.replace("_", " ") for name in names), f"corrupted, less {baseline}'s"]
    means = drift.groupby(["arm", "corruption"])["accuracy"].mean()
    rows = []
    for arm in arms:
        if arm not in means.index.get_level_values("arm"):
            continue
        differences = drift_differences(drift, arm, baseline) if arm != baseline else {}
        less = difference_in_words(differences["corrupted"]) if "corrupted" in differences else "-"
        rows.append([arm, *(f"{means[arm].get(name, math.nan):.4f}" for name in (CLEAN, *names)), less])
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


def _ratio(found: PairedRatio, *, interval: bool = True) -> str:
    if found.bound == "unknown":
        return "open"
    sign = {"exact": "", "at least": "≥ ", "at most": "≤ "}[found.bound]
    text = f"{sign}{found.ratio.estimate:.2f}"
    return f"{text} ({interval_in_words(found)})" if interval else text


def _metric(plan: Plan) -> Metric:
    return Metric(plan.task["metric"], plan.task.get("greater_is_better", True))


def _for_terminal(plan: Plan, report: BudgetReport) -> list[RenderableType]:
    header, rows = table_rows(report.summaries, _metric(plan).title)
    table = Table(
        title=f"{plan.task['name']}: {_training_in_words(plan, report.epochs)}",
        caption="Steps and seconds of training until validation first reached the target: median (range) over seeds. "
        "Test: mean ± standard deviation over seeds.",
    )
    for name in header:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(*row)
    found = [Text(f"{one.claim.text}: {one.headline}") for one in report.verdicts]
    return [table, *found]


def _epochs(budget: float) -> str:
    return f"{budget:g} epoch{'' if budget == 1 else 's'}"


def _training_in_words(plan: Plan, epochs: float | None) -> str:
    training = plan.training
    budget = training.get("num_train_epochs", 3.0) if epochs is None else epochs
    length = f"{training['max_steps']} steps" if training.get("max_steps", -1) > 0 else _epochs(budget)
    return f"{_model_in_words(plan)}, {length}, learning rate {training['learning_rate']:g}"


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
    values = "-" if tuned is None else f"{tuned['learning_rate']:g}, {tuned['weight_decay']:g}"
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


def _card(plan: Plan, results: Results, arms: Mapping[str, Arm], reports: Sequence[BudgetReport]) -> str:
    metric = _metric(plan)
    runs = list(results.runs.values())
    evaluated = [
        EvalResult(
            task_type=plan.task.get("hub_task", "image-classification"),
            dataset_type=plan.task["name"],
            dataset_name=plan.task["source"],
            dataset_split="test",
            metric_type=metric.name,
            metric_name=", ".join(
                part
                for part in (
                    metric.title,
                    summary.arm,
                    report.title,
                    f"mean of {summary.test.n} seed{'s' if summary.test.n > 1 else ''}",
                )
                if part
            ),
            metric_value=round(summary.test.estimate, 6),
        )
        for report in reports
        for summary in report.summaries
        if summary.test.n
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=plan.task.get("hub_task", "image-classification"),
        tags=["hf-critmom", "optimizer-comparison", "momentum"],
        metrics=[metric.name],
        model_name=f"{plan.task['name']} momentum comparison",
        eval_results=evaluated or None,
    )
    # A tuned variant that is the arm itself has no run of its own.
    tuned = [run for run, choice in tuned_runs(plan, results.choices).items() if choice.trial != Trial()]
    asked = [*plan.runs(), *tuned]
    loads = [run["load"] for run in runs if run.get("load") is not None]
    return render(
        "comparison.md",
        front_matter=data.to_yaml(),
        plan=plan,
        settings=[_training_in_words(plan, report.epochs) for report in reports],
        reports=[
            {
                "title": report.title,
                "verdicts": [f"{sentence(one)} {ending(one, metric)}".rstrip() for one in report.verdicts],
                "results": _cells(table_rows(report.summaries, metric.title)),
                "relative": _cells(report.relative),
                "drift": report.drift,
                "drift_examples": f"{report.drift_examples:,}",
                "baseline": report.baseline,
                "figures": _captions(report, metric),
            }
            for report in reports
        ],
        arms=arms,
        metric=metric,
        grid={
            name: [f"{factor:g}" for factor in plan.tuning.get(name, [])] for name in ("learning_rate", "weight_decay")
        },
        choices=[_choice_row(choice, results, metric.name) for choice in results.choices],
        finished=sum(run in results.runs for run in asked),
        asked=len(asked),
        trials_finished=len(results.trials),
        trials_asked=len(plan.trials()),
        diverged=sum(run["status"] == "diverged" for run in runs),
        hardware=sorted({run["versions"]["hardware"] for run in runs}),
        load=max(loads, default=None),
        versions={name: version for name, version in plan.versions.items() if name != "hardware"},
        evaluations=_counted([len(run["evaluations"]) for run in runs], "evaluation"),
    )


def _counted(counts: Sequence[int], what: str) -> str:
    few, many = min(counts), max(counts)
    return f"{many if few == many else f'{few} to {many}'} {what}{'s' if many != 1 else ''}"


def _cells(table: tuple[list[str], list[list[str]]]) -> tuple[list[str], list[list[str]]]:
    header, rows = table
    return header, [[cell.replace("\n", "<br>") for cell in row] for row in rows]


def _captions(report: BudgetReport, metric: Metric) -> list[tuple[str, str]]:
    """File name and description of each figure."""
    captions = {
        metric.name: f"Validation {metric.title} over epochs, by arm: median and every seed",
        "damping": "Momentum and damping ratio over steps, by arm",
        "drift": "Test accuracy on corrupted images against severity, by arm: mean over seeds, and their range",
        "speed": f"Steps to each target relative to {report.baseline}, with 95 % intervals",
        "reach": "Share of seeds that have reached each target, over steps",
    }
    return [(name, caption) for name in report.figures for key, caption in captions.items() if name.startswith(key)]
