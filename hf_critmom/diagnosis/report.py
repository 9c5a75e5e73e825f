"""The report of attributions: tables for the terminal, figures, and a section for a model card."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from hf_critmom.diagnosis.agreement import Agreement, Mean, measure_agreement
from hf_critmom.diagnosis.attribution import Attribution
from hf_critmom.diagnosis.figures import heat_map, shares_figure
from hf_critmom.diagnosis.runner import Result, read_results
from hf_critmom.diagnosis.study import Study

FIGURES_FOLDER = "figures"


def write_attribution_report(folder: Path) -> list[Table]:
    """Builds the figures and ``README.md``, a section for a model card, from ``attribution.json``.

    Args:
        folder: What `run_attribution` returned.

    Returns:
        Tables for the terminal.

    Raises:
        DiagnosisError: If the folder holds no attribution.
    """
    content, results = read_results(folder)
    settings = content["settings"]
    (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
    figures = {result.label: _write_figures(folder / FIGURES_FOLDER, result) for result in results}
    agreements = _agreements(results, settings["num_top_groups"])
    if agreements:
        _write_comparison(folder / FIGURES_FOLDER, results)
    section = _section(content, results, figures, agreements)
    (folder / "README.md").write_text(section, encoding="utf-8")
    tables = [study_table(result.label, result.studies[0]) for result in results]
    tables += [severity_table(result.label, result.studies) for result in results if len(result.studies) > 1]
    return [*tables, *([agreement_table(agreements)] if agreements else [])]


# --------------------------------------------------------------------------------------------------------------- tables


def study_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of one study: a row for each layer group."""
    diagnosis, controls = study.diagnosis, {name: found for name, found in study.attributions.items()}
    chosen = controls.pop(study.attribution.select)
    header = ["group", f"share, {_words(chosen.select)}", *(f"share, {_words(name)}" for name in controls)]
    if diagnosis.contrast:
        header.append("quotient")
    header += ["norm by parameters' norm", "parameters"]
    rows = []
    for name, group in chosen.groups.items():
        star = "*" if diagnosis.problem and name in diagnosis.problem else ""
        row = [f"{name}{star}", *(_share(found, name) for found in (chosen, *controls.values()))]
        if diagnosis.contrast:
            quotient = diagnosis.contrast[name]
            row.append(_with_interval(quotient.ratio, quotient.interval, "{:.2f}"))
        row.append("-" if group.relative_norm is None else f"{group.relative_norm:.3g}")
        row.append(f"{group.parameters:,}" + (" (rest frozen)" if name in chosen.frozen else ""))
        rows.append(row)
    blank = [""] * (len(header) - 3)
    rows += [[name, "frozen", *blank, f"{size:,}"] for name, size in chosen.frozen.items() if name not in chosen.groups]
    return header, rows


def study_table(label: str, study: Study) -> Table:
    """The table of one study, for the terminal."""
    header, rows = study_rows(study)
    caption = " ".join(study.diagnosis.findings()) if study.attribution.select == "misclassified" else None
    return _table(f"{label}: {_what(study)}", header, rows, caption)


def severity_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several severities."""
    header = ["severity", "accuracy", "largest shares", "problem groups"]
    rows = []
    for study in studies:
        accuracy, diagnosis = study.attribution.accuracy, study.diagnosis
        problem = "cannot be told" if diagnosis.problem is None else ", ".join(diagnosis.problem) or "none"
        largest = ", ".join(f"{name} {study.attribution.groups[name].share:.0%}" for name in diagnosis.top)
        rows.append([str(study.severity), "-" if accuracy is None else f"{accuracy:.4f}", largest, problem])
    return header, rows


def severity_table(label: str, studies: Sequence[Study]) -> Table:
    """The table of several severities, for the terminal."""
    header, rows = severity_rows(studies)
    return _table(f"{label}: {studies[-1].corruption} by severity", header, rows)


def agreement_rows(agreements: Mapping[str, Agreement]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of agreement: one for each two arms, on the examples and on each control."""
    header = ["runs", "gradients of", "pairs", "top groups shared", "all the same", "rank correlation of shares"]
    rows = []
    for name, found in agreements.items():
        for arms in found.arms:
            who = arms.first if arms.first == arms.second else f"{arms.first} and {arms.second}"
            shared = f"{_mean(arms.overlap)} of {found.num_top}"
            correlation = "-" if arms.spearman is None else _mean(arms.spearman)
            rows.append([who, _words(name), str(arms.pairs), shared, f"{arms.full:.0%}", correlation])
    return header, sorted(rows, key=lambda row: [arm[0] for arm in rows].index(row[0]))


def agreement_table(agreements: Mapping[str, Agreement]) -> Table:
    """The table of agreement, for the terminal."""
    header, rows = agreement_rows(agreements)
    return _table("Agreement between runs", header, rows, _by_chance(next(iter(agreements.values()))))


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption)
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
            shares_figure({_words(name): found for name, found in first.attributions.items()}),
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
    studies = []
    for result in results:
        header, rows = study_rows(result.studies[0])
        findings = result.studies[0].diagnosis.findings() if settings["select"] == "misclassified" else []
        studies.append(
            {
                "title": f"{result.label}: {_what(result.studies[0])}",
                "header": header,
                "rows": rows,
                "findings": findings,
                "figures": figures[result.label],
            }
        )
        if len(result.studies) > 1:
            header, rows = severity_rows(result.studies)
            title = f"{result.label}: {result.studies[-1].corruption} by severity"
            studies.append({"title": title, "header": header, "rows": rows, "findings": [], "figures": []})
    agreed = None
    if agreements:
        header, rows = agreement_rows(agreements)
        agreed = {
            "sentence": _by_chance(next(iter(agreements.values()))),
            "header": header,
            "rows": rows,
            "findings": _findings(agreements),
        }
    seeds = sorted({result.seed for result in results if result.seed is not None})
    environment = Environment(
        loader=PackageLoader("hf_critmom.diagnosis"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("section.md.jinja").render(
        summary=f"Gradients of the loss by layer group on {task['name']}, {len(results)} "
        f"checkpoint{'s' if len(results) > 1 else ''}. Made by `hf-critmom attribute`.",
        studies=studies,
        agreement=agreed,
        unit=first.attribution.unit,
        confidence=f"{first.attribution.confidence:.0%}",
        num_top=settings["num_top_groups"],
        initial=(f" and seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else " and seed 0")
        if first.initial is not None
        else "",
        corrupted=settings["corruption"] is not None,
        source=task["source"],
        split=f"{settings['split']} ({task['splits'][settings['split']]['examples']:,} examples)",
        notes=task["notes"],
        versions=content["versions"],
        command=content["command"],
    )


def _agreements(results: Sequence[Result], num_top: int) -> dict[str, Agreement]:
    """Agreement of several checkpoints, on what was chosen and on every control that all of them have."""
    if len(results) < 2:
        return {}
    arms = {result.label: result.arm or "all" for result in results}
    names = [name for name in results[0].studies[0].attributions]
    found = {}
    for name in names:
        made = {result.label: result.studies[0].attributions.get(name) for result in results}
        attributions = {label: attribution for label, attribution in made.items() if attribution is not None}
        if len(attributions) == len(results):
            found[name] = measure_agreement(attributions, arms, num_top=num_top)
    return found


def _findings(agreements: Mapping[str, Agreement]) -> list[str]:
    said = []
    (name, chosen), *controls = agreements.items()
    whole = sum(pair.overlap for pair in chosen.pairs) / len(chosen.pairs)
    for control, found in controls:
        theirs = sum(pair.overlap for pair in found.pairs) / len(found.pairs)
        more = "more than" if whole > theirs else "no more than"
        said.append(
            f"Over all pairs of runs, gradients of {_words(name)} examples share {whole:.2f} of {chosen.num_top} top "
            f"groups: {more} the control, {_words(control)}, does ({theirs:.2f})."
        )
    return said


def _by_chance(agreement: Agreement) -> str:
    return (
        f"Two random choices of {agreement.num_top} of {agreement.groups} groups share {agreement.expected:.2f} on "
        f"average and agree in full once in {1.0 / agreement.full_by_chance:.0f} times. But networks of one "
        "architecture are no random choices: what counts is whether misclassified examples agree more than controls do."
    )


def _what(study: Study) -> str:
    attribution = study.attribution
    images = f"{study.corruption} of severity {study.severity}, " if study.severity else ""
    chosen = f"{attribution.selected:,} {_words(attribution.select)} of {attribution.total:,} {attribution.unit}"
    return f"{images}{chosen}"


def _words(name: str) -> str:
    return {"top_loss": "largest loss", "initial": "untrained"}.get(name, name)


def _share(attribution: Attribution, name: str) -> str:
    group = attribution.groups[name]
    interval = group.share_interval
    return _with_interval(100.0 * group.share, interval and (100.0 * interval[0], 100.0 * interval[1]), "{:.1f}") + " %"


def _mean(mean: Mean) -> str:
    return _with_interval(mean.value, mean.interval, "{:.2f}")


def _with_interval(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    if value is None:
        return "-"
    shown = form.format(value)
    return shown if interval is None else f"{shown} ({form.format(interval[0])} to {form.format(interval[1])})"
