"""What the tuning of a comparison was, and what it chose, in sentences."""

from collections.abc import Callable, Sequence

from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX
from hf_critmom.experiments.comparison.findings.sentences import join_names
from hf_critmom.experiments.comparison.plan import Plan, Trial
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.tuning import BestTrial, JudgedTrial


def describe_tuning(plan: Plan, choices: Sequence[BestTrial], *, name: Callable[[str], str] = str) -> list[str]:
    """Sentences on the grid, on how a trial was chosen, and on choices that need a word; empty without choices.

    Args:
        plan: The plan.
        choices: The best trial of each arm and budget.
        name: Formats the name of an arm.
    """
    if plan.tuning is None or not choices:
        return []
    metric = Metric(plan.task.metric, plan.task.greater_is_better)
    arms = list(dict.fromkeys(one.arm for one in choices))
    unit = "mean step" if plan.tuning.unit == "step" else "learning rate"
    grid = f"{_factors(unit, plan.tuning.learning_rate)}, {_factors('weight decay', plan.tuning.weight_decay)}"
    whose = "Every arm" if len(arms) == len(plan.arms) else join_names([name(arm) for arm in arms])
    last = f"best last validation {metric.title}"
    best = last if plan.tuning.chosen_by == "last" else (
        f"fewest steps to the targets (by the mean of their logarithms; among equals, the {last})"
    )  # fmt: skip
    sentences = [
        f"{whose} had the same trials: {grid}, all with seed {plan.tuning.seed}, which no compared run uses.",
        f"The trial with the {best} was chosen; the test split was not read.",
    ]
    if any(one.edges for one in choices):
        further = ": the same command with further factors makes only the added trials" if plan.tuning.can_grow else ""
        sentences.append(f"A choice on the edge of the grid may improve further beyond it{further}.")
    kept = [arm for arm in arms if all(one.trial == Trial() for one in choices if one.arm == arm)]
    if kept:
        tuned = join_names([name(f"{arm}{TUNED_SUFFIX}") for arm in kept])
        own = join_names([name(arm) for arm in kept])
        runs = "has the same runs as" if len(kept) == 1 else "have the same runs as"
        sentences.append(f"The best point of {own} was what the arm had anyway: {tuned} {runs} {own}.")
    return sentences


def tuned_quantity(trials: Sequence[JudgedTrial]) -> str:
    """The quantity over which trials are drawn: learning_rate, unless only weight_decay was varied."""
    for arm in {one.arm for one in trials}:
        if len({one.learning_rate for one in trials if one.arm == arm}) > 1:
            return "learning_rate"
    return "weight_decay"


def _factors(quantity: str, factors: Sequence[float]) -> str:
    return f"its own {quantity} times {', '.join(f'{factor:g}' for factor in factors)}"
