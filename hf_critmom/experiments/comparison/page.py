"""The page of a comparison, ``report.html``: headlines, sections of every budget, what was compared."""

from dataclasses import replace
from pathlib import Path

from hf_critmom.experiments.comparison.descriptions import counted, training_in_words
from hf_critmom.experiments.comparison.findings import Findings
from hf_critmom.experiments.comparison.history import history_in_words
from hf_critmom.experiments.comparison.page_sections import headlines, sections_of
from hf_critmom.reporting.page import Headline, Section, write_page


def write_comparison_page(folder: Path, found: Findings) -> None:
    """Writes ``report.html``, the report to look at.

    Args:
        folder: The comparison's folder.
        found: What the comparison found.
    """
    plan, sections = found.plan, list[Section]()
    said: list[Headline] = []
    for place, of_budget in enumerate(found.budgets):
        said += headlines(of_budget.analysis)
        shown = sections_of(of_budget, found.table)
        # The controls of the first budget set the charts of all.
        sections += shown if place == 0 else [replace(section, controls=()) for section in shown]
    missing = len(plan.runs()) - found.finished
    unfinished = [f"Unfinished: {missing} of {len(plan.runs())} runs are missing; the command continues it."]
    unfinished = unfinished if missing else []
    what = [*(f"{name}: {arm.help}." for name, arm in found.arms.items()), *history_in_words(plan)]
    how = "Made by hf-critmom compare. How it was measured stands in README.md beside this page; the command:"
    budget = found.budgets[0].analysis.budget
    write_page(
        folder,
        title=f"{plan.task.name}: {', '.join(found.arms)}",
        subtitle=f"{training_in_words(plan, budget)}, {counted([len(plan.seeds)], 'seed')}",
        notice=" ".join([*unfinished, *found.caveats]),
        headlines=said,
        sections=[*sections, *_more(found), Section("What was compared", paragraphs=[*what, how], code=plan.command)],
    )


def _more(found: Findings) -> list[Section]:
    """What would probably decide the open claims, if that can be told."""
    more = found.outlook
    return [] if more is None else [Section("What would decide it", paragraphs=[more.sentence], code=more.command)]
