"""Critically damped momentum for Hugging Face Transformers.

Importing the package makes ``--optim critmom`` and its relatives known to Transformers, and the models of its tasks
to the Auto classes.
"""

import warnings

from hf_critmom.attribution import Attribution, attribute_gradients
from hf_critmom.damping import critical_momentum, damping_ratio, damping_regime
from hf_critmom.experiments.repair.runner import RepairSettings, repair_layers
from hf_critmom.optim import IKFAD, CritMomAdamW, CritMomSGD, RegistrationError, critmom_optimizer, register
from hf_critmom.tasks import CifarResNetConfig, CifarResNetForImageClassification
from hf_critmom.training.callbacks import AttributionCallback, DampingCallback, GradientNormCallback
from hf_critmom.training.trainer import CritMomTrainer

__version__ = "0.1.0"

__all__ = [
    "IKFAD",
    "Attribution",
    "AttributionCallback",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "CritMomAdamW",
    "CritMomSGD",
    "CritMomTrainer",
    "DampingCallback",
    "GradientNormCallback",
    "RepairSettings",
    "attribute_gradients",
    "critical_momentum",
    "critmom_optimizer",
    "damping_ratio",
    "damping_regime",
    "register",
    "repair_layers",
]

try:
    register()
except RegistrationError as error:
    warnings.warn(str(error), stacklevel=2)
