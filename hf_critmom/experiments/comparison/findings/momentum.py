"""Whether momentum can matter in a comparison: a summary of what ``--measure_curvature`` measured in its runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_critmom.curvature.advice import MomentumAdvice
from hf_critmom.curvature.logged import LoggedCurvature
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.reporting.text import join_names

HEADER = ["arm", "top curvature", "mean step times top curvature", "measured damping ratio", "gradient noise scale"]


@dataclass(frozen=True)
class ArmCurvature(LoggedCurvature):
    """Curvature and gradient noise that were measured in one arm's run.

    Attributes:
        arm: The arm's name.
        seed: The run's seed.
    """

    arm: str
    seed: int

    def cells(self) -> list[str]:
        """A row of the table under `HEADER`."""
        noise = "-" if self.noise is None else str(self.noise)
        return [self.arm, *(_range(values) for values in (self.top, self.products, self.ratios)), noise]


@dataclass(frozen=True)
class CurvatureSummary:
    """Curvature and gradient noise that were measured in a comparison at one budget.

    Attributes:
        arms: The measurements of each arm.
        batch_size: Number of examples of an optimizer step.
        advice: Whether momentum can matter, from the run of the baseline, or else of the first arm with momentum; None
            if no measured arm has momentum.
        of: Name of the arm on whose run the advice rests.
    """

    arms: tuple[ArmCurvature, ...]
    batch_size: int
    advice: MomentumAdvice | None
    of: str

    @property
    def sentence(self) -> str:
        """The advice as a sentence; empty if there is none."""
        return "" if self.advice is None else f"{self.advice.sentence} (Measured in the run of {self.of}.)"

    @property
    def measured_at(self) -> str:
        """The steps at which the runs were measured; arms with the same steps share them."""
        arms_at: dict[tuple[int, ...], list[str]] = {}
        for one in self.arms:
            arms_at.setdefault(tuple(one.steps), []).append(one.arm)
        by_steps = {", ".join(map(str, steps)): arms for steps, arms in arms_at.items()}
        if len(by_steps) == 1:
            return f"steps {next(iter(by_steps))}"
        return "; ".join(f"{join_names(arms)}: steps {steps}" for steps, arms in by_steps.items())


def summarise_curvature(
    runs: Sequence[RunResult], arms: Sequence[str], baseline: str, batch_size: int | None
) -> CurvatureSummary | None:
    """Summarises measured curvature and gradient noise; None if they were not measured.

    Args:
        runs: Results of the runs at one budget.
        arms: Names of the arms, in order.
        baseline: Name of the baseline.
        batch_size: Number of examples of an optimizer step; None if it is not known.
    """
    measured = [run for run in runs if run.curvature]
    first = {run.arm: run for run in sorted(measured, key=lambda run: -run.seed)}  # the lowest seed of each arm
    found = [
        ArmCurvature(**vars(LoggedCurvature.from_records(first[arm].curvature)), arm=arm, seed=first[arm].seed)
        for arm in arms
        if arm in first
    ]
    if not found or batch_size is None:
        return None
    with_momentum = [one for one in found if one.products]
    of = next((one for one in with_momentum if one.arm == baseline), with_momentum[0] if with_momentum else None)
    advice = None if of is None else of.advice(batch_size)
    return CurvatureSummary(tuple(found), batch_size, advice, "" if of is None else of.arm)


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
