"""Whether momentum can matter in a comparison: what ``--measure_curvature`` measured of its runs, in words."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any

from transformers import Trainer

from hf_critmom.curvature import NoiseScale
from hf_critmom.curvature.advice import MomentumAdvice, momentum_advice
from hf_critmom.experiments.comparison.arms import Arm
from hf_critmom.experiments.comparison.recorder import RunRecorder
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.training.callbacks import CurvatureCallback

EXAMPLES = 256
"""Training examples that a run of a comparison is measured on."""
HEADER = ["arm", "top curvature", "mean step times top curvature", "measured damping ratio", "gradient noise scale"]


@dataclass(frozen=True)
class ArmCurvature:
    """What was measured of one arm's run.

    Attributes:
        arm: The arm's name.
        seed: The run's seed.
        steps: Optimizer steps at which it was measured.
        top: Top curvature at each of them.
        products: Mean step times top curvature where a step with momentum had been made; above 2, plain SGD of that
            mean step is unstable.
        ratios: Damping ratio of these steps at the top curvature.
        noise: Gradient noise scale over the points after the first, None where it was not measured.
        mean_step: Median of the mean steps; None where there was no momentum.
    """

    arm: str
    seed: int
    steps: tuple[int, ...]
    top: tuple[float, ...]
    products: tuple[float, ...]
    ratios: tuple[float, ...]
    noise: NoiseScale | None
    mean_step: float | None

    def cells(self) -> list[str]:
        """A row of the table under `HEADER`."""
        noise = "-" if self.noise is None else str(self.noise)
        return [self.arm, *(_range(values) for values in (self.top, self.products, self.ratios)), noise]


@dataclass(frozen=True)
class CurvatureSummary:
    """What was measured in a comparison at one budget.

    Attributes:
        arms: What was measured of each arm.
        batch_size: Examples of an optimizer step.
        advice: What momentum can do, from the run of the baseline, or of the first arm with momentum.
        of: The arm that the advice rests on.
    """

    arms: tuple[ArmCurvature, ...]
    batch_size: int
    advice: MomentumAdvice | None
    of: str

    @property
    def sentence(self) -> str:
        """The advice in words; empty where nothing could be concluded."""
        return "" if self.advice is None else f"{self.advice.sentence} (Measured in the run of {self.of}.)"


def curvature_callback(arm: Arm) -> CurvatureCallback | None:
    """The callback that measures a run; None where the arm's optimizer has itself measured.

    The clock of the run stands still meanwhile, so that measured and unmeasured runs compare.

    Args:
        arm: The run's arm.
    """
    if arm.options.get("curvature") == "auto":
        return None
    return CurvatureCallback(examples=EXAMPLES, around=_clock_stopped)


def summarise_curvature(
    runs: Sequence[RunResult], arms: Sequence[str], baseline: str, batch_size: int | None
) -> CurvatureSummary | None:
    """Summarises what was measured; None where nothing was.

    Args:
        runs: Results of the runs, of one budget.
        arms: Names of the arms, in order.
        baseline: The baseline.
        batch_size: Examples of an optimizer step; None: not known.
    """
    measured = [run for run in runs if run.curvature]
    first = {run.arm: run for run in sorted(measured, key=lambda run: -run.seed)}  # the lowest seed of each
    found = [_arm_curvature(first[arm]) for arm in arms if arm in first]
    if not found or batch_size is None:
        return None
    with_momentum = [one for one in found if one.products]
    of = next((one for one in with_momentum if one.arm == baseline), with_momentum[0] if with_momentum else None)
    advice = None
    if of is not None and of.mean_step and (product := median(of.products)) > 0.0:
        advice = momentum_advice(batch_size, of.noise, of.mean_step, product / of.mean_step)
    return CurvatureSummary(tuple(found), batch_size, advice, "" if of is None else of.arm)


def _arm_curvature(run: RunResult) -> ArmCurvature:
    records = [{name: value for name, value in record.items() if value is not None} for record in run.curvature]
    moving = [record for record in records if record.get("curvature/mean_step", 0.0) > 0.0 and record["step"] > 0]
    later = [record for record in records if record["step"] > 0]
    return ArmCurvature(
        arm=run.arm,
        seed=run.seed,
        steps=tuple(int(record["step"]) for record in records),
        top=tuple(record["curvature/top"] for record in records),
        products=tuple(record["curvature/mean_step"] * record["curvature/top"] for record in moving),
        ratios=tuple(
            record["curvature/top_damping_ratio"] for record in moving if "curvature/top_damping_ratio" in record
        ),
        noise=_noise(later or records),
        mean_step=median(record["curvature/mean_step"] for record in moving) if moving else None,
    )


def _noise(records: Sequence[Mapping[str, float]]) -> NoiseScale | None:
    """The noise scale at the median over the points; a value only where most of them have one."""
    sampled = [record for record in records if "noise_scale_rows" in record]
    if not sampled:
        return None

    def middle(name: str, otherwise: float) -> float:
        return median(record.get(name, otherwise) for record in sampled)

    value, high = middle("noise_scale", math.inf), middle("noise_scale_high", math.inf)
    rows = int(sampled[-1]["noise_scale_rows"])
    told = math.isfinite(value) and math.isfinite(high)
    return NoiseScale(value if told else None, middle("noise_scale_low", 0.0), high, 0.9, len(sampled), (rows, rows))


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def _clock_stopped(trainer: Trainer) -> AbstractContextManager[Any]:
    """Stops the clock of a run; a resumed run has another recorder than was passed to it."""
    callbacks = trainer.callback_handler.callbacks
    return next(callback for callback in callbacks if isinstance(callback, RunRecorder)).stopped()
