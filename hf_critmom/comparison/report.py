"""The report of a comparison: a table for the terminal, and a README.md that is a model card."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from hf_critmom.comparison.arms import ARMS
from hf_critmom.comparison.errors import ComparisonError
from hf_critmom.comparison.figures import write_figures
from hf_critmom.comparison.plan import Plan
from hf_critmom.comparison.results import read_runs, write_results
from hf_critmom.comparison.statistics import ArmSummary, TimeToTarget, summarise


def write_report(folder: Path) -> Table:
    """Builds figures, ``results.parquet`` and ``README.md`` of a comparison from its plan and finished runs.

    Args:
        folder: A comparison's folder, finished or not.

    Returns:
        The table of results, for the terminal.

    Raises:
        ComparisonError: If the folder holds no comparison, or no run of it has finished.
    """
    plan = Plan.read(folder)
    if unknown := [arm for arm in plan.arms if arm not in ARMS]:
        raise ComparisonError(
            f"The comparison in {folder} has an arm that this version does not know ({', '.join(unknown)}): use "
            f"hf-critmom {plan.versions.get('hf-critmom', 'of the version that made it')}."
        )
    runs = read_runs(folder, plan)
    if not runs:
        raise ComparisonError(f"No run of the comparison in {folder} has finished: repeat its command, {plan.command}.")
    table = write_results(folder, plan)
    metric = plan.task["metric"]
    arms = [arm for arm in plan.arms if (table["arm"] == arm).any()]
    summaries = summarise(table, arms, metric, plan.targets)
    write_figures(folder, table, runs, arms, metric, plan.targets)
    (folder / "README.md").write_text(_card(plan, runs, table, summaries), encoding="utf-8")
    return _terminal_table(plan, summaries)


def table_rows(summaries: list[ArmSummary], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results; a cell of two lines holds steps above seconds."""
    targets = summaries[0].targets
    header = ["arm", *(f"steps, seconds to {target.target:.4g}" for target in targets), f"test {metric}", "seeds"]
    rows = []
    for summary in summaries:
        seeds = str(summary.seeds) + (f", {summary.diverged} diverged" if summary.diverged else "")
        rows.append([summary.arm, *(_time(target) for target in summary.targets), _mean_and_spread(summary), seeds])
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
    mean = f"{summary.test_mean:.4f}"
    return mean if math.isnan(summary.test_std) else f"{mean} ± {summary.test_std:.4f}"


def _terminal_table(plan: Plan, summaries: list[ArmSummary]) -> Table:
    header, rows = table_rows(summaries, plan.task["metric"])
    table = Table(
        title=f"{plan.task['name']}: {_training_in_words(plan)}",
        caption="Steps and seconds of training until validation first reached the target: median (range) over seeds. "
        "Test: mean ± standard deviation over seeds.",
    )
    for name in header:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _training_in_words(plan: Plan) -> str:
    training = plan.training
    length = (
        f"{training['max_steps']} steps"
        if training.get("max_steps", -1) > 0
        else f"{training.get('num_train_epochs', 3.0):g} epochs"
    )
    model = plan.model.get("model_name_or_path") or f"{plan.model['model']} of width {plan.model['width']}"
    return f"{model}, {length}, learning rate {training['learning_rate']:g}"


def _card(plan: Plan, runs: list[dict[str, Any]], table: pd.DataFrame, summaries: list[ArmSummary]) -> str:
    metric = plan.task["metric"]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=plan.task["name"],
            dataset_name=plan.task["source"],
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{metric}, {summary.arm}, mean of {summary.seeds} seed{'s' if summary.seeds > 1 else ''}",
            metric_value=round(summary.test_mean, 6),
        )
        for summary in summaries
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["hf-critmom", "optimizer-comparison", "momentum"],
        metrics=[metric],
        model_name=f"{plan.task['name']} momentum comparison",
        eval_results=results,
    )
    header, rows = table_rows(summaries, metric)
    environment = Environment(
        loader=PackageLoader("hf_critmom.comparison"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("card.md.jinja").render(
        front_matter=data.to_yaml(),
        plan=plan,
        settings=_training_in_words(plan),
        header=header,
        rows=[[cell.replace("\n", "<br>") for cell in row] for row in rows],
        arms={arm: ARMS[arm].help for arm in plan.arms},
        metric=metric,
        finished=len(runs),
        asked=len(plan.arms) * len(plan.seeds),
        hardware=sorted({run["versions"]["hardware"] for run in runs}),
        versions={name: version for name, version in plan.versions.items() if name != "hardware"},
        evaluations=int((table["split"] == "validation").sum() / len(runs)),
    )
