"""What a comparison trained, and for how long, in words."""

from collections.abc import Sequence

from hf_critmom.experiments.comparison.plan import Plan


def training_in_words(plan: Plan, epochs: float | None) -> str:
    """Model, length and learning rate of the training, such as "resnet18 of width 16, 15 epochs, learning rate 0.1".

    Args:
        plan: The comparison's plan.
        epochs: The budget, where the comparison has several; None: the only one.
    """
    budget = plan.training_argument("num_train_epochs") if epochs is None else epochs
    max_steps = plan.training_argument("max_steps")
    length = f"{max_steps} steps" if max_steps > 0 else epochs_in_words(budget)
    return f"{_model_in_words(plan)}, {length}, learning rate {plan.training_argument('learning_rate'):g}"


def budget_title(budget: float | None) -> str:
    """What a budget is called where there are several; empty where there is one."""
    return "" if budget is None else epochs_in_words(budget)


def epochs_in_words(budget: float) -> str:
    """A number of epochs with its noun."""
    return f"{budget:g} epoch{'' if budget == 1 else 's'}"


def counted(counts: Sequence[int], what: str) -> str:
    """Numbers with their noun, "3 seeds" or, where they differ, "2 to 3 seeds"."""
    low, high = min(counts), max(counts)
    return f"{high if low == high else f'{low} to {high}'} {what}{'s' if high != 1 else ''}"


def _model_in_words(plan: Plan) -> str:
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
