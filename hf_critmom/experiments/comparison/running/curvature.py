"""What ``--measure_curvature`` measures of a run, and the clock of the run meanwhile."""

from contextlib import AbstractContextManager
from typing import Any

from transformers import Trainer

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.running.recorder import RunRecorder
from hf_critmom.training.callbacks import CurvatureCallback

EXAMPLES = 256
"""Training examples that a run of a comparison is measured on."""


def curvature_callback(arm: Arm) -> CurvatureCallback | None:
    """The callback that measures a run; None where the arm's optimizer has itself measured.

    The clock of the run stands still meanwhile, so that measured and unmeasured runs compare.

    Args:
        arm: The run's arm.
    """
    if arm.options.get("curvature") == "auto":
        return None
    return CurvatureCallback(examples=EXAMPLES, around=_clock_stopped)


def _clock_stopped(trainer: Trainer) -> AbstractContextManager[Any]:
    """Stops the clock of a run; a resumed run has another recorder than was passed to it."""
    callbacks = trainer.callback_handler.callbacks
    return next(callback for callback in callbacks if isinstance(callback, RunRecorder)).stopped()
