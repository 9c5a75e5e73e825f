"""The examination: every check in the order in which it is shown."""

from collections.abc import Callable

from hf_critmom.experiments.doctor.course import EvaluationTargets, divergence, evaluation
from hf_critmom.experiments.doctor.damping import clamp, damping_at_one, measured_damping, momentum_matters
from hf_critmom.experiments.doctor.finding import Finding
from hf_critmom.experiments.doctor.log import TrainingLog
from hf_critmom.experiments.doctor.prospect import prospect
from hf_critmom.experiments.doctor.steps import clipping, learning_rate, momentum, run

__all__ = ["CHECKS", "EvaluationTargets", "examine"]

CHECKS: tuple[Callable[[TrainingLog], Finding], ...] = (
    run,
    learning_rate,
    momentum,
    clipping,
    damping_at_one,
    measured_damping,
    momentum_matters,
    clamp,
    divergence,
)
"""The checks that need the log alone."""


def examine(log: TrainingLog, targets: EvaluationTargets | None = None) -> list[Finding]:
    """Examines a training.

    Args:
        log: Its log.
        targets: What time to target would be measured by; None: what the settings say.

    Raises:
        DoctorError: If targets are of a metric that was not logged.
    """
    found = [check(log) for check in CHECKS]
    return [*found, evaluation(log, targets or EvaluationTargets()), prospect(log)]
