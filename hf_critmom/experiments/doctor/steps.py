"""Learning rate, momentum and clipping of a training's steps."""

import math
from statistics import median

from hf_critmom.experiments.doctor.finding import Finding
from hf_critmom.experiments.doctor.log import TrainingLog
from hf_critmom.experiments.doctor.settings import ARGUMENTS_FILE
from hf_critmom.reporting.text import counted

TO_LOG = "hf-critmom run logs it in any script, DampingCallback in any Trainer."
MOSTLY = 0.5
"""Share of clipped steps above which clipping sets the size of most steps."""


def run(log: TrainingLog) -> Finding:
    """Optimizer, batch size and progress of the training, with their sources."""
    settings = log.settings
    optimizer = settings.optimizer or "unknown optimizer"
    taken = f"{log.step:,} of {counted(log.max_steps, 'step')}" if log.max_steps else counted(log.step, "step")
    epochs = "" if log.epoch is None else f", {log.epoch:.4g} epoch{'' if log.epoch == 1.0 else 's'}"
    batch = "batch size not known" if settings.batch_size is None else f"batch size {settings.batch_size:,}"
    doubt = ", unless the script built an optimizer of its own" if settings.source == ARGUMENTS_FILE else ""
    source = f" ({settings.source}{doubt})" if settings.optimizer else ""
    log_of = f"log: {log.source}, {counted(len(log.steps), 'logging step')}"
    sentence = " ".join([f"{optimizer}{source}, {batch}, {taken}{epochs}; {log_of}.", *settings.notes])
    values = {
        "optimizer": settings.optimizer,
        "optimizer_source": settings.source or None,
        "batch_size": settings.batch_size,
        "steps": log.step,
        "max_steps": log.max_steps,
        "epoch": log.epoch,
        "log": log.source,
        "logging_steps": len(log.steps),
    }
    unknown = settings.optimizer is None or not log.steps
    return Finding("run", "warning" if settings.notes else "cannot tell" if unknown else "fine", sentence, values)


def learning_rate(log: TrainingLog) -> Finding:
    """Peak, start and end of the schedule."""
    known = [(step.step, step.scheduled) for step in log.steps if step.scheduled is not None]
    if not known:
        return Finding("learning rate", "cannot tell", "Cannot tell: the log holds no learning_rate.")
    at, peak = max(known, key=lambda one: (one[1], -one[0]))
    first, last = known[0], known[-1]
    values = {"peak": peak, "peak_step": at, "first": first[1], "last": last[1], "last_step": last[0]}
    parts = [f"{peak:.4g} at its peak, step {at:,}"]
    if math.isclose(min(lr for _, lr in known), peak, rel_tol=1e-6):
        parts = [f"{peak:.4g} at every logging step"]
    else:
        if first[1] < 0.99 * peak:
            parts.append(f"{first[1]:.3g} at the first logging step ({first[0]:,})")
        if last[1] < 0.99 * peak:
            parts.append(f"{last[1]:.3g} at the last ({last[0]:,})")
    return Finding("learning rate", "fine" if peak > 0.0 else "warning", f"{', '.join(parts)}.", values)


def momentum(log: TrainingLog) -> Finding:
    """The momentum of the steps, or Adam's beta1."""
    known = [step.momentum for step in log.steps if step.momentum is not None]
    settings = log.settings
    if not known:
        why = (
            "a schedule changes it, and the log does not hold it" if settings.scheduled else "the log does not hold it"
        )
        return Finding("momentum", "cannot tell", f"Cannot tell: {why}. {TO_LOG}")
    name = "\N{GREEK SMALL LETTER BETA}\N{SUBSCRIPT ONE}" if settings.kind == "adam" else "Momentum"
    low, high = min(known), max(known)
    source = _source(log)
    follows = " It follows the learning rate (critical damping)." if settings.damped is not None else ""
    if math.isclose(low, high, rel_tol=1e-9):
        sentence = f"{name} {low:.4g} at every logging step ({source})."
        if low == 0.0 and settings.kind == "sgd":
            sentence += " torch's SGD has none by default: pass --optim_args momentum=0.9."
            return Finding("momentum", "note", sentence, {"low": low, "high": high})
    else:
        sentence = f"{name} {low:.4g} to {high:.4g} ({source}).{follows}"
    return Finding("momentum", "fine", sentence, {"low": low, "high": high})


def why_not_computed(log: TrainingLog) -> str:
    """Why no step has a damping ratio and a mean step of SGD with momentum, as a sentence."""
    settings, steps = log.settings, log.steps
    if settings.kind is None:
        why = "the optimizer is not known"
        if settings.optimizer is not None:
            why = "damping ratio and mean step are not computed for this optimizer"
    elif all(step.momentum is None for step in steps):
        why = "the momentum of the steps is not known"
    elif settings.rescaled and all(step.lr is None for step in steps):
        replaced = f"{settings.optimizer} replaces the schedule's learning rate"
        return f"Cannot tell: {replaced}, and the log does not hold the one that the steps took. {TO_LOG}"
    elif settings.weighted and all(step.nu is None for step in steps):
        weight = f"the weight nu of {settings.optimizer}"
        return f"Cannot tell: {weight} changes with the learning rate, and the log does not hold it. {TO_LOG}"
    else:
        why = "no logging step has a learning rate above 0 and a momentum below 1"
    return f"Cannot tell: {why} (see above)."


def clipping(log: TrainingLog) -> Finding:
    """How often the gradient was clipped."""
    limit = log.settings.max_grad_norm
    norms = [step.grad_norm for step in log.steps if step.grad_norm is not None]
    if limit == 0.0:
        return Finding("clipping", "fine", "Gradients are not clipped (max_grad_norm 0).", {"max_grad_norm": 0.0})
    if not norms:
        return Finding("clipping", "cannot tell", "Cannot tell: the log holds no grad_norm.", {"max_grad_norm": limit})
    finite = [norm for norm in norms if math.isfinite(norm)]
    if not finite:
        sentence = "Cannot tell: no grad_norm in the log is finite."
        return Finding("clipping", "cannot tell", sentence, {"max_grad_norm": limit})
    middle = median(finite)
    if limit is None:
        sentence = (
            f"Cannot tell: the norm that gradients are clipped to is not known (no training_args.bin; the Trainer's "
            f"default is 1). The median gradient norm is {middle:.3g}."
        )
        return Finding("clipping", "cannot tell", sentence, {"median_norm": middle})
    share = sum(norm > limit for norm in finite) / len(finite)
    values = {"max_grad_norm": limit, "clipped_share": share, "median_norm": middle}
    sentence = f"{share:.0%} of the logging steps were clipped to {limit:g}; the median gradient norm is {middle:.3g}."
    if share > MOSTLY and log.settings.kind == "sgd":
        sentence += (
            f" So clipping sets the size of most steps: at the median it divides the learning rate by "
            f"{middle / limit:.3g}, and the damping below is that of unclipped steps."
        )
        return Finding("clipping", "warning", sentence, values)
    return Finding("clipping", "note" if share > MOSTLY else "fine", sentence, values)


def _source(log: TrainingLog) -> str:
    """Where the momentum of the steps is known from."""
    logged = sum(step.is_logged for step in log.steps)
    found = f"from {log.settings.source}"
    if log.settings.damped is not None:
        found = f"computed from the learning rate, by the options in {log.settings.source}"
    if not logged:
        return found
    count = len(log.steps)
    return "logged" if logged == count else f"logged at {logged:,} of {count:,} logging steps, else {found}"
