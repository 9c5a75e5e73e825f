"""Localizes and diagnoses: gradients on a network's errors, and the groups that they point to."""

import copy
import dataclasses
from typing import Any

import numpy as np

from hf_critmom.attribution.attribution import attribute_gradients, predict
from hf_critmom.attribution.doubtful_labels import find_doubtful_labels
from hf_critmom.attribution.problems import TOP, diagnose
from hf_critmom.attribution.results import Attribution
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.results import DoubtfulLabels
from hf_critmom.experiments.repair.selection import SELECTIONS, Choice, Evidence, in_order
from hf_critmom.experiments.repair.training import Network, friction_of


def diagnose_network(network: Network, settings: RepairSettings, diagnosis_dataset: Any) -> Choice:
    """Chooses the groups to treat.

    Raises:
        RepairError: If there are no errors to repair.
    """
    model = copy.deepcopy(network.model)
    trainer = network.evaluator(model)
    loader, accelerator = trainer.get_eval_dataloader(diagnosis_dataset), trainer.accelerator
    predictions = predict(model, loader, accelerator=accelerator)
    wrong, matched = predictions.wrong, predictions.matched(network.args.seed)
    if not wrong.any():
        raise RepairError(
            f"There are no errors to repair: all {int(predictions.counted.sum()):,} items of the diagnosis split "
            "are predicted correctly. Give a split with errors."
        )

    def of(mask: np.ndarray) -> Attribution:  # nothing is predicted again, so few examples still have an interval
        return attribute_gradients(model, loader, groups=network.layers, select=mask, accelerator=accelerator)

    attribution = dataclasses.replace(of(wrong), select="misclassified", misclassified=int(wrong.sum()))
    correct = of(matched) if matched.any() else None  # the classes with errors may have none
    num_top = min(settings.num_groups or TOP, len(attribution.groups))
    found = diagnose(attribution, correct=correct, num_top=num_top)
    if settings.groups != "auto":
        requested = [settings.groups] if isinstance(settings.groups, str) else settings.groups
        groups = in_order(network.layers.names, network.layers.check(requested))
        return Choice(groups, "The groups were named by the user.", attribution, found)
    evidence = Evidence(attribution, found, lambda: friction_of(network), settings.num_groups)
    selected = SELECTIONS[settings.select].choose(evidence)
    groups = in_order(network.layers.names, selected.groups)
    return Choice(groups, selected.reason, attribution, found, dict(selected.friction))


def find_labels(network: Network, diagnosis_dataset: Any, split: str) -> DoubtfulLabels:
    """Finds misclassified examples with doubtful labels in the diagnosis split, which the network was not trained on.

    Raises:
        AttributionError: If cleanlab is not installed, or examples have no classes.
    """
    model = copy.deepcopy(network.model)
    trainer = network.evaluator(model)
    loader = trainer.get_eval_dataloader(diagnosis_dataset)
    predictions = predict(model, loader, accelerator=trainer.accelerator, probabilities=True)
    wrong, counted = int(predictions.wrong.sum()), int(predictions.counted.sum())
    return DoubtfulLabels(split, wrong, counted, tuple(find_doubtful_labels(predictions)))
