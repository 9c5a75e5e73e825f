"""The page of a repair, ``report.html``: its outcome beside the controls, by treatment and by class."""

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from hf_critmom.experiments.repair.figures import BROKEN, FIXED, NET, class_name
from hf_critmom.experiments.repair.results import Repair
from hf_critmom.experiments.repair.selection import CHOSEN, control_help
from hf_critmom.experiments.repair.sentences import (
    budget_finding,
    control_findings,
    label_findings,
    outcome,
    outcome_word,
    provenance_findings,
    reading_findings,
)
from hf_critmom.experiments.repair.tables import class_table, group_table, label_table, scan_table, treatment_table
from hf_critmom.reporting.page import Chart, Control, Headline, Section, write_page
from hf_critmom.reporting.tables import Table
from hf_critmom.tasks.records import TaskRecord

_TONES = {"helped": "good", "did harm": "bad", "diverged": "bad", "better": "good", "worse": "bad"}


def write_repair_page(repair: Repair) -> Path:
    """Writes ``report.html`` beside the repaired model."""
    plan, found = repair.plan, repair.verification
    task = plan.task or TaskRecord("network", "data of the caller", {})
    names = task.label_names
    sections = [_treatments_section(repair)]
    if found is not None and found.classes:
        sections.append(_classes_section(repair, names))
    sections.append(Section("Which layers, and why", [repair.choice.reason], tables=[group_table(repair)]))
    if repair.scan:
        said = [
            "The ratios are those of SGD with momentum: they say nothing of a network that was trained by an optimizer "
            "that scales each parameter, as Adam does."
        ]
        sections.append(Section("Damping during the network's training", said, tables=[scan_table(repair)]))
    if repair.labels and repair.labels.doubtful:
        labels = label_table(repair.labels, names)
        sections.append(Section("Doubtful labels", label_findings(repair.labels), tables=[labels]))
    sections.append(_setup_section(repair, task))
    return write_page(
        repair.folder,
        title=f"{task.name}: repair of {', '.join(repair.choice.groups)}",
        subtitle="Only these layer groups were retrained; verified on the test split, which neither diagnosis nor "
        "treatment saw",
        headlines=_headlines(repair),
        sections=sections,
    )


def _headlines(repair: Repair) -> list[Headline]:
    word = outcome_word(repair)
    statement = {
        "helped": "The repair helped.",
        "did harm": "The repair did harm.",
        "diverged": "The treatment diverged: there is no repaired model.",
    }.get(word, "The effect of the repair cannot be told from chance.")
    said = [Headline(word, _TONES.get(word, "open"), statement, outcome(repair))]
    findings = control_findings(repair)
    for finding, (role, advantage) in zip(findings, repair.advantages().items(), strict=False):
        status = advantage.status
        shown = {
            "better": f"The diagnosis chose better than {role}.",
            "worse": f"The diagnosis chose worse than {role}.",
        }
        said.append(
            Headline(status, _TONES.get(status, "open"), shown.get(status, f"Undecided against {role}."), finding)
        )
    return said


def _treatments_section(repair: Repair) -> Section:
    """Fixed and broken items of every treatment, and their net on its own axis."""
    rows = [
        {"role": role, "seed": str(one.seed), "fixed": one.verification.fixed, "broken": one.verification.broken,
         "net": one.verification.net}
        for role, treatments in repair.roles.items() for one in treatments if one.verification
    ]  # fmt: skip
    table = treatment_table(repair)
    others = control_findings(repair)[len(repair.advantages()) :]  # which have no headline
    said = [*reading_findings(repair), *others]
    if not rows:
        return Section("Fixed and broken", said, tables=[table])
    roles, frame = list(repair.roles), pd.DataFrame(rows)
    y = alt.Y("role:N").title(None).sort(roles).axis(labelLimit=150)
    seeds = list(dict.fromkeys(frame["seed"]))
    controls = [Control("seeds", "seeds", {seed: seed for seed in seeds}, multiple=True)] if len(seeds) > 1 else []
    chosen = alt.Chart(frame).transform_filter("indexof(seeds, datum.seed) >= 0")
    height, parameter = 36 * len(roles), alt.param(name="seeds", value=seeds)
    both = (
        chosen.transform_fold(["fixed", "broken"], as_=["kind", "items"])
        .transform_aggregate(items="mean(items)", groupby=["role", "kind"])
        .transform_calculate(signed="datum.kind == 'fixed' ? datum.items : -datum.items")
    )
    scale = alt.Scale(domain=["fixed", "broken"], range=[FIXED, BROKEN])
    bars = both.mark_bar(height=16).encode(
        y,
        alt.X("signed:Q").title("test items: broken to the left, fixed to the right").axis(tickCount=6),
        alt.Color("kind:N", scale=scale).legend(None),
        tooltip=["role:N", "kind:N", alt.Tooltip("items:Q", format=".1f", title="items, mean over seeds")],
    )
    left = bars.properties(width="container", height=height).add_params(parameter)
    x = alt.X("net:Q").title("net: fixed minus broken").axis(tickCount=6)
    dots = chosen.mark_point(size=45).encode(y, x, tooltip=["role:N", "seed:N", "net:Q"])
    mean = (
        chosen.transform_aggregate(net="mean(net)", groupby=["role"])
        .mark_point(shape="diamond", filled=True, size=120, opacity=1)
        .encode(y, x, tooltip=["role:N", alt.Tooltip("net:Q", format="+.1f", title="net, mean over seeds")])
    )
    zero = alt.Chart(pd.DataFrame({"net": [0.0]})).mark_rule(strokeDash=[4, 3]).encode(x)
    net = alt.layer(zero, dots.encode(color=alt.value(NET)), mean.encode(color=alt.value(NET)))
    net = net.properties(width="container", height=height).add_params(parameter)
    charts = [
        Chart("fixed-broken", "Items fixed and broken, by what was retrained: mean over the seeds", left.to_dict(),
              "Fixed and broken"),
        Chart("net", "Items fixed minus broken, by what was retrained: every seed, and the mean as a diamond",
              net.to_dict(), "Net"),
    ]  # fmt: skip
    return Section("Fixed and broken", said, controls=controls, charts=charts, tables=[table])


def _classes_section(repair: Repair, names: tuple[str, ...]) -> Section:
    """Accuracy of every class before and after the repair."""
    rows = []
    for change in repair.verification.classes if repair.verification else ():
        after = (change.right_before + change.fixed - change.broken) / change.items
        name = class_name(change.label, names)
        rows.append({"class": name, "before": change.right_before / change.items, "after": after})
    order = [str(row["class"]) for row in rows]
    tooltip: list[Any] = ["class:N", *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("before", "after"))]
    base = alt.Chart(pd.DataFrame(rows)).encode(
        alt.Y("class:N").title(None).sort(order).axis(labelLimit=150), tooltip=tooltip
    )
    color = alt.condition("datum.after >= datum.before", alt.value(FIXED), alt.value(BROKEN))

    def at(name: str) -> alt.X:
        return alt.X(f"{name}:Q").title("test accuracy: ring before, dot after").scale(zero=False).axis(tickCount=6)

    chart = alt.layer(
        base.mark_rule(strokeWidth=2).encode(at("before"), alt.X2("after:Q"), color=color),
        base.mark_point(size=50).encode(at("before"), color=color),
        base.mark_point(filled=True, size=70, opacity=1).encode(at("after"), color=color),
    ).properties(width="container", height=22 * len(rows))
    description = "Test accuracy of every class before the repair (ring) and after it (dot)"
    return Section("Classes", charts=[Chart("classes", description, chart.to_dict())],
                   tables=[class_table(repair, names)])  # fmt: skip


def _setup_section(repair: Repair, task: TaskRecord) -> Section:
    plan = repair.plan
    splits = ", ".join(f"{split.examples:,} {name}" for name, split in task.splits.items())
    treated = [[role, "the diagnosis" if role == CHOSEN else f"{control_help(role)}."] for role in repair.roles]
    rows = [
        ["data", " ".join([f"{task.source}; {splits} examples.", *task.notes])],
        ["new to the network", " ".join(provenance_findings(repair))],
        ["budget", budget_finding(repair)],
        ["parameters retrained", f"{repair.cost.parameter_share:.1%} of all, "
                                 f"{repair.cost.time_share:.0%} of the time of a pass through the whole network"],
        ["optimizer", ", ".join(str(part) for part in (plan.optimizer.optim, plan.optimizer.optim_args) if part)],
        ["training", ", ".join(f"{name}={value}" for name, value in plan.training.items())],
        ["versions", ", ".join(f"{name} {version}" for name, version in plan.versions.items())],
    ]  # fmt: skip
    what = Table(["treated", "what it is"], treated, left=("what it is",))
    how = Table(["what", "how it was measured"], rows, left=("how it was measured",))
    return Section("What was compared, and how", tables=[what, how], code=plan.command)
