"""The outcome of a repair, for programs."""

from dataclasses import asdict
from typing import Any

from hf_critmom.experiments.repair.results import Repair, Treatment
from hf_critmom.experiments.repair.sentences import control_findings, outcome, provenance_findings, reading_findings
from hf_critmom.storage.files import replace_non_finite


def repair_as_json(repair: Repair) -> dict[str, Any]:
    """The treatments, their verification and the comparison with the controls, as JSON values.

    Args:
        repair: The repair; see `read_repair`.

    Returns:
        Under "roles" a dictionary for each treatment, by role and in the order of the seeds, under "advantages" the
        difference in net fixed items between the chosen groups and each control, with what it decides, and under
        "findings" the sentences. A bound that one seed leaves open is None.
    """
    found = {
        "outcome": outcome(repair),
        "groups": list(repair.choice.groups),
        "seeds": list(repair.plan.seeds),
        "roles": {role: [_treatment(one) for one in treatments] for role, treatments in repair.roles.items()},
        "advantages": {
            role: {**asdict(one.interval), "status": one.status} for role, one in repair.advantages().items()
        },
        "findings": [*control_findings(repair), *reading_findings(repair), *provenance_findings(repair)],
    }
    return dict(replace_non_finite(found))


def _treatment(treatment: Treatment) -> dict[str, Any]:
    found = treatment.verification
    verified = {
        name: getattr(found, name, None)
        for name in ("items", "accuracy_before", "accuracy_after", "fixed", "broken", "net", "pvalue", "test")
    }
    return {
        "groups": list(treatment.groups),
        "parameters": treatment.parameters,
        "seed": treatment.seed,
        "status": treatment.status,
        "steps": treatment.steps,
        **verified,
    }
