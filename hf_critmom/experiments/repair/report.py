"""The report of a repair: tables for the terminal, and a README.md that is a model card."""

import json
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hf_critmom.experiments.repair.runner import CHOSEN, CONTROLS, PLAN_FILE, Repair
from hf_critmom.experiments.repair.verification import Verification
from hf_critmom.reporting.intervals import Interval
from hf_critmom.reporting.templates import render
from hf_critmom.storage.files import atomic_write, write_json

FIXED, BROKEN, NEUTRAL = "#0072B2", "#D55E00", "0.45"
"""Colours of Okabe and Ito (2008)."""


def write_report(
    repair: Repair,
    *,
    label_names: Sequence[str] = (),
    hub_task: str = "image-classification",
    metric: str = "accuracy",
    training_seconds: float | None = None,
) -> RenderableType:
    """Writes card, figure and list of changed examples beside the repaired model.

    Args:
        repair: The repair.
        label_names: Names of the classes, by index.
        hub_task: The Hub's name of the task.
        metric: Name of the share of items that are right.
        training_seconds: What training the whole network took, where that is known.

    Returns:
        The tables, for the terminal.
    """
    plan = json.loads((repair.folder / PLAN_FILE).read_text(encoding="utf-8"))
    changed = [_named(item, label_names) for item in repair.roles[CHOSEN][0].changed]
    write_json(repair.folder / "changed_examples.json", {"split": "test", "changed": changed})
    (repair.folder / "figures").mkdir(exist_ok=True)
    with atomic_write(repair.folder / "figures" / "repair.png") as partial:
        repair_figure(repair, label_names).savefig(partial, dpi=120)
    header, rows = role_rows(repair)
    verification = repair.verification
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=hub_task,
        tags=["hf-critmom", "surgical-fine-tuning"],
        metrics=[metric],
        model_name=f"{plan['task']['name']}, repaired",
        eval_results=[
            EvalResult(
                task_type=hub_task,
                dataset_type=plan["task"]["name"],
                dataset_name=plan["task"]["source"],
                dataset_split="test",
                metric_type=metric,
                metric_name=f"{metric} {when}",
                metric_value=round(value, 6),
            )
            for when, value in (
                ("after the repair", verification.accuracy_after),
                ("before the repair", verification.accuracy_before),
            )
        ],
    )
    text = render(
        "repair.md",
        front_matter=data.to_yaml(),
        repair=repair,
        plan=plan,
        header=header,
        rows=rows,
        outcome=outcome(verification),
        findings=control_findings(repair),
        controls=CONTROLS,
        classes=[_class_row(change, label_names) for change in verification.classes],
        seconds=repair.roles[CHOSEN][0].seconds,
        training_seconds=training_seconds,
        unit="tokens" if not verification.classes else "examples",
    )
    with atomic_write(repair.folder / "README.md") as partial:
        partial.write_text(text, encoding="utf-8")
    return Group(_terminal_table(header, rows), Text(outcome(verification)), *map(Text, control_findings(repair)))


def outcome(found: Verification) -> str:
    """What the repair did, in two sentences."""
    before, after = found.accuracy_before, found.accuracy_after
    if found.pvalue >= 0.05:
        said = "By this test the repair changed nothing but chance"
    else:
        said = "The repair helped" if found.net > 0 else "The repair did harm"
    return (
        f"Of {found.items:,} test items, {found.items - found.right_before:,} were wrong: {found.fixed:,} of them were "
        f"fixed, and {found.broken:,} that had been right were broken, net {found.net:+,}; accuracy {before:.4f} "
        f"before, {after:.4f} after. {said} ({found.test}, p = {found.pvalue:.2g})."
    )


def control_findings(repair: Repair) -> list[str]:
    """Whether the diagnosis chose better than each control, in a sentence each."""
    found = []
    for role, advantage in repair.advantages().items():
        status = _status(advantage)
        seeds = f"{advantage.n} seed{'s' if advantage.n != 1 else ''}"
        interval = "" if advantage.n < 2 else f", 95 % interval {advantage.low:+.1f} to {advantage.high:+.1f}"
        found.append(
            f"Against {role} ({CONTROLS[role]}): {status} with {seeds}; net {advantage.estimate:+.1f} items on "
            f"average{interval}."
        )
    same = [
        role
        for role, treatments in repair.roles.items()
        if role != CHOSEN and {one.groups for one in treatments} == {repair.choice.groups}
    ]
    return found + [f"Against {role}: it is the same choice of groups." for role in same]


def _status(advantage: Interval) -> str:
    if advantage.n > 1 and advantage.low > 0.0:
        return "the chosen groups were better"
    return "the chosen groups were worse" if advantage.n > 1 and advantage.high < 0.0 else "undecided"


def role_rows(repair: Repair) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of treatments: one row per role, mean over its seeds (smallest to largest)."""
    header = ["treated", "groups", "fixed", "broken", "net", "accuracy after", "items/s", "seeds"]
    rows = []
    for role, treatments in repair.roles.items():
        groups = {"+".join(one.groups) for one in treatments}
        found = [one.verification for one in treatments]
        rows.append(
            [
                role,
                " / ".join("+".join(one.groups) for one in treatments) if len(groups) > 1 else groups.pop(),
                _spread([one.fixed for one in found]),
                _spread([one.broken for one in found]),
                _spread([one.net for one in found], sign="+"),
                _spread([one.accuracy_after for one in found], digits=4),
                _spread([one.samples_per_second for one in treatments]),
                str(len(treatments)),
            ]
        )
    return header, rows


def _spread(values: Sequence[float], *, sign: str = "", digits: int = 0) -> str:
    mean = sum(values) / len(values)
    digits = digits or (0 if float(mean).is_integer() or abs(mean) >= 100 else 1)
    if len(values) == 1:
        return f"{mean:{sign}.{digits}f}"
    ends = 4 if digits == 4 else 0
    return f"{mean:{sign}.{digits}f} ({min(values):{sign}.{ends}f} to {max(values):{sign}.{ends}f})"


def _terminal_table(header: list[str], rows: list[list[str]]) -> Table:
    table = Table(title="Repair, verified on the test split", caption="Mean over the seeds (smallest to largest).")
    for name in header:
        table.add_column(name, justify="left" if name in ("treated", "groups") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def repair_figure(repair: Repair, label_names: Sequence[str] = ()) -> Figure:
    """Fixed and broken items of every treatment, and accuracy by class before and after the repair.

    How to read it: above, a bar to the right is what a treatment fixed, to the left what it broke, mean over the seeds;
    the diamond is the net, a dot each seed's. Below, an arrow goes from a class's accuracy before to that after.

    Args:
        repair: The repair.
        label_names: Names of the classes, by index.
    """
    classes = repair.verification.classes[:20]
    heights = (
        [0.6 + 0.42 * len(repair.roles), 0.6 + 0.24 * len(classes)] if classes else [0.6 + 0.42 * len(repair.roles)]
    )
    figure = Figure(figsize=(7.2, sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    upper = panels[0]
    for place, treatments in enumerate(repair.roles.values()):
        found = [one.verification for one in treatments]
        upper.barh(place, _mean([one.fixed for one in found]), color=FIXED, label="fixed" if place == 0 else None)
        upper.barh(place, -_mean([one.broken for one in found]), color=BROKEN, label="broken" if place == 0 else None)
        mean = [_mean([one.net for one in found])]
        upper.plot(mean, [place], "D", color="black", markersize=6, zorder=2, label="net" if place == 0 else None)
        dots = {"color": "white", "markeredgecolor": "black", "markersize": 3.5, "markeredgewidth": 0.6, "zorder": 3}
        upper.plot([one.net for one in found], [place] * len(found), "o", **dots)
    upper.axvline(0.0, color=NEUTRAL, linewidth=0.9)
    upper.set_yticks(range(len(repair.roles)), list(repair.roles))
    upper.invert_yaxis()
    upper.set(xlabel="test items", title="Fixed and broken, by what was retrained")
    figure.legend(frameon=False, ncols=3, fontsize=9, loc="outside lower center")
    if classes:
        lower = panels[1]
        for place, change in enumerate(classes):
            before = change.right_before / change.items
            after = (change.right_before + change.fixed - change.broken) / change.items
            color = FIXED if after > before else BROKEN if after < before else NEUTRAL
            lower.annotate(
                "", (after, place), (before, place), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.6}
            )
            lower.plot([before], [place], "|", color=NEUTRAL, markersize=9)
            lower.plot([after], [place], " ")  # annotations do not widen the axes
        lower.set_yticks(range(len(classes)), [_label(change.label, label_names) for change in classes])
        lower.invert_yaxis()
        lower.set(xlabel="test accuracy, before to after", title="Classes in the repaired model")
        lower.grid(alpha=0.25, axis="x")
        lower.margins(x=0.08)
    return figure


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _label(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def _named(item: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return item
    return {**item, **{key: _label(item[key], names) for key in ("label", "before", "after")}}


def _class_row(change: Any, names: Sequence[str]) -> list[str]:
    after = change.right_before + change.fixed - change.broken
    return [
        _label(change.label, names),
        f"{change.items}",
        f"{change.right_before / change.items:.3f}",
        f"{after / change.items:.3f}",
        f"{change.fixed}",
        f"{change.broken}",
    ]
