"""The report of a comparison for the terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from hf_critmom.experiments.comparison.findings.descriptions import describe_training
from hf_critmom.experiments.comparison.findings.findings import Findings
from hf_critmom.experiments.comparison.findings.sentences import decisive_headline, describe_crossing, format_ratio
from hf_critmom.experiments.comparison.rendering.tables import long_rows, summary_rows, table_rows
from hf_critmom.experiments.comparison.statistics.analysis import Analysis
from hf_critmom.experiments.comparison.statistics.verdict import FASTER, NO_DIFFERENCE, NOT_TESTED, SLOWER, Verdict
from hf_critmom.reporting.tables import Table

MIN_COLUMNS = 110
"""In a narrower terminal, the table of results has a row for each arm and target."""
_STYLES = {FASTER: "green", SLOWER: "red", NO_DIFFERENCE: "blue"}


def terminal_report(found: Findings) -> list[RenderableType]:
    """Tables of results and verdicts at every budget, advice, what is missing, the outlook, and caveats."""
    shown: list[RenderableType] = []
    for budget in found.budgets:
        title = f"{found.plan.task.name}: {describe_training(found.plan, budget.analysis.budget)}"
        shown.append(_Results(budget.analysis, title))
        if len(budget.arms) > 1 and (steps := budget.steps.table()):
            shown.append(steps.rich())
        shown.append(verdict_lines(budget.analysis.verdicts, budget.analysis.ended_on))
    curvatures = [one.curvature for one in found.budgets if one.curvature is not None]
    shown += [Text(one.sentence) for one in curvatures if one.sentence]
    if found.unfinished:
        shown.append(Text(f"Unfinished: {found.unfinished}. This command continues it:"))
        shown.append(Text(found.continuing_command, style="bold", overflow="fold"))
    if (outlook := found.outlook) is not None:
        shown += [Text(outlook.sentence), Text(outlook.command, style="bold", overflow="fold")]
    return [*shown, *map(Text, found.caveats)]


@dataclass(frozen=True)
class _Results:
    """The tables of results, in the form that fits the terminal."""

    analysis: Analysis
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        analysis, metric = self.analysis, self.analysis.metric.title
        caption = (
            "Steps and seconds of training until validation first reached the target: median (range) over seeds. "
            f"{analysis.ended_on.capitalize()}: mean ± standard deviation over seeds."
        )
        wide = Table(
            *table_rows(analysis.summaries, metric, analysis.ended_on), title=self.title, caption=caption
        ).rich()
        fits = Measurement.get(console, options, wide).maximum <= options.max_width
        if options.max_width >= MIN_COLUMNS and fits:
            yield wide
            return
        yield Table(*long_rows(analysis.summaries), title=self.title).rich()
        yield Table(*summary_rows(analysis.summaries, metric, analysis.ended_on)).rich()
        yield Text(caption, style="italic")


def verdict_lines(verdicts: Sequence[Verdict], ended_on: str) -> RenderableType:
    """A line for each claim: verdict, arms, ratio of steps, difference of the test metric, number of seeds."""
    table = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name, justify in (("verdict", "left"), ("claim", "left"), ("times the steps", "left"),
                          (ended_on, "right"), ("seeds", "left")):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=name in ("verdict", "times the steps"), overflow="fold")  # type: ignore[arg-type]
    reasons = []
    for verdict in verdicts:
        if verdict.word == NOT_TESTED:
            reasons.append(Text(f"{verdict.claim.text}: not tested ({verdict.reason})."))
            continue
        table.add_row(Text(verdict.word, style=_STYLES.get(verdict.word, "bold")), *map(Text, _cells(verdict)))
        for one in verdict.headlines:
            if crossing := describe_crossing(one):
                reasons.append(Text(f"{one.arm} against {one.baseline}: {crossing}, which the mean hides."))
    return Group("", *([table] if table.row_count else []), *reasons)


def _cells(verdict: Verdict) -> list[str]:
    """The arms, the ratio with its interval, the difference at the end, and the number of seeds."""
    one = decisive_headline(verdict)
    against = f"all ({one.baseline})" if verdict.claim.first and len(verdict.headlines) > 1 else one.baseline
    difference = "-" if math.isnan(one.ending.estimate) else f"{one.ending.estimate:+.4f}"
    seeds = f"{verdict.seeds}" + (f" of ~{verdict.needed}" if verdict.needed else "")
    return [f"{verdict.claim.arm} vs {against}", format_ratio(one.ratio), difference, seeds]
