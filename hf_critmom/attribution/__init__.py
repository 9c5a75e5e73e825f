"""Attribution: layer groups, gradient attribution, problem groups and agreement between runs."""

from hf_critmom.attribution.agreement import Agreement, measure_agreement
from hf_critmom.attribution.attribution import attribute_gradients, mean_gradients, predict
from hf_critmom.attribution.doubtful_labels import DoubtfulLabel, find_doubtful_labels
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.groups import LayerGroups, layer_groups
from hf_critmom.attribution.problems import Diagnosis, diagnose
from hf_critmom.attribution.results import Attribution, GroupGradient

__all__ = [
    "Agreement",
    "Attribution",
    "AttributionError",
    "Diagnosis",
    "DoubtfulLabel",
    "GroupGradient",
    "LayerGroups",
    "attribute_gradients",
    "diagnose",
    "find_doubtful_labels",
    "layer_groups",
    "mean_gradients",
    "measure_agreement",
    "predict",
]
