"""Descriptions of what a comparison trained, and for how long."""

from collections.abc import Sequence

from hf_critmom.experiments.comparison.findings.sentences import join_seeds
from hf_critmom.experiments.comparison.plan import Plan, with_tuned
from hf_critmom.reporting.text import counted


def describe_training(plan: Plan, epochs: float | None) -> str:
    """Model, length and learning rate of the training, such as "resnet18 of width 16, 15 epochs, learning rate 0.1".

    Args:
        plan: The comparison's plan.
        epochs: The budget; None if the comparison has only one.
    """
    budget = plan.training_argument("num_train_epochs") if epochs is None else epochs
    max_steps = plan.training_argument("max_steps")
    length = f"{max_steps} steps" if max_steps > 0 else format_epochs(budget)
    rates = {plan.settings(arm)[0] for arm in plan.arms.values()}
    common = any(arm.learning_rate is None for arm in plan.arms.values())
    rate = plan.training_argument("learning_rate") if common else min(rates)
    used = f"learning rate {rate:g}" if common or len(rates) == 1 else "each arm with its own learning rate"
    return f"{_describe_model(plan)}, {length}, {used}"


def describe_seeds(plan: Plan) -> str:
    """The number of seeds of the arms: "5 seeds" or, if some arms have more, "5 to 10 seeds"."""
    names = with_tuned(plan.arms) if plan.tuning is not None else plan.arms
    return format_counts([len(plan.seeds_of([name])) for name in names], "seed")


def list_seeds(plan: Plan) -> str:
    """The seeds, such as "42, 43, 44; adamw without 44"; a tuned variant has those of its arm where it is not named."""
    exceptions = [
        f"{name} without {join_seeds(seeds)}" if seeds else f"{name} with all" for name, seeds in plan.left_out.items()
    ]
    return "; ".join([", ".join(map(str, plan.seeds)), *exceptions])


def budget_title(budget: float | None) -> str:
    """Title of one of several budgets; empty if there is only one."""
    return "" if budget is None else format_epochs(budget)


def format_epochs(budget: float) -> str:
    """A number of epochs, such as "15 epochs"."""
    return f"{budget:g} epoch{'' if budget == 1 else 's'}"


def format_counts(counts: Sequence[int], noun: str) -> str:
    """Counts with their noun: "3 evaluations" or, if they differ, "2 to 3 evaluations"."""
    low, high = min(counts), max(counts)
    return counted(high, noun) if low == high else f"{low} to {counted(high, noun)}"


def _describe_model(plan: Plan) -> str:
    """The checkpoint, or the model with its sizes."""
    if "model_name_or_path" in plan.model:
        return plan.model["model_name_or_path"]
    if plan.task.is_script:
        trained, every = plan.model["num_trained_parameters"], plan.model["num_parameters"]
        share = "" if trained == every else f", of which {trained:,} are trained"
        return f"{plan.model['model']} with {every:,} parameters{share}"
    sizes = {name: size for name, size in plan.model.items() if name not in ("model", "num_parameters")}
    shown = ", ".join(f"{name.removeprefix('num_').replace('_', ' ')} {size}" for name, size in sizes.items())
    return f"{plan.model['model']} of {shown}"
