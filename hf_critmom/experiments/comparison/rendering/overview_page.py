"""Several comparisons on one page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from hf_critmom.experiments.comparison.command_lines import joint_command
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.findings.descriptions import describe_seeds, describe_training
from hf_critmom.experiments.comparison.findings.sentences import format_difference, format_ratio
from hf_critmom.experiments.comparison.rendering.overview import MAX_PROFILE_FACTOR, Overview
from hf_critmom.experiments.comparison.rendering.page_charts import (
    colors_of,
    dashes_of,
    page_chart,
    ratios_chart,
    steps_chart,
)
from hf_critmom.experiments.comparison.rendering.page_sections import headlines
from hf_critmom.experiments.comparison.results import writing
from hf_critmom.experiments.comparison.statistics.claims import claim_title
from hf_critmom.experiments.comparison.statistics.verdict import NOT_TESTED
from hf_critmom.reporting.page import Control, Headline, Section, write_page
from hf_critmom.reporting.tables import Table
from hf_critmom.reporting.text import counted, printable
from hf_critmom.storage.files import create_or_open_folder


def write_overview(overview: Overview, folder: Path) -> list[RenderableType]:
    """Writes ``report.html`` of several comparisons.

    Args:
        overview: The comparisons.
        folder: The output folder; it is created if necessary.

    Returns:
        Tables for the terminal.

    Raises:
        ComparisonError: If the folder cannot be written.
    """
    create_or_open_folder(folder, "overview", None, ComparisonError, write=True)
    first_headlines: list[Headline] = []
    for one in overview.workloads:
        tested = [line for line in headlines(one.analysis, one.name) if line.word != NOT_TESTED]
        first_headlines += tested[:1]
    tasks = counted(len(overview.workloads), "task")
    claims = Section("Claims by task", tables=[_claims_table(overview)])
    sections = [_speed_ups_section(overview), _profile_section(overview), claims, _setup_section(overview)]
    with writing(folder):
        write_page(
            folder,
            title=f"{tasks}: {', '.join(overview.arms)}",
            subtitle="The headline of every task is that of its first claim; all claims are listed below.",
            headlines=first_headlines,
            sections=sections,
        )
    texts = [f"{one.label}: {' '.join(filter(None, (one.sentence, one.numbers)))}" for one in first_headlines]
    return [_speed_up_table(overview).rich(), *(Text(printable(text)) for text in texts)]


def _speed_up_table(overview: Overview) -> Table:
    rows = [[one.arm, format_ratio(one.ratio), str(one.ratio.n)] for one in overview.speed_ups]
    return Table(
        ["arm", f"times as fast as {overview.baseline}", "tasks"],
        rows,
        title="Geometric mean of speed-ups",
        caption=f"{overview.baseline}'s steps to target by the arm's, over the tasks; above 1 is faster. Intervals are "
        "Student's t over the tasks: with few tasks they are wide, and none is given for one.",
    )


def _speed_ups_section(overview: Overview) -> Section:
    rows = [
        {"label": one.arm, "color": one.arm, "ratio": one.ratio.estimate, "low": one.ratio.low, "high": one.ratio.high,
         "text": format_ratio(one.ratio)}
        if one.ratio.n > 1
        else {"label": one.arm, "color": one.arm, "ratio": one.ratio.estimate, "low": one.ratio.estimate,
              "high": one.ratio.estimate, "text": format_ratio(one.ratio)}
        for one in overview.speed_ups
    ]  # fmt: skip
    charts = []
    if rows:
        chart = ratios_chart(rows, f"times as fast as {overview.baseline} (logarithmic)", colors_of(overview.arms))
        charts.append(
            page_chart("speed-ups", "Geometric mean of speed-ups over the tasks, by arm, with intervals", chart)
        )
    return Section("How much faster, over all tasks", charts=charts, tables=[_speed_up_table(overview)])


def _profile_section(overview: Overview) -> Section:
    arms = {name: overview.arms[name] for name in overview.compared}
    rows = [
        {"arm": arm, "step": factor, "value": share}
        for arm, points in overview.profile().items()
        for factor, share in points
    ]
    targets = [
        [one.name, "-" if one.target is None else f"{one.target:.4g}", *(_steps(one.times.get(arm)) for arm in arms)]
        for one in overview.workloads
    ]
    table = Table(["task", "target", *arms], targets, title="Median steps to the target")
    left_out = [name for name in overview.arms if name not in arms]
    paragraphs = [
        "The share of tasks whose target an arm reached within a factor of the fastest arm's steps (as AlgoPerf draws "
        "it). The target is the hardest planned one that one of these arms reached with more than half of its seeds."
    ]
    paragraphs += [f"Left out, since not every task has them: {', '.join(left_out)}."] if left_out else []
    if not rows:
        return Section("Performance profile", ["No arm is in every task, or no task has a target that was reached."])
    dashes = {name: " ".join(map(str, dash)) for name, dash in dashes_of(arms).items() if dash[1]}
    control = Control(
        "arms", "arms", {name: name for name in arms}, multiple=True, colors=colors_of(arms), dashes=dashes
    )
    title = "factor of the fastest arm's steps"
    chart = steps_chart(
        rows, arms, share=True, x_title=title, domain=(1.0, MAX_PROFILE_FACTOR), x_format=".3g", height=260
    )
    description = "Performance profile: share of the tasks reached within a factor of the fastest arm's steps, by arm"
    charts = [page_chart("profile", description, chart)]
    return Section("Performance profile", paragraphs, controls=[control], charts=charts, tables=[table])


def _claims_table(overview: Overview) -> Table:
    """Every claim of every task; one to be first has a row for each rival, like one that was not tested its own."""
    rows = []
    for one in overview.workloads:
        for verdict in one.analysis.verdicts:
            title = claim_title(verdict.claim)
            if verdict.word == NOT_TESTED or verdict.claim.first:
                rows.append([one.name, title, verdict.word, "", ""])
            for headline in verdict.headlines:
                title = claim_title(replace(verdict.claim, baselines=(headline.baseline,)))
                word = "" if verdict.claim.first else verdict.word
                cells = [format_ratio(headline.ratio), format_difference(headline.ending)]
                rows.append([one.name, title, word, *cells])
    header = ["task", "claim", "verdict", "times the steps", "metric at the end, difference"]
    return Table(header, rows, title="Claims by task", left=("claim", "verdict"))


def _setup_section(overview: Overview) -> Section:
    rows: list[Sequence[str]] = []
    for one in overview.workloads:
        plan = one.found.plan
        finished = f"{one.found.finished} of {len(one.found.planned)}"
        training = describe_training(plan, one.analysis.budget)
        rows.append(
            [
                one.name,
                training,
                describe_seeds(plan).partition(" seed")[0],
                finished,
                joint_command(one.found.commands),
            ]
        )
    left = ("training", "command")
    return Section(
        "What was compared", tables=[Table(["task", "training", "seeds", "runs", "command"], rows, left=left)]
    )


def _steps(median: float | None) -> str:
    return "-" if median is None else "not reached" if median == float("inf") else f"{median:.0f}"
