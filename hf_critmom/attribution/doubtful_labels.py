"""Doubtful labels: mistakes of a network that may be mistakes of the data instead.

Confident learning (C. Northcutt, L. Jiang, I. Chuang, *Confident Learning: Estimating Uncertainty in Dataset Labels*,
JAIR 70, 2021) compares each label with the probabilities that a network which has not been trained on the example gives
to the classes: where another class is at least as probable as it is on average for the examples that carry its label,
the label is doubtful. The implementation is cleanlab's, an optional dependency.
"""

import importlib.util
from dataclasses import dataclass

import numpy as np

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.predictions import Predictions


@dataclass(frozen=True)
class DoubtfulLabel:
    """An example whose label is doubtful.

    Attributes:
        index: Its place in the dataset.
        label: Its label, a class index.
        predicted: The class that the network predicts.
        probability: What the network gives to the label, from 0 to 1.
    """

    index: int
    label: int
    predicted: int
    probability: float


def check_doubtful_labels(predictions: Predictions) -> None:
    """Checks that doubtful labels can be found, before any work that needs them.

    Args:
        predictions: Some of the predictions.

    Raises:
        AttributionError: If cleanlab is not installed, or the labels are those of tokens.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise AttributionError(
            "Doubtful labels are found by cleanlab, which is not installed: pip install 'cleanlab>=2.9'."
        )
    if predictions.labels.ndim != 1:
        raise AttributionError(
            "Labels are doubtful or not where examples have classes; those of a text are its tokens."
        )


def find_doubtful_labels(predictions: Predictions) -> list[DoubtfulLabel]:
    """Misclassified examples whose label is doubtful, the most doubtful first.

    Args:
        predictions: Of examples that the network was not trained on, with probabilities.

    Raises:
        AttributionError: If cleanlab is not installed, or the labels are those of tokens.
    """
    check_doubtful_labels(predictions)
    from cleanlab.filter import find_label_issues

    probabilities, labels = predictions.probabilities, predictions.labels
    if probabilities is None:
        raise AttributionError("Doubtful labels are found by the probabilities of the classes: keep them in predict.")
    places = np.flatnonzero(predictions.counted)
    if len(np.unique(labels[places])) < 2:
        return []
    # cleanlab takes labels from 0 without gaps: classes that no example has are left out, and so is their probability.
    present = np.unique(labels[places])
    chances = probabilities[places][:, present].astype(np.float64)
    chances /= np.maximum(chances.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    found = find_label_issues(
        np.searchsorted(present, labels[places]),
        chances,
        return_indices_ranked_by="self_confidence",
        filter_by="confident_learning",
        n_jobs=1,
    )
    return [
        DoubtfulLabel(
            int(row), int(labels[row]), int(predictions.predicted[row]), float(probabilities[row, labels[row]])
        )
        for row in places[found]
        if predictions.predicted[row] != labels[row]
    ]
