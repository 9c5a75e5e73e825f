"""What `CurvatureCallback` has logged of a run, read back: curvature over the run, and what momentum could do in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hf_critmom.curvature.advice import MomentumAdvice, momentum_advice
from hf_critmom.curvature.noise import NoiseScale


@dataclass(frozen=True)
class LoggedCurvature:
    """What was measured of one run.

    Attributes:
        steps: Optimizer steps at which it was measured.
        top: Top curvature at each of them.
        products: Mean step times top curvature where a step with momentum had been made; above 2, plain SGD of that
            mean step is unstable.
        ratios: Damping ratio of these steps at the top curvature, where it is positive.
        noise: Gradient noise scale over the points after the first, None where it was not measured.
        mean_step: Median of the mean steps; None where there was no momentum.
    """

    steps: tuple[int, ...]
    top: tuple[float, ...]
    products: tuple[float, ...]
    ratios: tuple[float, ...]
    noise: NoiseScale | None
    mean_step: float | None

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, float | None]]) -> "LoggedCurvature":
        """Reads log records that have ``curvature/top`` and ``step``; values that are None were not finite."""
        known = [{name: value for name, value in record.items() if value is not None} for record in records]
        moving = [record for record in known if record.get("curvature/mean_step", 0.0) > 0.0 and record["step"] > 0]
        later = [record for record in known if record["step"] > 0]
        return cls(
            steps=tuple(int(record["step"]) for record in known),
            top=tuple(record["curvature/top"] for record in known),
            products=tuple(record["curvature/mean_step"] * record["curvature/top"] for record in moving),
            ratios=tuple(
                record["curvature/top_damping_ratio"] for record in moving if "curvature/top_damping_ratio" in record
            ),
            noise=_noise(later or known),
            mean_step=median(record["curvature/mean_step"] for record in moving) if moving else None,
        )

    def advice(self, batch_size: int) -> MomentumAdvice | None:
        """What momentum can do at a batch size; None where no step with momentum was measured.

        Args:
            batch_size: Examples of an optimizer step.
        """
        if not self.mean_step or (product := median(self.products)) <= 0.0:
            return None
        return momentum_advice(batch_size, self.noise, self.mean_step, product / self.mean_step)


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
