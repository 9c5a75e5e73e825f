"""Metrics that are computed without the network."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from transformers import EvalPrediction


@dataclass(frozen=True)
class MetricSpec:
    """A metric in which targets can be given.

    Attributes:
        name: Name, without the prefix of a split.
        greater_is_better: True if targets are reached from below, False if from above.
        above: Value that every target must exceed.
        at_most: Value that no target may exceed.
        in_words: Valid targets, for messages.
    """

    name: str
    greater_is_better: bool
    above: float
    at_most: float
    in_words: str


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec("accuracy", True, 0.0, 1.0, "accuracies in (0, 1]"),
        MetricSpec("bits_per_byte", False, 0.0, math.inf, "bits per byte, above 0"),
        MetricSpec("perplexity", False, 1.0, math.inf, "perplexities, above 1"),
    )
}

_LESS_IS_BETTER = re.compile(
    "(?:log)?loss|losses|nll|perplexity|ppl|(?:cross)?entropy|bits|bp[bcd]|divergence|kl|err|errors?|[wctmd]er|h?ter|eer"
    "|mae|mse|rmse|s?mape|mase|r?msle|distance|fid|kid|brier|ece|regret"
)
"""Words in the name of a metric of which smaller values are better, in small letters."""


def is_greater_better(metric: str) -> bool:
    """Whether larger values of a metric are better, by the words of its name."""
    words = re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric).lower())
    return "neg" in words or not any(map(_LESS_IS_BETTER.fullmatch, words))  # neg_log_loss is one of scikit-learn's


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
    """``preprocess_logits_for_metrics``: the class with the largest logit, so that logits are not gathered."""
    if isinstance(logits, tuple):
        logits = logits[0]
    return logits.argmax(dim=-1)


def token_statistics(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """``preprocess_logits_for_metrics`` of causal language models: sums over the tokens of each row.

    Args:
        logits: (rows, tokens, vocabulary); those at a token predict the next one.
        labels: (rows, tokens); -100 marks tokens that are not predicted. The first token of a row never is.

    Returns:
        (rows, 3): sum of the negative log-likelihoods of the predicted tokens in nats, number of those that are
        predicted correctly, and number of all predicted tokens.
    """
    if isinstance(logits, tuple):
        logits = logits[0]
    logits, labels = logits[:, :-1].float(), labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    counted = labels != -100
    right = (logits.argmax(dim=-1) == labels) & counted
    return torch.stack([losses.sum(dim=1), right.sum(dim=1).float(), counted.sum(dim=1).float()], dim=1)


def language_metrics(tokens_per_byte: float) -> Callable[[EvalPrediction], dict[str, float]]:
    """``compute_metrics`` for logits that `token_statistics` has reduced.

    With the mean negative log-likelihood per predicted token, ``loss``, in nats: ``bits_per_byte`` is
    ``loss / ln 2 * tokens_per_byte``, which compares models with different tokenizers; ``perplexity`` is
    ``exp(loss)``, per token; ``accuracy`` is the share of tokens that are predicted correctly.

    Args:
        tokens_per_byte: Number of tokens of the evaluated text over its number of UTF-8 bytes.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        losses, right, counted = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
        loss = losses / counted
        with np.errstate(over="ignore"):  # a diverging model's perplexity is infinite
            perplexity = np.exp(loss)
        return {
            "bits_per_byte": float(loss) / math.log(2.0) * tokens_per_byte,
            "perplexity": float(perplexity),
            "accuracy": float(right / counted),
        }

    return compute
