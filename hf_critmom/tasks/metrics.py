"""Metrics that need nothing from the network."""

from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from transformers import EvalPrediction


class Accuracy(evaluate.Metric):
    """Share of predictions that equal their reference.

    The same number as ``evaluate.load("accuracy")``, which would fetch its script from the Hub.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions and references: class indices.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def accuracy_of(prediction: EvalPrediction) -> dict[str, float]:
    """``compute_metrics`` for classification whose logits `predicted_class` has reduced to class indices."""
    return Accuracy(keep_in_memory=True).compute(predictions=prediction.predictions, references=prediction.label_ids)


def predicted_class(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """``preprocess_logits_for_metrics``: the class with the largest logit, so that logits need not be gathered."""
    if isinstance(logits, tuple):
        logits = logits[0]
    return logits.argmax(dim=-1)
