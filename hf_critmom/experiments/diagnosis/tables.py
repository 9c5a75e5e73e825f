"""The tables of attributions, and their findings in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_critmom.attribution.agreement import Agreement, ArmAgreement, ArmDifference, Mean, compare_agreement
from hf_critmom.attribution.problems import Diagnosis
from hf_critmom.attribution.results import Attribution
from hf_critmom.experiments.diagnosis.results import Result
from hf_critmom.experiments.diagnosis.study import Study
from hf_critmom.reporting.tables import Table

_SHOWN_LABELS = 20


def summary_table(results: Sequence[Result]) -> Table:
    """A table of checkpoints, one row each."""
    header = ["checkpoint", "accuracy", "chosen", "largest shares", "problem groups", "same top groups in"]
    rows = []
    for result in results:
        study, diagnosis = result.studies[0], result.studies[0].diagnosis
        same = [display_name(name) for name, same in diagnosis.same_groups.items() if same]
        rows.append(
            [
                result.label,
                "-" if study.attribution.accuracy is None else f"{study.attribution.accuracy:.4f}",
                f"{study.attribution.selected:,}",
                _largest(study, diagnosis),
                _problem(diagnosis),
                ", ".join(same) or ("none" if diagnosis.same_groups else "-"),
            ]
        )
    return Table(header, rows, title="Checkpoints")


def study_table(label: str, study: Study, *, brief: bool = False) -> Table:
    """A study's shares in percent, one row for each layer group; ``brief`` for terminals."""
    diagnosis, named = study.diagnosis, study.attributions
    chosen = study.attribution
    header = ["group", *(display_name(name) if brief else f"{display_name(name)} %" for name in named)]
    if diagnosis.contrast:
        header.append("ratio" if brief else f"{chosen.select} / correct")
    header += ["rel. norm"] if brief else ["relative norm", "parameters"]
    rows = []
    for name, group in chosen.groups.items():
        row = [f"{name}*" if diagnosis.problem and name in diagnosis.problem else name]
        row += [_share(found, name, brief=brief, interval=not brief or found is chosen) for found in named.values()]
        if diagnosis.contrast:
            contrast = diagnosis.contrast[name]
            row.append(_with_interval(contrast.ratio, contrast.interval, "{:.2f}", "-" if brief else ", "))
        row.append("-" if group.relative_norm is None else f"{group.relative_norm:.3g}")
        frozen = f" (and {chosen.frozen[name]:,} frozen)" if name in chosen.frozen else ""
        rows.append([*row, f"{group.parameters:,}{frozen}"][: len(header)])
    for name, size in chosen.frozen.items():
        if name not in chosen.groups:
            blank = [""] * (len(header) - 2 if brief else len(header) - 3)
            rows.append([name, "frozen", *blank, f"{size:,}"][: len(header)])
    return Table(header, rows, title=f"{label}: {study_title(study)}; shares in %")


def severity_table(label: str, studies: Sequence[Study]) -> Table:
    """A table of the severities of a corruption, one row each."""
    header = ["severity", "accuracy", "largest shares", "problem groups"]
    rows = []
    for study in studies:
        accuracy, diagnosis = study.attribution.accuracy, study.diagnosis
        measured = "-" if accuracy is None else f"{accuracy:.4f}"
        rows.append([str(study.severity), measured, _largest(study, diagnosis), _problem(diagnosis)])
    return Table(header, rows, title=f"{label}: {studies[-1].corruption} by severity")


def agreement_table(agreements: Mapping[str, Agreement]) -> Table:
    """Agreement between runs: one row for each pair of arms, for the chosen examples and each control."""
    num_top = next(iter(agreements.values())).num_top
    header = ["runs", "gradients", "pairs", f"of {num_top} top groups shared", "all shared", "rank correlation"]
    rows = []
    for name, found in agreements.items():
        for arms in found.arms:
            who = arms.first if arms.first == arms.second else f"{arms.first} and {arms.second}"
            shared = _mean(arms.overlap)
            correlation = "-" if arms.spearman is None else _mean(arms.spearman)
            rows.append([who, display_name(name), str(arms.pairs), shared, f"{arms.full:.0%}", correlation])
    rows = sorted(rows, key=lambda row: [arm[0] for arm in rows].index(row[0]))
    return Table(header, rows, title="Agreement between runs")


def label_table(result: Result, names: Sequence[str]) -> Table:
    """The most doubtful labels of the misclassified examples."""
    rows = []
    for one in (result.doubtful_labels or ())[:_SHOWN_LABELS]:
        classes = [names[index] if 0 <= index < len(names) else str(index) for index in (one.label, one.predicted)]
        rows.append([str(one.index), *classes, f"{one.probability:.3f}"])
    header = ["example", "label", "predicted", "probability of the label"]
    return Table(header, rows, title=f"{result.label}: doubtful labels")


# ------------------------------------------------------------------------------------------------------------ sentences


def study_findings(result: Result) -> list[str]:
    """The findings of a study, in sentences."""
    study = result.studies[0]
    found = study.diagnosis.findings() if study.attribution.select == "misclassified" else []
    if result.doubtful_labels is not None:
        count = len(result.doubtful_labels)
        who = f"{count:,} misclassified examples have" if count > 1 else f"{count or 'No'} misclassified example has"
        advice = f": check {'those' if count > 1 else 'it'} before blaming layers" if count else ""
        found.append(
            f"{who} a doubtful label by confident learning (cleanlab){advice}. The lower a network's accuracy, the "
            "less reliable these flags are."
        )
    if result.same_weights:
        found.append(same_weights_finding(result.label, result.same_weights))
    return found


def same_weights_finding(label: str, others: Sequence[str]) -> str:
    """That checkpoints have the same weights, of which only one is studied."""
    return f"{', '.join([label, *others[:-1]])} and {others[-1]} have the same weights: only {label} is studied."


def ratios_explained(results: Sequence[Result]) -> str:
    """Of what shares the ratios to those of correctly classified examples are; empty without any."""
    diagnoses = [study.diagnosis for result in results for study in result.studies]
    kinds = {diagnosis.without_noise for diagnosis in diagnoses if diagnosis.contrast}
    if not kinds:
        return ""
    if kinds == {True}:
        return (
            "Ratios are of the shares in the gradients of the populations, estimated without the noise of finitely "
            "many examples that the shares themselves hold; their intervals are from the jackknife, for all groups at "
            "once. Where noise hides a group's gradient, there is no ratio."
        )
    return (
        f"{'Ratios' if len(kinds) == 1 else 'Some ratios'} were measured by an earlier version, on shares that hold "
        "the noise of finitely many examples. It adds more to them where a gradient is small, as on correctly "
        "classified examples: these ratios' intervals do not hold their level, and a group may be named for its noise."
    )


@dataclass(frozen=True)
class AgreementFinding:
    """Whether runs agree more on the chosen examples than on the controls'.

    Attributes:
        word: "agreement", "no evidence" or "cannot be told".
        statement: The finding in short.
        sentence: The finding with its numbers.
    """

    word: str
    statement: str
    sentence: str


def agreement_findings(agreements: Mapping[str, Agreement]) -> list[AgreementFinding]:
    """What the agreement on the chosen examples says beside that of the controls; between arms if there are several.

    Runs agree only if the intervals of their differences to all controls lie above 0. Without an interval, as for too
    few runs, nothing is decided.

    Args:
        agreements: Agreement on the chosen examples, then on each control, by name.
    """
    (name, chosen), *controls = agreements.items()
    several = len(chosen.members) > 1
    if not controls:
        return []
    differences = {control: compare_agreement(chosen, found) for control, found in controls}
    return [
        _agreement_finding(
            name, chosen.num_top, arms, {control: found[place] for control, found in differences.items()}
        )
        for place, arms in enumerate(chosen.arms)
        if not several or arms.first != arms.second
    ]


def _agreement_finding(
    name: str, num_top: int, arms: ArmAgreement, differences: Mapping[str, ArmDifference]
) -> AgreementFinding:
    overlaps = {control: found.overlap for control, found in differences.items()}
    who = "Among the runs" if arms.first == arms.second else f"Between {arms.first} and {arms.second}"
    less = [control for control, mean in overlaps.items() if mean.interval is not None and mean.interval[1] <= 0.0]
    open_ones = [control for control, mean in overlaps.items() if mean.interval is None or mean.interval[0] <= 0.0]
    whose = "the runs' mistakes" if name == "misclassified" else "the runs' largest gradients"
    beyond = f"{whose} lie in the same layers beyond where any gradient of such networks lies"
    if less:
        word, statement = "no evidence", f"{whose} agree no more than their controls do"
        verdict = f"There is no evidence that {beyond}: agreement is no greater than {_gradients(less)}"
    elif open_ones:
        word, statement = "cannot be told", f"whether {whose} agree more than their controls do is not decided"
        verdict = (
            f"Whether {beyond} is not decided: with these runs, agreement cannot be told from that "
            f"{_gradients(open_ones)}"
        )
    else:
        word, statement = "agreement", f"{whose} agree more than their controls do"
        verdict = f"So {beyond}"
    pairs = f"{arms.pairs} pair{'s' if arms.pairs > 1 else ''}"
    sentence = (
        f"{who} ({pairs}), {_mean(arms.overlap)} of {num_top} top groups are shared on {display_name(name)} "
        f"examples, and all {num_top} in {arms.full:.0%} of the pairs; pair by pair, that is "
        f"{_differences(overlaps)}. {verdict}."
    )
    correlations = {control: found.spearman for control, found in differences.items() if found.spearman is not None}
    if arms.spearman is not None and correlations:
        sentence += f" The rank correlation of all shares is {_mean(arms.spearman)}: {_differences(correlations)}."
    return AgreementFinding(word, f"{statement[:1].upper()}{statement[1:]}.", sentence)


def _gradients(controls: Sequence[str]) -> str:
    """Controls by the gradients that they take."""
    named = {"correct": "on correctly classified examples", "initial": "in untrained networks"}
    return " and ".join(named.get(control, f"on {display_name(control)} examples") for control in controls)


def _differences(means: Mapping[str, Mean]) -> str:
    """Differences to controls: "+0.10 (-0.13 to +0.33) relative to the agreement on correctly classified examples"."""
    return " and ".join(
        f"{_with_interval(mean.value, mean.interval, '{:+.2f}', ' to ')} relative to "
        f"{'that' if place else 'the agreement'} {_gradients([control])}"
        for place, (control, mean) in enumerate(means.items())
    )


def agreement_by_chance(agreements: Mapping[str, Agreement]) -> str:
    """The agreement that random choices of groups would have."""
    agreement = next(iter(agreements.values()))
    if agreement.num_top == agreement.groups:
        return (
            f"All {agreement.groups} groups count as top groups, so any two runs share all of them, which says "
            "nothing: choose a smaller --num_top_groups."
        )
    return (
        f"Two random choices of {agreement.num_top} of {agreement.groups} groups share {agreement.expected:.2f} on "
        f"average and agree in full once in {1.0 / agreement.full_by_chance:.0f} times. But networks of one "
        "architecture do not choose at random: what counts is whether misclassified examples agree more than controls."
    )


def study_title(study: Study) -> str:
    """Title of a study: its examples and corruption."""
    attribution = study.attribution
    images = f"{study.corruption} of severity {study.severity}, " if study.severity else ""
    chosen = f"{attribution.selected:,} {display_name(attribution.select)} of {attribution.total:,} {attribution.unit}"
    return f"{images}{chosen}"


def display_name(name: str) -> str:
    """Name of a selection or control in reports."""
    return {"top_loss": "largest loss", "initial": "untrained"}.get(name, name)


def _largest(study: Study, diagnosis: Diagnosis) -> str:
    return ", ".join(f"{name} {study.attribution.groups[name].share:.0%}" for name in diagnosis.top)


def _problem(diagnosis: Diagnosis) -> str:
    return "cannot be told" if diagnosis.problem is None else ", ".join(diagnosis.problem) or "none"


def _share(attribution: Attribution, name: str, *, brief: bool, interval: bool) -> str:
    group = attribution.groups[name]
    ends = group.share_interval if interval else None
    if brief and ends is not None:
        return f"{100.0 * group.share:.1f} ({100.0 * ends[0]:.0f}-{100.0 * ends[1]:.0f})"
    return _with_interval(100.0 * group.share, ends and (100.0 * ends[0], 100.0 * ends[1]), "{:.1f}")


def _mean(mean: Mean) -> str:
    return _with_interval(mean.value, mean.interval, "{:.2f}")


def _with_interval(value: float | None, interval: tuple[float, float] | None, form: str, between: str = ", ") -> str:
    if value is None:
        return "-"
    shown = form.format(value)
    return shown if interval is None else f"{shown} ({form.format(interval[0])}{between}{form.format(interval[1])})"
