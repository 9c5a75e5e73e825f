"""Doctor: what the log of a finished or running training says about its optimizer, without training again."""

from hf_critmom.experiments.doctor.checks import EvaluationTargets, examine
from hf_critmom.experiments.doctor.errors import DoctorError
from hf_critmom.experiments.doctor.finding import Finding
from hf_critmom.experiments.doctor.log import TrainingLog, read_training
from hf_critmom.experiments.doctor.report import findings_as_json, findings_table
from hf_critmom.experiments.doctor.settings import Settings, named_settings

__all__ = [
    "DoctorError",
    "EvaluationTargets",
    "Finding",
    "Settings",
    "TrainingLog",
    "examine",
    "findings_as_json",
    "findings_table",
    "named_settings",
    "read_training",
]
