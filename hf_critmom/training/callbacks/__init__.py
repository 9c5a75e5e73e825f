"""Callbacks that log the damping state, curvature and gradient norms of a run, and attribute its mistakes to layers."""

from hf_critmom.training.callbacks.attribution import AttributionCallback
from hf_critmom.training.callbacks.curvature import CurvatureCallback, give_curvature_callback
from hf_critmom.training.callbacks.damping import REGIME_CODES, DampingCallback
from hf_critmom.training.callbacks.gradient_norms import GradientNormCallback
from hf_critmom.training.callbacks.logged import LoggingCallback, is_training_record

__all__ = [
    "REGIME_CODES",
    "AttributionCallback",
    "CurvatureCallback",
    "DampingCallback",
    "GradientNormCallback",
    "LoggingCallback",
    "give_curvature_callback",
    "is_training_record",
]
