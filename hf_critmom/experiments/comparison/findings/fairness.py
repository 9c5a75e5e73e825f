"""Differences between arms besides their methods: size of steps, shrinkage by weight decay, and gradient clipping."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from hf_critmom.experiments.comparison.arms.arm import Arm
from hf_critmom.experiments.comparison.findings.sentences import Name
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.reporting.tables import Table
from hf_critmom.reporting.text import join_names

HEADER = ["arm", "mean step", "weight decay\nper step", "steps\nclipped"]
_HEAVY_BALLS = ("sgd", "critmom", "critmom_hybrid", "critmom_matched", "critmom_compensated", "critmom_qhm")
_THIRD_PARTY_SGD = ("torch.optim.SGD", "optim:sgd", "timm:sgd", "timm:nesterov", "timm:momentum", "timm:sgdp")
_SAME = 0.05
"""Relative difference of steps or shrinkage below which the caveat does not mention it."""


@dataclass(frozen=True)
class ArmSteps:
    """The steps of an arm, as means over its runs; NaN if they are not known for its optimizer.

    Attributes:
        arm: The arm's name.
        integrated: Mean integrated step (how far a step moves per unit of a constant gradient) relative to the
            baseline's; NaN if one of the two is SGD and the other adaptive, whose steps have other units.
        shrinkage: Mean share by which weight decay shrinks the weights in a step, relative to the baseline's.
        clipped: Share of the logged steps whose gradient was clipped; NaN without clipping or logged norms.
        estimated: Whether the first two are estimated from logged steps as learning rate / (1 - momentum), because the
            run is of an early version that did not count every step.
    """

    arm: str
    integrated: float
    shrinkage: float
    clipped: float
    estimated: bool = False

    def cells(self) -> list[str]:
        """A row of the table under `HEADER`."""
        about = "about " if self.estimated else ""
        sizes = ["-" if math.isnan(value) else f"{about}{value:.2g}" for value in (self.integrated, self.shrinkage)]
        return [self.arm, *sizes, "-" if math.isnan(self.clipped) else f"{self.clipped:.0%}"]


@dataclass(frozen=True)
class StepComparison:
    """The steps of all arms at one budget.

    Attributes:
        baseline: Name of the baseline.
        arms: The steps of each arm, relative to the baseline's.
    """

    baseline: str
    arms: tuple[ArmSteps, ...]

    def table(self) -> Table:
        """The steps as a table; without rows if they are not known for any arm."""
        known = any(not math.isnan(value) for one in self.arms for value in (one.integrated, one.clipped))
        caption = (
            "Mean step per unit of gradient, and mean share by which weight decay shrinks the weights in a step, as "
            f"multiples of {self.baseline}'s; the steps of SGD and of adaptive optimizers are not comparable. Clipped: "
            "share of the logged steps."
        )
        return Table(HEADER, [one.cells() for one in self.arms] if known else [], "Size of the steps", caption)

    def caveat(self, *, name: Name = str) -> str:
        """A sentence on the arms that differ from the baseline in step or shrinkage; empty if none is known to.

        Args:
            name: Formats an arm's name.
        """
        arms_of: dict[tuple[str, str], list[str]] = {}
        for one in self.arms:
            if one.arm != self.baseline and not (_is_even(one.integrated) and _is_even(one.shrinkage)):
                numbers = tuple("" if _is_even(value) else f"{value:.2g}" for value in (one.integrated, one.shrinkage))
                arms_of.setdefault((numbers[0], numbers[1]), []).append(name(one.arm))
        clauses = [_clause(names, step, decay) for (step, decay), names in arms_of.items()]
        return f"Against {name(self.baseline)}, {'; '.join(clauses)}." if clauses else ""


def _clause(names: Sequence[str], step: str, decay: str) -> str:
    """The clause on arms that share these numbers."""
    one = len(names) == 1
    parts = [f"take{'s' if one else ''} {step} times the mean step"] if step else []
    if decay:
        parts.append(f"shrink{'s' if one else ''} weights {decay} times as much per step by weight decay")
    return f"{join_names(names)} {' and '.join(parts)}"


def compare_steps(
    runs: Iterable[RunResult], arms: Mapping[str, Arm], baseline: str, max_grad_norm: float
) -> StepComparison:
    """The steps of each arm relative to the baseline's.

    Args:
        runs: Results of one budget.
        arms: The arms, in order.
        baseline: The baseline's name.
        max_grad_norm: Norm to which gradients are clipped; 0 without clipping.
    """
    results = list(runs)
    arm_runs = {arm: [run for run in results if run.arm == arm] for arm in arms}
    heavy = {name: arm.optimizer in _HEAVY_BALLS or arm.optimizer in _THIRD_PARTY_SGD for name, arm in arms.items()}
    means = {name: _means(arms[name], arm_runs[name], heavy[name]) for name in arms}
    base = means.get(baseline, _Means())
    found = []
    for arm in arms:
        own = means[arm]
        comparable = heavy[arm] == heavy.get(baseline)
        found.append(
            ArmSteps(
                arm,
                _ratio(own.integrated, base.integrated) if comparable else math.nan,
                _ratio(own.shrinkage, base.shrinkage),
                _clipped(arm_runs[arm], max_grad_norm),
                own.estimated or base.estimated,
            )
        )
    return StepComparison(baseline, tuple(found))


@dataclass(frozen=True)
class _Means:
    """Mean integrated step and shrinkage of an arm's runs; NaN if they are not known."""

    integrated: float = math.nan
    shrinkage: float = math.nan
    estimated: bool = False


def _means(arm: Arm, runs: Sequence[RunResult], is_heavy_ball: bool) -> _Means:
    steps = [run.integrated_step for run in runs if run.integrated_step is not None]
    shrinkages = [run.shrinkage for run in runs if run.shrinkage is not None]
    if steps or shrinkages:
        return _Means(fmean(steps) if steps else math.nan, fmean(shrinkages) if shrinkages else math.nan)
    if not is_heavy_ball and arm.optimizer not in ("adamw", "critmom_adamw"):
        return _Means()
    pairs = [pair for run in runs if (pair := _estimate(run, is_heavy_ball)) is not None]
    if not pairs:
        return _Means()
    return _Means(fmean(step for step, _ in pairs), fmean(shrinkage for _, shrinkage in pairs), estimated=True)


def _estimate(run: RunResult, is_heavy_ball: bool) -> tuple[float, float] | None:
    """Mean step and shrinkage of a run, estimated from its logged steps; None if the log does not have them."""
    steps = []
    for record in run.training_log:
        lr, momentum = record.get("effective_lr", record.get("learning_rate")), record.get("momentum")
        if lr is not None and momentum is not None and momentum < 1.0:
            steps.append(lr / (1.0 - momentum) if is_heavy_ball else lr)
    if not steps or run.weight_decay is None:
        return None
    return fmean(steps), fmean(steps) * run.weight_decay


def _clipped(runs: Sequence[RunResult], max_grad_norm: float) -> float:
    clipped = [
        norm > max_grad_norm
        for run in runs
        for record in run.training_log
        if max_grad_norm > 0.0 and (norm := record.get("grad_norm")) is not None
    ]
    return fmean(clipped) if clipped else math.nan


def _ratio(value: float, base: float) -> float:
    return value / base if base else math.nan


def _is_even(ratio: float) -> bool:
    return math.isnan(ratio) or abs(ratio - 1.0) < _SAME
