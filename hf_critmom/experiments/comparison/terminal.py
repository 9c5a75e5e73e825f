"""The report of a comparison for the terminal."""

from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from hf_critmom.experiments.comparison.descriptions import training_in_words
from hf_critmom.experiments.comparison.findings import BudgetFindings, Findings
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.report_tables import table_rows
from hf_critmom.experiments.comparison.sentences import headline_sentence


def terminal_report(found: Findings) -> list[RenderableType]:
    """Tables of results and verdicts of every budget, and what was measured of curvature in words."""
    said = [Text(one.curvature.sentence) for one in found.budgets if one.curvature and one.curvature.sentence]
    if (more := found.outlook) is not None:
        said += [Text(more.sentence), Text(more.command, style="bold", overflow="fold")]
    said += [Text(sentence) for sentence in found.caveats]
    return [*(part for one in found.budgets for part in _of_budget(found.plan, one)), *said]


def _of_budget(plan: Plan, found: BudgetFindings) -> list[RenderableType]:
    analysis, steps = found.analysis, found.steps.table()
    header, rows = table_rows(analysis.summaries, analysis.metric.title, analysis.ended_on)
    table = RichTable(
        title=f"{plan.task.name}: {training_in_words(plan, analysis.budget)}",
        caption="Steps and seconds of training until validation first reached the target: median (range) over seeds. "
        f"{analysis.ended_on.capitalize()}: mean ± standard deviation over seeds.",
    )
    for name in header:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(*row)
    sizes = [steps.rich()] if steps and len(found.arms) > 1 else []
    return [table, *sizes, *(Text(f"{headline_sentence(one)}.") for one in analysis.verdicts)]
