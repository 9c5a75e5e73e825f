"""The page of a comparison, ``report.html``: headlines, sections for every budget, and the setup."""

from dataclasses import replace
from pathlib import Path

from hf_critmom.experiments.comparison.findings.descriptions import (
    describe_seeds,
    describe_training,
    format_counts,
    list_seeds,
)
from hf_critmom.experiments.comparison.findings.findings import Findings
from hf_critmom.experiments.comparison.findings.history import describe_history
from hf_critmom.experiments.comparison.rendering.page_sections import headlines, sections_of, tuning_section
from hf_critmom.reporting.page import Headline, Section, write_page
from hf_critmom.reporting.tables import Table
from hf_critmom.reporting.text import counted

MAX_NAMES = 8
"""Largest number of arms that the title of a page names; otherwise it states their number."""
_CONTINUING = "What continues it"


def write_comparison_page(folder: Path, found: Findings) -> Path:
    """Writes ``report.html``, the interactive report.

    Args:
        folder: The comparison's folder.
        found: The findings of the comparison.

    Returns:
        The file.
    """
    plan, sections = found.plan, list[Section]()
    all_headlines: list[Headline] = []
    for place, one in enumerate(found.budgets):
        all_headlines += headlines(one.analysis)
        shown = sections_of(one, found.table, share=1.0 / len(found.budgets))
        # The controls of the first budget set the charts of all budgets.
        sections += shown if place == 0 else [replace(section, controls=()) for section in shown]
    if (tuning := tuning_section(found)) is not None:
        sections.append(tuning)
    rows = [[name, f"{arm.help}."] for name, arm in found.arms.items()]
    arms_table = Table(["arm", "what it is"], rows, left=("what it is",))
    setup = Section(
        "What was compared, and how",
        describe_history(plan),
        tables=[arms_table, _setup(found)],
        code="\n".join(found.commands),
    )
    budget = found.budgets[0].analysis.budget
    arms = ", ".join(found.arms) if len(found.arms) <= MAX_NAMES else f"{len(found.arms)} arms"
    return write_page(
        folder,
        title=f"{plan.task.name}: {arms}",
        subtitle=f"{describe_training(plan, budget)}, {describe_seeds(plan)}",
        notice=" ".join(filter(None, [describe_missing(found), *found.caveats])),
        headlines=all_headlines,
        sections=[*sections, *_next_commands(found), setup],
    )


def _next_commands(found: Findings) -> list[Section]:
    """The command that makes the missing runs, if it is not the plan's, and the one that would decide open claims."""
    sections = []
    if describe_missing(found) and [found.continuing_command] != found.commands:
        sections.append(Section(_CONTINUING, code=found.continuing_command))
    if (outlook := found.outlook) is not None:
        sections.append(Section("What would decide it", paragraphs=[outlook.sentence], code=outlook.command))
    return sections


def describe_missing(found: Findings) -> str:
    """A sentence on the missing runs of an unfinished comparison, by arm; empty for a finished one."""
    if not found.unfinished:
        return ""
    missing: dict[str, list[int]] = {}
    for run in found.missing:
        name = run.arm if run.epochs is None else f"{run.arm} ({run.epochs:g} epochs)"
        missing.setdefault(name, []).append(run.seed)
    parts = [f"{name} with {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
             for name, seeds in missing.items()]  # fmt: skip
    parts += [counted(found.missing_trials, "tuning trial")] if found.missing_trials else []
    where = "at the end of this page" if [found.continuing_command] == found.commands else f'under "{_CONTINUING}"'
    return (
        f"Unfinished: {found.unfinished} are finished. Missing: {'; '.join(parts)}. The command {where} continues it."
    )


def _setup(found: Findings) -> Table:
    """The table of data, targets, seeds, model, training, hardware and versions."""
    plan, task = found.plan, found.plan.task
    runs = found.results.runs.values()
    analyses = [one.analysis for one in found.budgets]
    ends = "The test split was read once per run, at its end."
    if analyses[0].ended_on != "test":
        ends = "The values at the end are of the same split, because there is no other."
    paired = "with the same seed, every arm starts from the same weights and sees the same data in the same order"
    if not all(analysis.paired for analysis in analyses):
        paired = "not paired: with the same seed, arms start from other weights or see other data"
    splits = ", ".join(f"{split.examples:,} {name}" for name, split in task.splits.items())
    evaluations = format_counts([len(run.evaluations) for run in runs], "evaluation")
    versions = [f"{name} {version}" for name, version in plan.versions.items() if name != "hardware"]
    rows = [
        ["data", " ".join([f"{task.source}; {splits} examples.", *task.notes])],
        ["targets", f"{', '.join(f'{target:.4g}' for target in plan.targets)} of the validation {task.metric}, fixed "
                    f"before the first run; {evaluations} per run. {ends}"],
        ["seeds", f"{list_seeds(plan)}; {paired}."],
        ["model", ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
                            for name, value in plan.model.items() if value is not None)],
        ["training", ", ".join(f"{name}={value}" for name, value in plan.training.items())],
        ["hardware", "; ".join(sorted({run.versions["hardware"] for run in runs}))],
        ["versions", ", ".join(versions)],
    ]  # fmt: skip
    return Table(["what", "how it was measured"], rows, left=("how it was measured",))
