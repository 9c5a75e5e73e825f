"""What the tuning of a comparison was, and what it chose, in sentences."""

import math
from collections.abc import Callable, Sequence

from hf_critmom.experiments.comparison.arguments import MAX_NUM_SEEDS
from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX
from hf_critmom.experiments.comparison.findings.descriptions import format_epochs
from hf_critmom.experiments.comparison.findings.sentences import join_seeds
from hf_critmom.experiments.comparison.plan import Plan, Trial
from hf_critmom.experiments.comparison.results import Results
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.tuning import BestTrial, JudgedTrial, spread_over_seeds
from hf_critmom.reporting.text import counted, join_names


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
        f"{whose} had the same trials: {grid}, {_seeds(plan.tuning.seeds)} no compared run uses.",
        f"The trial with the {best} was chosen; the test split was not read.",
    ]
    if any(one.edges for one in choices):
        more = "; the same command with more factors runs only the added trials" if plan.tuning.can_grow else ""
        sentences.append(f"Where a choice is on the edge of the grid, a value beyond it may be better{more}.")
    kept = [arm for arm in arms if all(one.trial == Trial() for one in choices if one.arm == arm)]
    if kept:
        tuned = join_names([name(f"{arm}{TUNED_SUFFIX}") for arm in kept])
        own = join_names([name(arm) for arm in kept])
        runs = "has the same runs as" if len(kept) == 1 else "have the same runs as"
        sentences.append(f"The best point of {own} was what the arm had anyway: {tuned} {runs} {own}.")
    return sentences


def doubtful_choices(plan: Plan, results: Results, trials: Sequence[JudgedTrial], epochs: float | None) -> str:
    """A sentence on arms whose best trial may be the best by chance; empty if there are none, or nothing is known.

    With k seeds per point and the standard deviation s of log steps from seed to seed (`spread_over_seeds`), the
    difference of two points that are equally good has the standard deviation s sqrt(2 / k). A choice is doubtful if
    another point is within twice that of the best, unless the wrong choice could cost no more than the margin below
    which a difference counts as none. More points need no other threshold: that one is overlooked takes a better point
    that comes out worse by twice the deviation, and no third one in between.

    Args:
        plan: The plan.
        results: Results of the finished runs.
        trials: The judged trials at one budget.
        epochs: The budget; None if the comparison has only one.
    """
    best = {one.arm: one for one in trials if one.chosen}
    if plan.tuning is None or plan.tuning.chosen_by != "time" or not best:
        return ""
    every = {**results.runs, **results.trials}
    same = {run: result for run, result in every.items() if run.epochs == epochs and run.arm in plan.arms}
    if not (spread := spread_over_seeds(plan, same)):
        return ""
    number, harmless = len(plan.tuning.seeds), math.log1p(plan.margin)
    chance = 2.0 * spread * math.sqrt(2.0 / number)
    if chance <= harmless:
        return ""
    arms = [
        arm
        for arm, chosen in best.items()
        if any(
            one.steps is not None and chosen.steps is not None and math.log(one.steps / chosen.steps) < chance
            for one in trials
            if one.arm == arm and (one.learning_rate, one.weight_decay) != (chosen.learning_rate, chosen.weight_decay)
        )  # factors of a weight decay of zero make the same point
    ]
    if not arms:
        return ""
    at = "" if epochs is None else f" at {format_epochs(epochs)}"
    whose = "every arm" if len(arms) == len(plan.arms) > 2 else join_names(arms)
    needed = math.ceil(2.0 * (2.0 * spread / harmless) ** 2)
    remedy = (
        f"with --trial_seeds {needed}, chance would probably cost at most {plan.margin:.0%}"
        if needed <= MAX_NUM_SEEDS
        else f"even with --trial_seeds {MAX_NUM_SEEDS}, chance could cost more than the margin of {plan.margin:.2%}"
    )
    return (
        f"With {counted(number, 'seed')} per trial, chance may have decided which one was the best for "
        f"{whose}{at}: from seed to seed, the steps to the targets vary by {math.expm1(spread):.0%} (standard "
        f"deviation), and another trial was within {math.expm1(chance):.0%} of the best. A verdict on tuned variants "
        f"is one on the chosen values, which need not be the best; {remedy}."
    )


def tuned_quantity(trials: Sequence[JudgedTrial]) -> str:
    """The quantity over which trials are drawn: learning_rate, unless only weight_decay was varied."""
    for arm in {one.arm for one in trials}:
        if len({one.learning_rate for one in trials if one.arm == arm}) > 1:
            return "learning_rate"
    return "weight_decay"


def _seeds(seeds: Sequence[int]) -> str:
    """The seeds of the trials, to be followed by what is said of them."""
    if len(seeds) == 1:
        return f"all with seed {seeds[0]}, which"
    return f"each with seeds {join_seeds(seeds)}, which"


def _factors(quantity: str, factors: Sequence[float]) -> str:
    return f"its own {quantity} times {', '.join(f'{factor:g}' for factor in factors)}"
