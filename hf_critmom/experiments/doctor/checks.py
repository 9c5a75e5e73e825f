"""The examination: all checks, in the order in which they are shown."""

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
        log: The training's log.
        targets: Metric and values for time to target; None: those of the settings.

    Raises:
        DoctorError: If the metric of the targets was not logged.
    """
    found = [check(log) for check in CHECKS]
    return [*found, evaluation(log, targets or EvaluationTargets()), prospect(log)]
