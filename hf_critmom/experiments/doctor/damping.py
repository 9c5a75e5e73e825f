"""The damping of a training's steps, at curvature 1 and at the measured curvature."""

import math
from collections import Counter

from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.curvature.logged import LoggedCurvature
from hf_critmom.damping import damping_ratio, damping_regime, get_rule
from hf_critmom.experiments.doctor.finding import Finding
from hf_critmom.experiments.doctor.log import TrainingLog
from hf_critmom.experiments.doctor.steps import why_not_computed
from hf_critmom.reporting.text import counted

_ADAPTIVE = (
    "Cannot tell: an optimizer that scales each parameter sees another curvature than that of the loss, so the "
    "damping ratio of SGD does not apply."
)
_MEASURE = "Measure it with CurvatureCallback, or hf-critmom compare --measure_curvature."


def damping_at_one(log: TrainingLog) -> Finding:
    """The damping regime at curvature 1, which the paper assumes."""
    topic = "damping at k = 1"
    if log.settings.kind == "adam":
        return Finding(topic, "cannot tell", _ADAPTIVE)
    rule = (log.settings.damped or {}).get("rule", "linear")
    moving = [
        (step.momentum, step.lr, step.nu)
        for step in log.steps
        if step.momentum is not None and 0.0 <= step.momentum < 1.0 and step.lr and 0.0 < step.lr < math.inf
        if step.nu is not None or not log.settings.weighted
    ]
    if log.settings.kind is None or not moving:
        return Finding(topic, "cannot tell", why_not_computed(log))
    ratios = [damping_ratio(momentum, lr, rule=rule, nu=nu) for momentum, lr, nu in moving]
    regimes = Counter(damping_regime(momentum, lr, rule=rule, nu=nu) for momentum, lr, nu in moving)
    shares = ", ".join(f"{name} in {count / len(moving):.0%}" for name, count in regimes.most_common())
    sentence = f"{_capitalised(shares)} of the logging steps; damping ratio {_range(min(ratios), max(ratios))}."
    values = {
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        **{f"{name}_share": count / len(moving) for name, count in regimes.items()},
    }
    return Finding(topic, "fine", sentence, values)


def measured_damping(log: TrainingLog) -> Finding:
    """The damping regime at the measured top curvature."""
    topic = "damping, measured"
    if not log.curvature:
        sentence = f"Cannot tell: the curvature was not measured, and k = 1 is an assumption. {_MEASURE}"
        return Finding(topic, "cannot tell", sentence)
    measured = LoggedCurvature.from_records(log.curvature)
    points = counted(len(measured.top), "point")
    at = f"top curvature {_range(min(measured.top), max(measured.top))} at {points} of the run"
    values = {"top_low": min(measured.top), "top_high": max(measured.top), "points": len(measured.top)}
    if not measured.ratios:
        if log.settings.kind == "adam":
            why = _ADAPTIVE
        elif max(measured.top) <= 0.0:
            why = "Cannot tell: nothing oscillates where the curvature is not positive."
        else:
            why = "Cannot tell: no step with momentum was measured."
        return Finding(topic, "cannot tell", f"{why} The loss has {at}.", values)
    low, high = min(measured.ratios), max(measured.ratios)
    regime = "underdamped" if high < 1.0 else "overdamped" if low > 1.0 else "under- and overdamped"
    sentence = f"{_capitalised(regime)}: damping ratio {_range(low, high)} ({at})."
    return Finding(topic, "fine", sentence, {**values, "ratio_low": low, "ratio_high": high})


def momentum_matters(log: TrainingLog) -> Finding:
    """Whether momentum can matter, from curvature and gradient noise."""
    topic = "can momentum matter"
    if not log.curvature:
        sentence = f"Cannot tell: it depends on curvature and gradient noise, which were not measured. {_MEASURE}"
        return Finding(topic, "cannot tell", sentence)
    if log.settings.batch_size is None:
        return Finding(topic, "cannot tell", "Cannot tell: the batch size is not known.")
    measured = LoggedCurvature.from_records(log.curvature)
    try:
        advice = measured.advice(log.settings.batch_size)
    except CurvatureError as error:
        return Finding(topic, "cannot tell", f"Cannot tell: {error}")
    if advice is None:
        return Finding(topic, "cannot tell", "Cannot tell: no step with momentum was measured at positive curvature.")
    noise = measured.noise
    values = {
        "role": advice.role,
        "least_momentum": advice.least_momentum,
        "noise_scale": None if noise is None else noise.value,
        "batch_size": log.settings.batch_size,
    }
    return Finding(topic, "cannot tell" if advice.role == "open" else "note", advice.sentence, values)


def clamp(log: TrainingLog) -> Finding:
    """Whether the learning rate exceeds the limit above which critical momentum is clamped to 0."""
    topic = "clamp of critmom"
    damped = log.settings.damped or {"rule": "linear", "curvature": 1.0}
    limit = get_rule(damped["rule"]).frequency(0.0) ** 2 / damped["curvature"]
    known = [step.scheduled for step in log.steps if step.scheduled is not None]
    if not known:
        return Finding(topic, "cannot tell", "Cannot tell: the log holds no learning_rate.")
    share = sum(lr >= limit for lr in known) / len(known)
    values = {"limit": limit if math.isfinite(limit) else None, "clamped_share": share}
    if share == 0.0:
        why = f"the learning rate stays below {limit:g}"
        if math.isinf(limit):
            why = f"the {damped['rule']} rule has a positive momentum at every learning rate"
        return Finding(topic, "fine", f"Never: {why}.", values)
    would = "is" if log.settings.damped is not None else "would be"
    sentence = (
        f"In {share:.0%} of the logging steps the learning rate is {limit:g} or more, where critmom's momentum {would} "
        "clamped to 0, plain SGD: lower the learning rate, or use rule=exponential."
    )
    return Finding(topic, "note" if log.settings.damped is None else "warning", sentence, values)


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
