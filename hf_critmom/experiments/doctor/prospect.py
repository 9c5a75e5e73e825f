"""What critmom would do in a training: its momentum, its mean step, and the matched learning rate."""

from statistics import fmean

from hf_critmom.damping import critical_momentum
from hf_critmom.experiments.doctor.finding import Finding
from hf_critmom.experiments.doctor.log import LoggedStep, TrainingLog
from hf_critmom.experiments.doctor.steps import why_not_computed

CONSTANT = 0.9
"""Constant momentum with which critically damped momentum is compared."""
SAME = 0.05
"""Relative difference below which two mean steps count as the same: with two digits, a smaller one would read 1."""
TOPIC = "critmom here"


def prospect(log: TrainingLog) -> Finding:
    """What critmom would do, or does, at the learning rates of this run."""
    if log.settings.kind == "adam":
        return _of_adam(log)
    known = [step for step in log.steps if step.scheduled and step.mean_step is not None]
    if log.settings.kind is None or not known:
        return Finding(TOPIC, "cannot tell", why_not_computed(log))
    peak = max(known, key=lambda step: step.scheduled or 0.0)
    if log.settings.damped is not None:
        return _of_critmom(log, peak)
    lr, mean_step = peak.scheduled or 0.0, peak.mean_step or 0.0
    momentum = critical_momentum(lr)
    critical = critical_mean_step(lr)
    matched = critical * (1.0 - (peak.momentum or 0.0))
    critical_over_run = fmean(critical_mean_step(step.scheduled or 0.0) for step in known)
    over_run = fmean(step.mean_step or 0.0 for step in known) / critical_over_run
    same = critical_learning_rate(mean_step)
    values = {
        "peak_lr": lr,
        "critical_momentum": momentum,
        "mean_step": mean_step,
        "critical_mean_step": critical,
        "ratio_at_peak": mean_step / critical,
        "ratio_over_run": over_run,
        "matched_lr": matched,
        "same_step_lr": same,
    }
    relation, clamped = _relation(mean_step / critical), critical_momentum(same) == 0.0
    sentence = (
        f"At the peak, learning rate {lr:.4g}, critmom's momentum is {momentum:.2f} and its mean step {critical:.3g}, "
        f"to this run's {mean_step:.3g}: {relation}; over the run {_relation(over_run)}. The matched learning rate, at "
        f"which momentum {peak.momentum:.3g} takes critmom's step, is {matched:.3g}: compare with it before crediting "
        f"momentum. critmom takes this run's step at learning rate {same:.3g}"
        f"{', where its momentum is clamped to 0, plain SGD' if clamped else ''}."
    )
    if log.settings.weight_decay:
        sentence += f" L2 weight decay of the same value shrinks weights in proportion to the step: {relation}."
    return Finding(TOPIC, "note", sentence, values)


def critical_mean_step(lr: float) -> float:
    """The mean step of critmom at a learning rate: sqrt(lr) / 2 up to 0.25, and lr above, where momentum is 0."""
    return lr / (1.0 - critical_momentum(lr))


def critical_learning_rate(mean_step: float) -> float:
    """The learning rate at which critmom takes a given mean step; the inverse of `critical_mean_step`."""
    return 4.0 * mean_step**2 if mean_step <= 0.25 else mean_step


def _of_critmom(log: TrainingLog, peak: LoggedStep) -> Finding:
    lr, mean_step = peak.lr or 0.0, peak.mean_step or 0.0
    constant = lr / (1.0 - CONSTANT)
    matched = mean_step * (1.0 - CONSTANT)
    sentence = (
        f"This run's momentum is critically damped. At the peak, learning rate {lr:.4g}, its momentum is "
        f"{peak.momentum:.2f} and its mean step {mean_step:.3g} to the {constant:.3g} of constant momentum {CONSTANT}: "
        f"{_relation(constant / mean_step)}. The matched learning rate, at which {CONSTANT} takes this run's step, is "
        f"{matched:.3g}: compare with it (the arm matched) before crediting momentum."
    )
    values = {
        "peak_lr": lr,
        "critical_momentum": peak.momentum,
        "critical_mean_step": mean_step,
        "mean_step": constant,
        "ratio_at_peak": constant / mean_step,
        "matched_lr": matched,
    }
    return Finding(TOPIC, "note", sentence, values)


def _of_adam(log: TrainingLog) -> Finding:
    known = [step for step in log.steps if step.scheduled]
    if not known:
        return Finding(TOPIC, "cannot tell", "Cannot tell: the log holds no learning_rate.")
    is_damped = log.settings.damped is not None
    betas = [
        step.momentum if is_damped and step.momentum is not None else critical_momentum(step.scheduled or 0.0)
        for step in known
    ]
    peak, at_peak = max(((step.scheduled or 0.0), beta) for step, beta in zip(known, betas, strict=True))
    beta = "\N{GREEK SMALL LETTER BETA}\N{SUBSCRIPT ONE}"
    verb = "is" if is_damped else "would be"
    sentence = (
        f"{beta} of critmom_adamw {verb} {at_peak:.3f} at the peak, learning rate {peak:.4g}, and "
        f"{min(betas):.3f} to {max(betas):.3f} over the run. Adam's mean step is the learning rate whatever {beta} is, "
        "so the matched learning rate is this run's own. critmom is SGD, whose steps have another scale: tune its "
        "learning rate."
    )
    values = {"peak_lr": peak, "critical_momentum": at_peak, "matched_lr": peak}
    return Finding(TOPIC, "note", sentence, values)


def _relation(ratio: float) -> str:
    """How a step compares with another that is ``ratio`` times as large."""
    if abs(ratio - 1.0) < SAME:
        return "the same"
    return f"{ratio:.2g} times smaller" if ratio > 1.0 else f"{1.0 / ratio:.2g} times larger"
