"""What arms differ in beside their method: the size of their steps, what weight decay does to them, and clipping."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hf_critmom.experiments.comparison.records import RunResult


@dataclass(frozen=True)
class ArmSteps:
    """The steps of an arm, as means over its runs; NaN where they are not known of its optimizer.

    Attributes:
        arm: The arm's name.
        integrated: Mean integrated step relative to the baseline's: what a step moves by per unit of a constant
            gradient. Steps of SGD and of Adam are in other units, and are not related.
        shrinkage: Mean share by which weight decay shrinks the weights in a step, relative to the baseline's.
        clipped: Share of the logged steps whose gradient was clipped; NaN where nothing is clipped.
    """

    arm: str
    integrated: float
    shrinkage: float
    clipped: float


def relate_steps(
    runs: Iterable[RunResult], arms: Sequence[str], baseline: str, max_grad_norm: float, adaptive: Iterable[str] = ()
) -> list[ArmSteps]:
    """The steps of each arm relative to the baseline's.

    Args:
        runs: Results of one budget.
        arms: Names of the arms, in order.
        baseline: The baseline's name.
        max_grad_norm: Norm that gradients are clipped to; 0: they are not.
        adaptive: Arms whose steps are not in proportion to the gradient, as those of Adam.
    """
    results = list(runs)
    of_arm = {arm: [run for run in results if run.arm == arm] for arm in arms}
    unlike = set(adaptive)
    found = []
    for arm in arms:
        steps = _relative(of_arm, arm, baseline, "integrated_step")
        comparable = (arm in unlike) == (baseline in unlike)
        clipped = [
            norm > max_grad_norm
            for run in of_arm[arm]
            for record in run.training_log
            if max_grad_norm > 0.0 and (norm := record.get("grad_norm")) is not None
        ]
        found.append(
            ArmSteps(
                arm,
                steps if comparable else math.nan,
                _relative(of_arm, arm, baseline, "shrinkage"),
                float(np.mean(clipped)) if clipped else math.nan,
            )
        )
    return found


def _relative(of_arm: dict[str, list[RunResult]], arm: str, baseline: str, name: str) -> float:
    means = []
    for one in (arm, baseline):
        values = [value for run in of_arm.get(one, ()) if (value := getattr(run, name)) is not None]
        means.append(float(np.mean(values)) if values else math.nan)
    return means[0] / means[1] if means[1] else math.nan
