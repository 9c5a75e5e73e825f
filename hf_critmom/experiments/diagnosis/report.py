"""The report of attributions: tables for the terminal, figures, and a section for a model card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.text import Text

from hf_critmom.attribution.agreement import Agreement
from hf_critmom.experiments.diagnosis.figures import checkpoints_figure, result_figures
from hf_critmom.experiments.diagnosis.results import Result, Results, agreements_of, read_results, restore_agreement
from hf_critmom.experiments.diagnosis.tables import (
    agreement_by_chance,
    agreement_findings,
    agreement_table,
    label_table,
    ratios_explained,
    severity_table,
    study_findings,
    study_table,
    study_title,
    summary_table,
)
from hf_critmom.reporting.figures import write_figures
from hf_critmom.reporting.templates import render
from hf_critmom.storage.files import atomic_write


def write_attribution_report(folder: Path) -> list[RenderableType]:
    """Builds figures, ``README.md`` (a section for a model card) and ``report.html`` from ``attribution.json``.

    Args:
        folder: The folder that `run_attribution` returned.

    Returns:
        Tables and sentences for the terminal.

    Raises:
        DiagnosisError: If the folder holds no attribution, or a damaged one.
    """
    restore_agreement(folder)
    found = read_results(folder)
    results = found.checkpoints
    agreements = agreements_of(results, found.settings.num_top_groups)
    captions: dict[str, list[tuple[str, str]]] = {}
    figures: dict[str, Figure] = {}
    for result, slug in zip(results, _slugs(results), strict=True):
        drawn = result_figures(result)
        captions[result.label] = [(caption, f"{kind}-{slug}.png") for kind, (caption, _) in drawn.items()]
        figures |= {f"{kind}-{slug}.png": figure for kind, (_, figure) in drawn.items()}
    if agreements:
        figures["checkpoints.png"] = checkpoints_figure(results)
    write_figures(folder, figures)
    with atomic_write(folder / "README.md") as partial:
        partial.write_text(_section(found, captions, agreements), encoding="utf-8")
    from hf_critmom.experiments.diagnosis.page import write_attribution_page  # Altair takes a second to import

    write_attribution_page(folder, found, agreements)
    shown: list[RenderableType] = []
    if len(results) == 1:
        shown.append(study_table(results[0].label, results[0].studies[0], brief=True).rich())
        shown += map(Text, study_findings(results[0]))
    else:
        shown += [summary_table(results).rich(), agreement_table(agreements).rich()]
        shown += map(Text, [agreement_by_chance(agreements), *(one.sentence for one in agreement_findings(agreements))])
    return shown + [severity_table(one.label, one.studies).rich() for one in results if len(one.studies) > 1]


def _slugs(results: tuple[Result, ...]) -> list[str]:
    """Parts of file names, unique for each checkpoint."""
    slugs = [re.sub(r"[^A-Za-z0-9.]+", "-", result.label).strip("-") for result in results]
    return [f"{slug}-{place}" if slugs.count(slug) > 1 else slug for place, slug in enumerate(slugs)]


def _section(found: Results, captions: Mapping[str, list[tuple[str, str]]], agreements: Mapping[str, Agreement]) -> str:
    results, settings = found.checkpoints, found.settings
    task, first = settings.task, results[0].studies[0]
    studies: list[dict[str, Any]] = []
    for result in results:
        several = len(result.studies) > 1
        studies.append(
            {
                "title": f"{result.label}: {study_title(result.studies[0])}",
                "table": study_table(result.label, result.studies[0]).markdown(),
                "findings": study_findings(result),
                "doubtful": label_table(result, task.label_names).markdown() if result.doubtful_labels else None,
                "by_severity": severity_table(result.label, result.studies).markdown() if several else None,
                "figures": captions[result.label],
            }
        )
    agreed = None
    if agreements:
        agreed = {
            "sentence": agreement_by_chance(agreements),
            "table": agreement_table(agreements).markdown(),
            "findings": [one.sentence for one in agreement_findings(agreements)],
        }
    seeds = sorted({result.seed or 0 if result.initial_seed is None else result.initial_seed for result in results})
    return render(
        "attribution.md",
        summary=summary_table(results).markdown() if len(results) > 1 else None,
        task=task,
        checkpoints=len(results),
        studies=studies,
        agreement=agreed,
        unit=first.attribution.unit,
        confidence=f"{first.attribution.confidence:.0%}",
        num_top=settings.num_top_groups,
        ratios=ratios_explained(results),
        dtype=settings.dtype,
        initial="" if first.initial is None else f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
        corrupted=settings.corruption is not None,
        split=f"{settings.split} ({task.splits[settings.split].examples:,} examples)",
        versions=found.versions,
        command=found.command,
    )
