"""The course of a training: whether it diverged, and whether evaluations were frequent enough to time targets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from hf_critmom.experiments.doctor.errors import DoctorError
from hf_critmom.experiments.doctor.finding import Finding
from hf_critmom.experiments.doctor.log import LoggedStep, TrainingLog, is_metric
from hf_critmom.reporting.text import counted
from hf_critmom.tasks.metrics import METRICS, is_greater_better

RISEN = 0.5
"""Part of the lowest tenth's mean loss, whatever its sign, by which the last one exceeds it, if it has risen again."""
FELL = 0.05
"""Part of the first tenth's mean loss, whatever its sign, by which the lowest tenth is below it, if it has fallen."""
FINE = 1.1
"""Largest factor between the evaluations around a target at which its time is well resolved: 10 percent."""


@dataclass(frozen=True)
class EvaluationTargets:
    """Metric and values for time to target.

    Attributes:
        targets: Values of the metric; empty: those of the settings.
        metric: Name of the metric, without its prefix; None: that of the settings, else accuracy, else loss.
    """

    targets: Sequence[float] = ()
    metric: str | None = None


def divergence(log: TrainingLog) -> Finding:
    """Whether the loss became infinite, rose again or never fell."""
    topic = "divergence"
    steps = log.steps
    if not steps:
        return Finding(topic, "cannot tell", "Cannot tell: the log holds no loss.")
    broken = next((step.step for step in steps if not math.isfinite(step.loss)), None)
    norms = [step for step in steps if step.grad_norm is not None and not math.isfinite(step.grad_norm)]
    unseen = next((int(one["step"] or 0) for one in log.evaluations if _is_broken(one)), None)
    values = {
        "diverged_step": broken if broken is not None else unseen,
        "steps_with_infinite_gradient": len(norms),
        "first_loss": steps[0].loss,
        "last_loss": steps[-1].loss,
    }
    if broken is not None or unseen is not None:
        kind = "training" if broken is not None else "evaluation"
        sentence = f"It diverged: the {kind} loss is not finite at step {values['diverged_step']:,}."
        return Finding(topic, "warning", sentence, values)
    if norms:
        sentence = (
            f"The gradient was not finite at {len(norms)} of {len(steps)} logging steps, the first {norms[0].step:,}"
        )
        hidden = "; the log omits losses that are not finite (logging_nan_inf_filter)" if log.settings.hides_nan else ""
        return Finding(topic, "warning", f"{sentence}{hidden}.", values)
    windows = _windows(steps)
    first, lowest, last = windows[0], min(windows), windows[-1]
    values |= {"first_tenth": first, "lowest_tenth": lowest, "last_tenth": last}
    said = f"mean of the logged losses {first:.3g} in the first tenth, {last:.3g} in the last"
    if first - lowest < FELL * abs(first) and len(windows) > 1:
        return Finding(topic, "warning", f"The loss has hardly fallen: {said}.", values)
    if last - lowest > max(RISEN * abs(lowest), FELL * abs(first)):
        return Finding(topic, "warning", f"The loss has risen again: {said}, {lowest:.3g} at its lowest.", values)
    hidden = (
        " A step whose loss was not finite would not show (logging_nan_inf_filter)." if log.settings.hides_nan else ""
    )
    return Finding(topic, "fine", f"None: {said}.{hidden}", values)


def evaluation(log: TrainingLog, wanted: EvaluationTargets) -> Finding:
    """How often the model was evaluated, and how well that resolves when a target was reached.

    Raises:
        DoctorError: If the requested metric is not in the log.
    """
    topic = "evaluation"
    metric = _metric(log, wanted)
    if metric is None and (known := _logged_metrics(log)):  # several evaluation sets have prefixes of their own
        sentence = (
            f"Cannot tell: the log holds neither accuracy nor loss. Choose one with --metric: {', '.join(known)}."
        )
        return Finding(topic, "cannot tell", sentence)
    if metric is None:
        sentence = "Cannot tell: the log holds no evaluation. --eval_strategy steps and --eval_steps log them."
        return Finding(topic, "cannot tell", sentence)
    points = [
        (int(one["step"] or 0), value) for one in log.evaluations if (value := one.get(f"eval_{metric}")) is not None
    ]
    if not points:
        return Finding(topic, "cannot tell", f"Cannot tell: no evaluation logged a number as its {metric}.")
    rises = _rises(log, metric)
    every = max(later - earlier for (earlier, _), (later, _) in zip([(0, 0.0), *points], points, strict=False))
    best_step, best = (max if rises else min)(points, key=lambda one: one[1])
    cadence = (
        f"{counted(len(points), 'evaluation')}, at most {counted(every, 'step')} apart; "
        f"{'highest' if rises else 'lowest'} {metric} {best:.4g} at step {best_step:,}"
    )
    targets = tuple(wanted.targets) or (log.settings.targets if metric == log.settings.metric else ())
    values = {"metric": metric, "evaluations": len(points), "largest_distance": every, "best": best, "targets": {}}
    if not targets:
        return Finding(
            topic,
            "fine",
            f"{cadence}. Give --targets to see how well these evaluations resolve when they are reached.",
            values,
        )
    found = [_arrival(points, target, rises) for target in targets]
    values["targets"] = {f"{target:g}": arrival.values() for target, arrival in zip(targets, found, strict=True)}
    arrivals = " ".join(f"{metric} {target:g}: {one.sentence}" for target, one in zip(targets, found, strict=True))
    sentence = f"{cadence}. {arrivals}"
    coarse = [one for one in found if one.within > FINE]
    if coarse:
        step = max(int((FINE - 1.0) * min(one.step for one in coarse if one.step is not None)), 1)
        often = "after every step" if step == 1 else f"every {step:,} steps or more often"
        sentence += f" To resolve differences of 10 % in time to target, evaluate {often}."
    return Finding(topic, "warning" if coarse else "fine", sentence, values)


@dataclass(frozen=True)
class _Arrival:
    """When a target was reached.

    Attributes:
        step: Step of the first evaluation that reached the target; None if none did.
        after: Step of the evaluation before.
        within: Factor between the two; infinite if there was none after a step, and 1 if the target was not reached, or
            before the first step.
        sentence: The same in words.
    """

    step: int | None
    after: int
    within: float
    sentence: str

    def values(self) -> dict[str, float | int | None]:
        """The arrival as JSON values."""
        return {"step": self.step, "after": self.after, "within": self.within if math.isfinite(self.within) else None}


def _arrival(points: Sequence[tuple[int, float]], target: float, rises: bool) -> _Arrival:
    after = None
    for step, value in points:
        if value >= target if rises else value <= target:
            if step == 0:
                return _Arrival(0, 0, 1.0, "reached before the first step.")
            if after is None:
                return _Arrival(step, 0, math.inf, f"reached already at the first evaluation, step {step:,}.")
            within = step / after if after else math.inf
            return _Arrival(step, after, within, f"first reached after step {after:,} and by step {step:,}.")
        after = step
    return _Arrival(None, after or 0, 1.0, "not reached.")


def _metric(log: TrainingLog, wanted: EvaluationTargets) -> str | None:
    logged = _logged_metrics(log)
    if wanted.metric is not None:
        name = wanted.metric.removeprefix("eval_")
        if name not in logged:
            known = ", ".join(logged)
            raise DoctorError(
                f"The log holds no metric {name!r}: {f'choose one of {known}' if known else 'it was not evaluated'}."
            )
        return name
    return next((name for name in (log.settings.metric, "accuracy", "loss") if name in logged), None)


def _logged_metrics(log: TrainingLog) -> list[str]:
    """Names of the logged metrics, without their prefix, in alphabetical order."""
    return sorted({name.removeprefix("eval_") for one in log.evaluations for name in one if is_metric(name)})


def _rises(log: TrainingLog, metric: str) -> bool:
    """Whether greater is better: as METRICS or the training arguments say, else by the words of the name."""
    if metric in METRICS:
        return METRICS[metric].greater_is_better
    if metric == log.settings.metric and log.settings.greater_is_better is not None:
        return log.settings.greater_is_better
    return is_greater_better(metric)


def _windows(steps: Sequence[LoggedStep]) -> list[float]:
    """Mean losses of ten equal parts of the run, to within a logging step; of each logging step if there are fewer."""
    parts = min(len(steps), 10)
    ends = [len(steps) * part // parts for part in range(parts + 1)]
    return [fmean(step.loss for step in steps[start:end]) for start, end in pairwise(ends)]


def _is_broken(evaluation: object) -> bool:
    return isinstance(evaluation, dict) and "eval_loss" in evaluation and evaluation["eval_loss"] is None
