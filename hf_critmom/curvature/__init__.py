"""Curvature of the loss, measured: Hessian-vector products, the top eigenvalue, and the gradient noise scale."""

from hf_critmom.curvature.advice import MomentumAdvice, momentum_advice
from hf_critmom.curvature.eigenvalue import Eigenvalue, top_eigenvalue
from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.measure import Curvature, Measurement, curvature_along, measure_along, measure_curvature
from hf_critmom.curvature.noise import NoiseSample, NoiseScale, noise_scale, sample_noise
from hf_critmom.curvature.objective import Objective
from hf_critmom.curvature.preserving import preserved
from hf_critmom.curvature.products import Hessian, hessian

__all__ = [
    "Curvature",
    "CurvatureError",
    "Eigenvalue",
    "Hessian",
    "Measurement",
    "MomentumAdvice",
    "NoiseSample",
    "NoiseScale",
    "Objective",
    "curvature_along",
    "hessian",
    "measure_along",
    "measure_curvature",
    "momentum_advice",
    "noise_scale",
    "preserved",
    "sample_noise",
    "top_eigenvalue",
]
