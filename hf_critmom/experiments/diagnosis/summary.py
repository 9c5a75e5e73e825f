"""The results of an attribution, for programs."""

from pathlib import Path
from typing import Any

from hf_critmom.experiments.diagnosis.results import Result, agreements_of, read_results
from hf_critmom.experiments.diagnosis.tables import agreement_findings, study_findings


def attribution_as_json(folder: Path) -> dict[str, Any]:
    """The problem groups of each checkpoint and the agreement of checkpoints, as JSON values.

    Args:
        folder: An attribution's folder, which is only read.

    Returns:
        Under "checkpoints" a dictionary for each checkpoint, with one study for each severity of the corruption; under
        "agreement" the agreement on the chosen examples and on each control; under "findings" the sentences.

    Raises:
        DiagnosisError: If the folder holds no attribution, or a damaged one.
    """
    found = read_results(folder)
    agreements = agreements_of(found.checkpoints, found.settings.num_top_groups)
    return {
        "task": found.settings.task.name,
        "split": found.settings.split,
        "checkpoints": [_checkpoint(result) for result in found.checkpoints],
        "agreement": {name: agreement.to_dict() for name, agreement in agreements.items()},
        "findings": [one.sentence for one in agreement_findings(agreements)] if agreements else [],
    }


def _checkpoint(result: Result) -> dict[str, Any]:
    studies = []
    for study in result.studies:
        found, diagnosis = study.attribution, study.diagnosis
        studies.append(
            {
                "corruption": study.corruption,
                "severity": study.severity,
                "unit": found.unit,
                "selected": found.selected,
                "total": found.total,
                "accuracy": found.accuracy,
                "shares": found.shares,
                "top": list(diagnosis.top),
                "dominant": list(diagnosis.dominant),
                "problem": None if diagnosis.problem is None else list(diagnosis.problem),
                "same_groups_as_control": diagnosis.same_groups,
            }
        )
    plain = {name: getattr(result, name) for name in ("label", "arm", "seed", "sha256", "parameters")}
    return {**plain, "studies": studies, "findings": study_findings(result)}
