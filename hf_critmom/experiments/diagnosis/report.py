"""The report of attributions: tables for the terminal, figures, and a section for a model card."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hf_critmom.attribution.agreement import Agreement, Mean
from hf_critmom.attribution.problems import Diagnosis
from hf_critmom.attribution.results import Attribution
from hf_critmom.experiments.diagnosis.figures import heat_map, shares_figure
from hf_critmom.experiments.diagnosis.runner import Result, agreements_of, read_results
from hf_critmom.experiments.diagnosis.study import Study
from hf_critmom.reporting.templates import render

FIGURES_FOLDER = "figures"


def write_attribution_report(folder: Path) -> list[Table | str]:
    """Builds the figures and ``README.md``, a section for a model card, from ``attribution.json``.

    Args:
        folder: What `run_attribution` returned.

    Returns:
        Tables and sentences for the terminal.

    Raises:
        DiagnosisError: If the folder holds no attribution.
    """
    content, results = read_results(folder)
    settings = content["settings"]
    (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
    figures = {result.label: _write_figures(folder / FIGURES_FOLDER, result) for result in results}
    agreements = agreements_of(results, settings["num_top_groups"])
    if agreements:
        _write_comparison(folder / FIGURES_FOLDER, results)
    section = _section(content, results, figures, agreements)
    (folder / "README.md").write_text(section, encoding="utf-8")
    shown: list[Table | str] = []
    if len(results) == 1:
        shown += [study_table(results[0].label, results[0].studies[0]), *_study_findings(results[0].studies[0])]
    else:
        shown.append(_table("Checkpoints", *summary_rows(results)))
        shown += [agreement_table(agreements), _by_chance(agreements), *_findings(agreements)]
    return shown + [severity_table(result.label, result.studies) for result in results if len(result.studies) > 1]


# --------------------------------------------------------------------------------------------------------------- tables


def summary_rows(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several checkpoints."""
    header = ["checkpoint", "accuracy", "chosen", "largest shares", "problem groups", "same groups named by"]
    rows = []
    for result in results:
        study, diagnosis = result.studies[0], result.studies[0].diagnosis
        same = [_words(name) for name, same in diagnosis.same_groups.items() if same]
        rows.append(
            [
                result.label,
                "-" if study.attribution.accuracy is None else f"{study.attribution.accuracy:.4f}",
                f"{study.attribution.selected:,}",
                _largest(study, diagnosis),
                _problem(diagnosis),
                ", ".join(same) or ("none" if diagnosis.controls else "-"),
            ]
        )
    return header, rows


def study_rows(study: Study, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of one study: a row for each layer group, shares in percent; brief for terminals."""
    diagnosis, named = study.diagnosis, study.attributions
    chosen = study.attribution
    header = ["group", *(_words(name) if brief else f"{_words(name)} %" for name in named)]
    if diagnosis.contrast:
        header.append("quotient" if brief else f"{chosen.select} / correct")
    header += ["rel. norm"] if brief else ["relative norm", "parameters"]
    rows = []
    for name, group in chosen.groups.items():
        row = [f"{name}*" if diagnosis.problem and name in diagnosis.problem else name]
        row += [_share(found, name, brief=brief, interval=not brief or found is chosen) for found in named.values()]
        if diagnosis.contrast:
            quotient = diagnosis.contrast[name]
            row.append(_with_interval(quotient.ratio, quotient.interval, "{:.2f}", "-" if brief else ", "))
        row.append("-" if group.relative_norm is None else f"{group.relative_norm:.3g}")
        frozen = f" (and {chosen.frozen[name]:,} frozen)" if name in chosen.frozen else ""
        rows.append([*row, f"{group.parameters:,}{frozen}"][: len(header)])
    for name, size in chosen.frozen.items():
        if name not in chosen.groups:
            blank = [""] * (len(header) - 2 if brief else len(header) - 3)
            rows.append([name, "frozen", *blank, f"{size:,}"][: len(header)])
    return header, rows


def study_table(label: str, study: Study) -> Table:
    """The table of one study, for the terminal."""
    return _table(f"{label}: {_what(study)}; shares in %", *study_rows(study, brief=True))


def severity_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several severities."""
    header = ["severity", "accuracy", "largest shares", "problem groups"]
    rows = []
    for study in studies:
        accuracy, diagnosis = study.attribution.accuracy, study.diagnosis
        measured = "-" if accuracy is None else f"{accuracy:.4f}"
        rows.append([str(study.severity), measured, _largest(study, diagnosis), _problem(diagnosis)])
    return header, rows


def severity_table(label: str, studies: Sequence[Study]) -> Table:
    """The table of several severities, for the terminal."""
    return _table(f"{label}: {studies[-1].corruption} by severity", *severity_rows(studies))


def agreement_rows(agreements: Mapping[str, Agreement]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of agreement: one for each two arms, on the examples and on each control."""
    num_top = next(iter(agreements.values())).num_top
    header = ["runs", "gradients", "pairs", f"of {num_top} top groups shared", "all shared", "rank correlation"]
    rows = []
    for name, found in agreements.items():
        for arms in found.arms:
            who = arms.first if arms.first == arms.second else f"{arms.first} and {arms.second}"
            shared = _mean(arms.overlap)
            correlation = "-" if arms.spearman is None else _mean(arms.spearman)
            rows.append([who, _words(name), str(arms.pairs), shared, f"{arms.full:.0%}", correlation])
    return header, sorted(rows, key=lambda row: [arm[0] for arm in rows].index(row[0]))


def agreement_table(agreements: Mapping[str, Agreement]) -> Table:
    """The table of agreement, for the terminal."""
    return _table("Agreement between runs", *agreement_rows(agreements))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(cells) for cells in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


# -------------------------------------------------------------------------------------------------------------- figures


def _write_figures(folder: Path, result: Result) -> list[tuple[str, str]]:
    """Draws one checkpoint's figures; returns what they show, and their files."""
    first, slug = result.studies[0], re.sub(r"[^A-Za-z0-9.]+", "-", result.label).strip("-")
    drawn = {
        f"shares-{slug}.png": (
            "Shares of the layer groups with their intervals",
            shares_figure(
                {_words(name): found for name, found in first.attributions.items()},
                title=f"{result.label}: {_what(first)}",
            ),
        )
    }
    if first.classes:
        drawn[f"classes-{slug}.png"] = (
            "Shares of the layer groups by class",
            heat_map(
                [f"{name} ({found.selected})" for name, found in first.classes.items()],
                [found.shares for found in first.classes.values()],
                title=f"{result.label}: misclassified examples of each class",
                label="class (misclassified examples)",
                top=[found.ranked()[: first.num_top] for found in first.classes.values()],
            ),
        )
    if len(result.studies) > 1:
        diagnoses = [study.diagnosis for study in result.studies]
        drawn[f"severity-{slug}.png"] = (
            f"Shares and problem groups by severity of {result.studies[-1].corruption}",
            heat_map(
                [f"{study.severity}" if study.severity else "clean" for study in result.studies],
                [study.attribution.shares for study in result.studies],
                title=f"{result.label}: {result.studies[-1].corruption}",
                label="severity",
                top=[diagnosis.top for diagnosis in diagnoses],
                problem=[diagnosis.problem or () for diagnosis in diagnoses],
            ),
        )
    if len(result.history) > 1:
        epochs = [Attribution.from_dict(_without_place(entry)) for entry in result.history]
        drawn[f"epochs-{slug}.png"] = (
            "Shares of the layer groups over training",
            heat_map(
                [f"{entry['epoch'] or 0.0:.3g}" for entry in result.history],
                [found.shares for found in epochs],
                title=f"{result.label}: evaluations while training",
                label="epoch",
                top=[found.ranked()[: first.num_top] for found in epochs],
            ),
        )
    for name, (_, figure) in drawn.items():
        figure.savefig(folder / name, dpi=120)
    return [(text, name) for name, (text, _) in drawn.items()]


def _write_comparison(folder: Path, results: Sequence[Result]) -> None:
    studies = [result.studies[0] for result in results]
    figure = heat_map(
        [result.label for result in results],
        [study.attribution.shares for study in studies],
        title=f"Gradient of {_words(studies[0].attribution.select)} examples, by checkpoint",
        label="checkpoint",
        top=[study.diagnosis.top for study in studies],
        problem=[study.diagnosis.problem or () for study in studies],
    )
    figure.savefig(folder / "checkpoints.png", dpi=120)


def _without_place(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("step", "epoch", "prefix")}


# -------------------------------------------------------------------------------------------------------------- section


def _section(
    content: Mapping[str, Any],
    results: Sequence[Result],
    figures: Mapping[str, list[tuple[str, str]]],
    agreements: Mapping[str, Agreement],
) -> str:
    settings = content["settings"]
    task, first = settings["task"], results[0].studies[0]
    studies: list[dict[str, Any]] = []
    for result in results:
        studies.append(
            {
                "title": f"{result.label}: {_what(result.studies[0])}",
                "table": _markdown(*study_rows(result.studies[0])),
                "findings": _study_findings(result.studies[0]),
                "by_severity": _markdown(*severity_rows(result.studies)) if len(result.studies) > 1 else None,
                "figures": figures[result.label],
            }
        )
    agreed = None
    if agreements:
        agreed = {
            "sentence": _by_chance(agreements),
            "table": _markdown(*agreement_rows(agreements)),
            "findings": _findings(agreements),
        }
    summary = None
    if len(results) > 1:
        summary = _markdown(*summary_rows(results))
    seeds = sorted({result.seed or 0 for result in results})
    return render(
        "attribution.md",
        summary=summary,
        intro=f"Gradients of the loss by layer group on {task['name']}, {len(results)} "
        f"checkpoint{'s' if len(results) > 1 else ''}. Made by `hf-critmom attribute`.",
        studies=studies,
        agreement=agreed,
        unit=first.attribution.unit,
        confidence=f"{first.attribution.confidence:.0%}",
        num_top=settings["num_top_groups"],
        dtype=settings.get("dtype"),
        initial="" if first.initial is None else f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
        corrupted=settings["corruption"] is not None,
        source=task["source"],
        split=f"{settings['split']} ({task['splits'][settings['split']]['examples']:,} examples)",
        notes=task["notes"],
        versions=content["versions"],
        command=content["command"],
    )


def _findings(agreements: Mapping[str, Agreement]) -> list[str]:
    """What the agreement of misclassified examples says beside that of the controls."""
    shared = {name: sum(pair.overlap for pair in found.pairs) / len(found.pairs) for name, found in agreements.items()}
    (chosen, ours), *controls = shared.items()
    if not controls:
        return []
    said = ", ".join(f"{theirs:.2f} ({_words(name)})" for name, theirs in controls)
    if ours > max(theirs for _, theirs in controls):
        verdict = "more than the controls: the runs agree on more than where such networks have their gradient"
    else:
        verdict = "no more than the controls, so it is no evidence that the runs' mistakes lie in the same layers"
    return [
        f"Over all pairs of runs, {ours:.2f} of {agreements[chosen].num_top} top groups are shared ({_words(chosen)}), "
        f"beside {said}: {verdict}."
    ]


def _study_findings(study: Study) -> list[str]:
    return study.diagnosis.findings() if study.attribution.select == "misclassified" else []


def _by_chance(agreements: Mapping[str, Agreement]) -> str:
    agreement = next(iter(agreements.values()))
    return (
        f"Two random choices of {agreement.num_top} of {agreement.groups} groups share {agreement.expected:.2f} on "
        f"average and agree in full once in {1.0 / agreement.full_by_chance:.0f} times. But networks of one "
        "architecture are no random choices: what counts is whether misclassified examples agree more than controls do."
    )


def _largest(study: Study, diagnosis: Diagnosis) -> str:
    return ", ".join(f"{name} {study.attribution.groups[name].share:.0%}" for name in diagnosis.top)


def _problem(diagnosis: Diagnosis) -> str:
    return "cannot be told" if diagnosis.problem is None else ", ".join(diagnosis.problem) or "none"


def _what(study: Study) -> str:
    attribution = study.attribution
    images = f"{study.corruption} of severity {study.severity}, " if study.severity else ""
    chosen = f"{attribution.selected:,} {_words(attribution.select)} of {attribution.total:,} {attribution.unit}"
    return f"{images}{chosen}"


def _words(name: str) -> str:
    return {"top_loss": "largest loss", "initial": "untrained"}.get(name, name)


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
