"""Diagnosis: layer groups, gradient attribution, problem groups and agreement between runs."""

from hf_critmom.attribution.agreement import Agreement, measure_agreement
from hf_critmom.attribution.attribution import Attribution, GroupGradient, attribute_gradients, predict
from hf_critmom.attribution.errors import DiagnosisError
from hf_critmom.attribution.groups import LayerGroups, layer_groups
from hf_critmom.attribution.problems import Diagnosis, diagnose

__all__ = [
    "Agreement",
    "Attribution",
    "Diagnosis",
    "DiagnosisError",
    "GroupGradient",
    "LayerGroups",
    "attribute_gradients",
    "diagnose",
    "layer_groups",
    "measure_agreement",
    "predict",
]
