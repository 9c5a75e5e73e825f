"""Localizes and diagnoses: gradients on a network's errors, and the groups that they point to."""

import copy
from typing import Any

from hf_critmom.attribution.attribution import attribute_gradients, predict
from hf_critmom.attribution.doubtful_labels import find_doubtful_labels
from hf_critmom.attribution.problems import TOP, diagnose
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
    trainer = network.scratch_trainer(model)
    loader, accelerator = trainer.get_eval_dataloader(diagnosis_dataset), trainer.accelerator
    predictions = predict(model, loader, accelerator=accelerator)
    if not predictions.wrong.any():
        raise RepairError(
            f"There are no errors to repair: all {int(predictions.counted.sum()):,} items of the diagnosis split "
            "are predicted correctly. Give a split with errors."
        )
    attribution = attribute_gradients(model, loader, groups=network.layers, accelerator=accelerator)
    correct = None
    matched = predictions.matched(network.args.seed)
    if matched.any():  # the classes with errors may have no correctly classified example
        correct = attribute_gradients(model, loader, groups=network.layers, select=matched, accelerator=accelerator)
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
    trainer = network.scratch_trainer(model)
    loader = trainer.get_eval_dataloader(diagnosis_dataset)
    predictions = predict(model, loader, accelerator=trainer.accelerator, probabilities=True)
    wrong, counted = int(predictions.wrong.sum()), int(predictions.counted.sum())
    return DoubtfulLabels(split, wrong, counted, tuple(find_doubtful_labels(predictions)))
