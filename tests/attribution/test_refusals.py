"""Bad input to an attribution is one sentence."""

import math

import numpy as np
import pytest
import torch
from helpers.attributions import vectors
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_critmom.attribution import (
    AttributionError,
    attribute_gradients,
    predict,
)

# ------------------------------------------------------------------------------------------------------------ bad input


def refused(model, loader, **options):
    with pytest.raises(AttributionError) as raised:
        attribute_gradients(model, loader, **options)
    sentence = str(raised.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400
    return sentence


def test_no_misclassified_example(model, loader):
    predictions = predict(model, loader)
    right = [row for row, is_right in zip(loader.dataset, predictions.right, strict=True) if is_right]
    sentence = refused(model, DataLoader(right, 32))
    assert f"None of the {len(right)} examples is misclassified" in sentence
    wrong = [row for row, is_right in zip(loader.dataset, predictions.right, strict=True) if not is_right]
    assert "is classified correctly" in refused(model, DataLoader(wrong, 32), select="correct")
    assert "The mask chooses none" in refused(model, loader, select=np.zeros(160, dtype=bool))


def test_an_empty_data_set(model):
    assert "The dataset is empty" in refused(model, DataLoader([], 8))
    with pytest.raises(AttributionError, match="The dataset is empty"):
        predict(model, DataLoader([], 8))


class Lossless(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self):
        super().__init__(PreTrainedConfig())
        self.classifier = nn.Linear(64, 10)

    def forward(self, pixel_values, labels=None):
        return ImageClassifierOutput(logits=self.classifier(pixel_values.flatten(1)))


def test_a_model_without_loss(loader):
    assert "Lossless returned no loss" in refused(Lossless(), loader)


def test_a_loss_of_ones_own_takes_its_place(loader):
    def compute_loss(model, inputs):
        outputs = model(inputs["pixel_values"])
        return nn.functional.cross_entropy(outputs.logits, inputs["labels"]), outputs

    assert attribute_gradients(Lossless(), loader, compute_loss=compute_loss).total == 160


def test_a_loss_without_gradient(loader):
    def compute_loss(model, inputs):
        outputs = model(inputs["pixel_values"])
        return torch.tensor(1.0), outputs

    assert "does not depend on its trainable parameters" in refused(Lossless(), loader, compute_loss=compute_loss)


def test_unknown_groups_selections_and_sizes(model, loader):
    assert "'layre3'" in refused(model, loader, groups=["layre3"])
    assert "misclassified, correct, all, top_loss" in refused(model, loader, select="wrong")
    assert "batch_size must be at least 1, got 0" in refused(model, loader, batch_size=0)
    assert "num_top_rows must be at least 1" in refused(model, loader, select="top_loss", num_top_rows=-1)
    assert "confidence" in refused(model, loader, confidence=95.0)
    assert "does not fit the dataset" in refused(model, loader, select=np.ones(3, dtype=bool))
    assert "does not fit the dataset" in refused(model, loader, select=np.ones((160, 2), dtype=bool))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite(model, loader, value):
    with torch.no_grad():
        model.resnet.fc.bias[0] = value
    sentence = refused(model, loader, select="all")
    assert "not finite" in sentence and "conv1" in sentence and "fc" in sentence


def test_a_gradient_of_zero(loader):
    def compute_loss(model, inputs):
        outputs = model(inputs["pixel_values"])
        return outputs.logits.sum() * 0.0, outputs

    assert "zero everywhere" in refused(Lossless(), loader, compute_loss=compute_loss)


def test_everything_frozen(model, loader):
    model.requires_grad_(False)
    assert "are frozen" in refused(model, loader)


def test_a_model_without_parameters(loader):
    assert "Flatten has no parameters" in refused(nn.Flatten(), loader)


def test_batches_without_labels(model):
    rows = [{"pixel_values": torch.zeros(1, 8, 8)}] * 4
    assert "must be a mapping that holds labels, got one with pixel_values" in refused(model, DataLoader(rows, 2))
    assert "got list" in refused(model, DataLoader([[torch.zeros(3), torch.zeros(3)]] * 4, 2))


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, labels):
        logits = self.layer(inputs)
        return {"loss": (logits[:, 0] - labels).square().mean(), "logits": logits}


def test_a_regression_is_never_misclassified_but_has_gradients():
    rows = [{"inputs": row["inputs"], "labels": row["inputs"].sum()} for row in vectors()]
    assert "cannot be right or wrong" in refused(Regression(), DataLoader(rows, 8))
    attribution = attribute_gradients(Regression(), DataLoader(rows, 8), select="all")
    assert (attribution.selected, attribution.unit) == (24, "examples")
