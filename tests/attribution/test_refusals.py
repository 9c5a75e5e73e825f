"""Bad input to an attribution is one sentence."""

import math

import numpy as np
import pytest
import torch
from helpers.attributions import Branching, vectors
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
    assert "batch_size must be at least 1, and whole, got 0" in refused(model, loader, batch_size=0)
    assert "num_top_rows must be at least 1" in refused(model, loader, select="top_loss", num_top_rows=-1)
    assert "confidence" in refused(model, loader, confidence=95.0)
    assert "does not fit the dataset" in refused(model, loader, select=np.ones(3, dtype=bool))
    assert "does not fit the dataset" in refused(model, loader, select=np.ones((160, 2), dtype=bool))
    longer = refused(model, loader, select=np.ones(5000, dtype=bool))
    assert "A mask of shape (5000,) does not fit the dataset, which has 160 rows" in longer
    assert "got int64 values of shape (2,)" in refused(model, loader, select=np.array([3, 5]))
    for name in ("batch_size", "num_top_rows"):
        assert f"{name} must be at least 1, and whole, got 2.5" in refused(model, loader, **{name: 2.5})


@pytest.mark.parametrize("made", [list, tuple, torch.tensor])
def test_a_mask_may_be_a_list_or_a_tensor(model, loader, made):
    mask = np.arange(160) % 7 == 0
    assert attribute_gradients(model, loader, select=made(mask.tolist())).selected == mask.sum()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite(model, loader, value):
    with torch.no_grad():
        model.resnet.fc.bias[0] = value
    sentence = refused(model, loader, select="all")
    assert "not finite" in sentence and "conv1" in sentence and "fc" in sentence


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("num_top_rows", [1, 8, 500])
def test_rows_of_largest_loss_that_are_not_finite(model, loader, value, num_top_rows):
    with torch.no_grad():
        model.resnet.fc.bias[0] = value
    assert "not finite" in refused(model, loader, select="top_loss", num_top_rows=num_top_rows)


@pytest.mark.parametrize("select", ["misclassified", "top_loss"])
def test_a_single_row_that_is_not_a_number(select):
    rows = vectors()
    wrong = int(np.flatnonzero(predict(Branching(), DataLoader(rows, 8)).wrong)[0])
    rows[wrong] = {**rows[wrong], "inputs": torch.full((4,), math.nan), "labels": torch.tensor(2)}
    assert "not finite" in refused(Branching(), DataLoader(rows, 8), select=select, num_top_rows=3)


def test_a_loss_that_is_not_finite_while_its_gradient_is(loader):
    def compute_loss(model, inputs):
        outputs = model(inputs["pixel_values"])
        return nn.functional.cross_entropy(outputs.logits, inputs["labels"]) + math.inf, outputs

    assert "The loss of Lossless is inf" in refused(Lossless(), loader, compute_loss=compute_loss)


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


def test_every_number_is_a_target_and_an_example_counts_once_for_all_its_labels():
    rows = [{"inputs": row["inputs"], "labels": row["inputs"].sum()} for row in vectors()]
    rows[3]["labels"] = torch.tensor(-100.0)
    attribution = attribute_gradients(Regression(), DataLoader(rows, 8), select="all")
    assert (attribution.selected, attribution.total) == (24, 24)
    whole = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    assert attribution.loss == pytest.approx(Regression()(**whole)["loss"].item(), rel=1e-5)

    def several(model, inputs):
        logits = model.used(inputs["inputs"])
        return nn.functional.binary_cross_entropy_with_logits(logits, inputs["labels"]), {"logits": logits}

    rows = [{"inputs": row["inputs"], "labels": (row["inputs"][:3] > 0).float()} for row in vectors()]
    for select, count in (("all", 24), (np.arange(24) < 5, 5)):
        found = attribute_gradients(Branching(), DataLoader(rows, 8), select=select, compute_loss=several)
        assert (found.selected, found.total, found.unit) == (count, 24, "examples")
