"""The report of a repair: tables for the terminal, a page, and a README.md that is a model card."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from hf_critmom.experiments.repair.figures import class_name, repair_figure
from hf_critmom.experiments.repair.results import Repair
from hf_critmom.experiments.repair.selection import CHOSEN, control_help
from hf_critmom.experiments.repair.sentences import (
    budget_finding,
    control_findings,
    label_findings,
    outcome,
    provenance_findings,
    reading_findings,
)
from hf_critmom.experiments.repair.tables import (
    class_table,
    group_table,
    is_measured,
    label_table,
    scan_table,
    treatment_table,
)
from hf_critmom.reporting.cards import CardResult, card_metadata, render_card
from hf_critmom.reporting.figures import write_figures
from hf_critmom.storage.files import atomic_write, write_json
from hf_critmom.tasks.records import TaskRecord


def write_repair_report(repair: Repair) -> RenderableType:
    """Writes card, page, figure and the list of changed examples beside the repaired model.

    Args:
        repair: The repair.

    Returns:
        The tables, for the terminal.
    """
    plan, verification = repair.plan, repair.verification
    task = plan.task or TaskRecord("network", "data of the caller", {})
    names = task.label_names
    if verification is not None:
        changed = [_with_names(item, names) for item in repair.roles[CHOSEN][0].changed]
        write_json(repair.folder / "changed_examples.json", {"split": "test", "changed": changed})
    write_figures(repair.folder, {"repair.png": repair_figure(repair, names)})
    results = []
    if verification is not None:
        moments = (("after", verification.accuracy_after), ("before", verification.accuracy_before))
        results = [CardResult("accuracy", f"accuracy {when} the repair", value) for when, value in moments]
    data = card_metadata(
        hub_task=task.hub_task,
        dataset=task.name,
        source=task.source,
        metric="accuracy",
        model_name=f"{task.name}, {'repaired' if verification else 'a repair that diverged'}",
        tags=["surgical-fine-tuning"],
        results=results,
    )
    treatments = treatment_table(repair)
    text = render_card(
        "repair.md",
        data,
        repair=repair,
        plan=plan,
        task=task,
        treatments=treatments.markdown(),
        outcome=outcome(repair),
        findings=control_findings(repair),
        budget=budget_finding(repair),
        reading=reading_findings(repair),
        provenance=provenance_findings(repair),
        controls={role: control_help(role) for role in repair.roles if role != CHOSEN},
        scan=scan_table(repair).markdown() if repair.scan else None,
        measured=is_measured(repair),
        groups=group_table(repair).markdown(),
        classes=class_table(repair, names).markdown() if verification and verification.classes else None,
        labels=label_findings(repair.labels) if repair.labels else (),
        doubtful=label_table(repair.labels, names).markdown() if repair.labels and repair.labels.doubtful else None,
        chosen=repair.roles[CHOSEN][0],
        unit=repair.choice.attribution.unit,
    )
    with atomic_write(repair.folder / "README.md") as partial:
        partial.write_text(text, encoding="utf-8")
    from hf_critmom.experiments.repair.page import write_repair_page  # Altair takes a second to import

    write_repair_page(repair)
    shown = [
        outcome(repair),
        *control_findings(repair),
        *reading_findings(repair),
        *(label_findings(repair.labels) if repair.labels else ()),
    ]
    return Group(treatments.rich(), *map(Text, shown))


def _with_names(item: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A changed example with the names of its classes."""
    if not names:
        return item
    return {**item, **{key: class_name(item[key], names) for key in ("label", "before", "after") if key in item}}
