"""The tables of a repair's report."""

from collections.abc import Sequence

from hf_critmom.attribution.doubtful_labels import DoubtfulLabel
from hf_critmom.experiments.repair.figures import class_name
from hf_critmom.experiments.repair.results import DoubtfulLabels, Repair, Treatment
from hf_critmom.reporting.tables import Table

_SHOWN_LABELS = 20


def treatment_table(repair: Repair) -> Table:
    """The table of treatments: one row per role, with the mean over its seeds (smallest to largest)."""
    header = ["treated", "groups", "parameters", "fixed", "broken", "net", "accuracy after", "items/s", "seeds"]
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
        title = " / ".join(titles if len(set(titles)) > 1 else titles[:1])
        rows.append([role, title, num_trained(repair, treatments), *cells, seeds])
    return Table(
        header,
        rows,
        title="Repair, verified on the test split",
        caption="Mean over the seeds (smallest to largest).",
        left=("groups",),
    )


def num_trained(repair: Repair, treatments: Sequence[Treatment]) -> str:
    """The number of parameters that treatments of one role train: "690,368" or, if it differs, "84 to 2,570"."""
    counts = [repair.num_trained(one) for one in treatments]
    return f"{min(counts):,}" if len({*counts}) == 1 else f"{min(counts):,} to {max(counts):,}"


def _spread(values: Sequence[float], *, sign: str = "", digits: int = 0) -> str:
    mean = sum(values) / len(values)
    digits = digits or (0 if float(mean).is_integer() or abs(mean) >= 100 else 1)
    if len(values) == 1:
        return f"{mean:{sign}.{digits}f}"
    ends = 4 if digits == 4 else 0
    return f"{mean:{sign}.{digits}f} ({min(values):{sign}.{ends}f} to {max(values):{sign}.{ends}f})"


def scan_table(repair: Repair) -> Table:
    """Damping of the network's training by epoch: at k = 1 and, if it was measured, at the measured curvature."""
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
    """The attribution of each layer group, and whether the group is treated."""
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
    """Accuracy of each class before and after the repair, and its fixed and broken examples."""
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
