"""What `CurvatureCallback` has logged of a run, read back: curvature over the run, and what momentum could do in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from hf_critmom.curvature.advice import STABLE, WELL_ABOVE, MomentumAdvice, advice_for, least_momentum
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
        noise: Gradient noise scale, the median of the values logged at the points after the first; None where it was
            not measured. Each value pools the measurements of up to four points: in runs of this version of those after
            the first, in earlier ones of the first as well.
    """

    steps: tuple[int, ...]
    top: tuple[float, ...]
    products: tuple[float, ...]
    ratios: tuple[float, ...]
    noise: NoiseScale | None

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
        )

    def advice(self, batch_size: int) -> MomentumAdvice | None:
        """What momentum can do at a batch size; None where no step with momentum was measured, or nothing oscillated.

        It is decided at the median of the products; the sentence names the largest as well.

        Args:
            batch_size: Examples of an optimizer step.
        """
        if not self.products or not 0.0 < (product := median(self.products)) < math.inf:
            return None
        largest, points = max(self.products), len(self.products)
        measured = "mean step lr/(1 - momentum) times top curvature: "
        if points == 1:
            return advice_for(batch_size, self.noise, product, f"{measured}{product:.3g} at one point of the run")
        measured += f"median {product:.3g} over {points} points of the run, largest {largest:.3g}"
        advice = advice_for(batch_size, self.noise, product, measured)
        if largest <= max(product, WELL_ABOVE * STABLE):
            return advice
        at_largest = (
            f" At the largest product plain SGD would be unstable, and a heavy ball is stable from momentum "
            f"{least_momentum(largest):.2f} upwards."
        )
        return replace(advice, sentence=advice.sentence + at_largest)


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
