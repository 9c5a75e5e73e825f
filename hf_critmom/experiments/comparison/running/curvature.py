"""Measurement of curvature in a run, as ``--measure_curvature`` requests it, with the run's clock stopped."""

from contextlib import AbstractContextManager
from typing import Any

from transformers import Trainer

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.running.recorder import RunRecorder
from hf_critmom.training.callbacks import CurvatureCallback

EXAMPLES = 256
"""Number of training examples on which curvature is measured."""


def curvature_callback(arm: Arm) -> CurvatureCallback | None:
    """The callback that measures curvature in a run; None if the arm's optimizer has it measured anyway.

    The clock of the run is stopped during a measurement, so that its seconds compare with those of unmeasured runs.

    Args:
        arm: The run's arm.
    """
    automatic = str(arm.options.get("curvature")).strip().lower() == "auto"
    if automatic and str(arm.options.get("nu")).lower() == "none":  # a constant weight needs no curvature
        return None
    return CurvatureCallback(examples=EXAMPLES, around=_clock_stopped)


def _clock_stopped(trainer: Trainer) -> AbstractContextManager[Any]:
    """Stops the clock of a run, which is a callback of its Trainer: resuming replaces the one that was passed."""
    callbacks = trainer.callback_handler.callbacks
    return next(callback for callback in callbacks if isinstance(callback, RunRecorder)).stopped()
