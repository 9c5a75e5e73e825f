"""Optimizers, their factory and their registration with Transformers."""

from hf_critmom.optim.adamw import CritMomAdamW
from hf_critmom.optim.controls import CritMomCompensated, CritMomMatched
from hf_critmom.optim.factory import OPTIMIZERS, critmom_optimizer
from hf_critmom.optim.ikfad import IKFAD
from hf_critmom.optim.qhm import CritMomQHM
from hf_critmom.optim.registration import RegistrationError, register
from hf_critmom.optim.sgd import CritMomSGD

__all__ = [
    "IKFAD",
    "OPTIMIZERS",
    "CritMomAdamW",
    "CritMomCompensated",
    "CritMomMatched",
    "CritMomQHM",
    "CritMomSGD",
    "RegistrationError",
    "critmom_optimizer",
    "register",
]
