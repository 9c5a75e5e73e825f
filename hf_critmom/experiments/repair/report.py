"""The report of a repair: tables for the terminal, and a README.md that is a model card."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from hf_critmom.attribution.doubtful_labels import DoubtfulLabel
from hf_critmom.experiments.repair.figures import class_name, repair_figure
from hf_critmom.experiments.repair.results import DoubtfulLabels, Repair
from hf_critmom.experiments.repair.selection import CHOSEN, control_help
from hf_critmom.reporting.cards import CardResult, card_metadata, render_card
from hf_critmom.reporting.figures import write_figures
from hf_critmom.reporting.intervals import Interval
from hf_critmom.reporting.tables import Table
from hf_critmom.storage.files import atomic_write, write_json
from hf_critmom.tasks.records import TaskRecord

_SHOWN_LABELS = 20


def write_repair_report(repair: Repair) -> RenderableType:
    """Writes card, figure and list of changed examples beside the repaired model.

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
    shown = [outcome(repair), *control_findings(repair), *(label_findings(repair.labels) if repair.labels else ())]
    return Group(treatments.rich(), *map(Text, shown))


# ------------------------------------------------------------------------------------------------------------ sentences


def outcome(repair: Repair) -> str:
    """What the repair did, in two sentences."""
    found = repair.verification
    if found is None:
        treated = repair.roles[CHOSEN][0]
        return (
            f"The treatment with seed {treated.seed} diverged after {treated.steps:,} steps: its loss, weights or "
            "predictions are no longer finite. So there is no repaired model here: try a lower --learning_rate."
        )
    before, after = found.accuracy_before, found.accuracy_after
    if found.pvalue >= 0.05:
        said = "By this test what the repair did cannot be told from chance"
    else:
        said = "The repair helped" if found.net > 0 else "The repair did harm"
    return (
        f"Of {found.items:,} test items, {found.items - found.right_before:,} were wrong: {found.fixed:,} of them were "
        f"fixed, and {found.broken:,} that had been right were broken, net {found.net:+,}; accuracy {before:.4f} "
        f"before, {after:.4f} after. {said} ({found.test}, p = {found.pvalue:.2g})."
    )


def provenance_findings(repair: Repair) -> list[str]:
    """What was checked so that the test split is new to the repaired network, in sentences; nothing else is claimed."""
    overlap, said = repair.plan.overlap, []
    if overlap is not None and overlap.unknown:
        names = " and ".join(overlap.unknown)
        said = [f"Whether splits share examples was not checked, since the content of {names} cannot be compared."]
    elif overlap is not None and overlap.shared:
        pairs = ", ".join(f"{pair} share {count:,}" for pair, count in overlap.shared.items())
        said = [f"The splits were compared by content: {pairs} short blocks of text, which may be chance, and no more."]
    elif overlap is not None:
        said = ["That the training, diagnosis and test splits share no example was checked by content."]
    elif repair.plan.task is not None and repair.plan.task.label_names:  # earlier versions could compare images only
        said = ["That the training, diagnosis and test splits share no image was checked by content when it was made."]
    if repair.plan.trained_on is None:
        where = "this repair" if overlap is None else "the checkpoint"
        said.append(
            f"What the network was trained on before the repair is not recorded with {where}: if it saw test examples "
            "then, these figures say less."
        )
    else:
        said.append("The network had been trained on the same training split, as its fingerprint shows.")
    return said


def control_findings(repair: Repair) -> list[str]:
    """Whether the diagnosis chose better than each control, in a sentence each."""
    found = []
    for role, advantage in repair.advantages().items():
        if advantage.n == 0:
            found.append(f"Against {role} ({control_help(role)}): cannot be told, one of the two always diverged.")
            continue
        seeds = f"{advantage.n} seed{'s' if advantage.n != 1 else ''}"
        interval = "" if advantage.n < 2 else f", 95 % interval {advantage.low:+.1f} to {advantage.high:+.1f}"
        found.append(
            f"Against {role} ({control_help(role)}): {_status(advantage)} with {seeds}; net {advantage.estimate:+.1f} "
            f"items on average{interval}."
        )
    same = [role for role, found_ in repair.roles.items() if role != CHOSEN and repair.is_chosen(found_)]
    return found + [f"Against {role}: it is the same choice of groups." for role in same]


def _status(advantage: Interval) -> str:
    if advantage.n > 1 and advantage.low > 0.0:
        return "the chosen groups were better"
    return "the chosen groups were worse" if advantage.n > 1 and advantage.high < 0.0 else "undecided"


def label_findings(labels: DoubtfulLabels) -> list[str]:
    """How many labels are doubtful, in a sentence."""
    count, accuracy = len(labels.doubtful), 1.0 - labels.misclassified / labels.examples
    has = "has" if count == 1 else "have"
    return [
        f"Of {labels.misclassified:,} misclassified examples of the {labels.split} split, {count:,} {has} a doubtful "
        f"label by confident learning (cleanlab): look at those before the layers are blamed. The network predicts "
        f"{accuracy:.1%} of that split correctly; the less it does, the less its doubts say."
    ]


# --------------------------------------------------------------------------------------------------------------- tables


def treatment_table(repair: Repair) -> Table:
    """The table of treatments: one row per role, mean over its seeds (smallest to largest)."""
    header = ["treated", "groups", "fixed", "broken", "net", "accuracy after", "items/s", "seeds"]
    rows = []
    for role, treatments in repair.roles.items():
        finished = [(one, one.verification) for one in treatments if one.verification]
        found = [verification for _, verification in finished]
        diverged = len(treatments) - len(finished)
        cells = ["-"] * 5
        if finished:
            cells = [
                _spread([one.fixed for one in found]),
                _spread([one.broken for one in found]),
                _spread([one.net for one in found], sign="+"),
                _spread([one.accuracy_after for one in found], digits=4),
                _spread([one.samples_per_second for one, _ in finished]),
            ]
        titles = [one.title for one in treatments]
        seeds = f"{len(treatments)}, {diverged} diverged" if diverged else str(len(treatments))
        rows.append([role, " / ".join(titles if len(set(titles)) > 1 else titles[:1]), *cells, seeds])
    return Table(
        header,
        rows,
        title="Repair, verified on the test split",
        caption="Mean over the seeds (smallest to largest).",
        left=("groups",),
    )


def _spread(values: Sequence[float], *, sign: str = "", digits: int = 0) -> str:
    mean = sum(values) / len(values)
    digits = digits or (0 if float(mean).is_integer() or abs(mean) >= 100 else 1)
    if len(values) == 1:
        return f"{mean:{sign}.{digits}f}"
    ends = 4 if digits == 4 else 0
    return f"{mean:{sign}.{digits}f} ({min(values):{sign}.{ends}f} to {max(values):{sign}.{ends}f})"


def scan_table(repair: Repair) -> Table:
    """Damping of the training that made the network, by epoch: at k = 1, and at the measured curvature if there is."""
    header = ["epoch", "learning rate", "momentum", "damping ratio at k = 1", "regime at k = 1"]
    measured = is_measured(repair)
    header += ["measured top curvature", "measured damping ratio", "measured regime"] if measured else []
    rows = []
    for epoch in repair.scan:
        row = [str(epoch.epoch), f"{epoch.learning_rate:.3g}", f"{epoch.momentum:.3f}"]
        row += [_short(epoch.ratio), epoch.regime]
        row += [_short(epoch.curvature), _short(epoch.measured_ratio), epoch.measured_regime or "-"] if measured else []
        rows.append(row)
    return Table(header, rows, left=("regime at k = 1", "measured regime"))


def is_measured(repair: Repair) -> bool:
    """Whether the curvature was measured while the network was trained."""
    return any(epoch.measured_regime is not None for epoch in repair.scan)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def group_table(repair: Repair) -> Table:
    """What was found of each layer group, and whether it is treated."""
    choice = repair.choice
    header = ["group", "share of the squared gradient", "95 % interval", "relative to parameters"]
    header += ["iKFAD friction"] if choice.friction else []
    rows = []
    for name, group in choice.attribution.groups.items():
        interval = group.share_interval
        row = [name, f"{group.share:.3f}", "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"]
        row.append("-" if group.relative_norm is None else f"{group.relative_norm:.3g}")
        row += [f"{choice.friction.get(name, 0.0):.3g}"] if choice.friction else []
        rows.append([*row, "yes" if name in choice.groups else ""])
    return Table([*header, "treated"], rows, left=("treated",))


def class_table(repair: Repair, names: Sequence[str]) -> Table:
    """What became of each class in the repaired model."""
    rows = []
    for change in repair.verification.classes if repair.verification else ():
        after = change.right_before + change.fixed - change.broken
        accuracies = [f"{change.right_before / change.items:.3f}", f"{after / change.items:.3f}"]
        counts = [str(change.fixed), str(change.broken)]
        rows.append([class_name(change.label, names), str(change.items), *accuracies, *counts])
    return Table(["class", "test examples", "accuracy before", "after", "fixed", "broken"], rows)


def label_table(labels: DoubtfulLabels, names: Sequence[str]) -> Table:
    """The most doubtful labels."""
    return Table(["example", "label", "predicted", "probability of the label"], _label_rows(labels.doubtful, names))


def _label_rows(doubtful: Sequence[DoubtfulLabel], names: Sequence[str]) -> list[list[str]]:
    return [
        [str(one.index), class_name(one.label, names), class_name(one.predicted, names), f"{one.probability:.3f}"]
        for one in doubtful[:_SHOWN_LABELS]
    ]


def _with_names(item: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A changed example with the names of its classes."""
    if not names:
        return item
    return {**item, **{key: class_name(item[key], names) for key in ("label", "before", "after") if key in item}}
