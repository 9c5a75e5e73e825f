"""Claims about the attribution of language models: what is counted are tokens."""

import pytest
import torch
from helpers.attributions import assert_is, assert_same, naive_norms
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    set_seed,
)

from hf_critmom.attribution import (
    attribute_gradients,
    predict,
)

# --------------------------------------------------------------------------------------------------------------- tokens

IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@pytest.fixture(scope="module")
def language_model():
    set_seed(1)
    config = GPT2Config(vocab_size=12, n_positions=16, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5, **IDS)
    return GPT2LMHeadModel(config)


def texts(lengths):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(0, 12, (length,), generator=generator)} for length in lengths]


def padded(rows):
    """A collator that pads to the longest text of a batch."""
    length = max(len(row["input_ids"]) for row in rows)
    ids = torch.stack([nn.functional.pad(row["input_ids"], (0, length - len(row["input_ids"]))) for row in rows])
    kept = torch.arange(length) < torch.tensor([[len(row["input_ids"])] for row in rows])
    return {"input_ids": ids, "attention_mask": kept.long(), "labels": ids.masked_fill(~kept, -100)}


@pytest.mark.parametrize("select", ["misclassified", "correct", "all"])
@pytest.mark.parametrize("batch_size", [3, 20])
def test_the_items_of_a_language_model_are_its_tokens(language_model, select, batch_size):
    rows = texts([9, 5, 12, 12, 3, 7, 9, 16, 5, 1])
    language_model.eval()
    chosen_losses = []
    total = 0
    for row in rows:
        ids = row["input_ids"]
        logits = language_model(ids[None]).logits[0]
        wrong = logits[:-1].argmax(-1) != ids[1:]
        mask = {"misclassified": wrong, "correct": ~wrong, "all": torch.ones_like(wrong)}[select]
        chosen_losses.append(nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")[mask])
        total += len(wrong)
    losses = torch.cat(chosen_losses)
    loader = DataLoader(rows, batch_size, collate_fn=padded)
    attribution = attribute_gradients(language_model, loader, select=select)
    assert (attribution.unit, attribution.selected, attribution.total) == ("tokens", len(losses), total)
    assert attribution.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert_is(attribution, naive_norms(language_model, losses.mean()), rel=1e-3)


def test_a_mask_of_tokens_fits_texts_of_all_lengths(language_model):
    loader = DataLoader(texts([9, 5, 12, 12, 3, 7, 9, 16]), 3, collate_fn=padded)
    predictions = predict(language_model, loader)
    assert predictions.labels.shape == (8, 16)
    assert_same(
        attribute_gradients(language_model, loader, select=predictions.wrong),
        attribute_gradients(language_model, loader),
    )


def test_a_tagger_predicts_each_token_at_its_own_place():
    set_seed(0)
    config = BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    model = BertForTokenClassification(config).eval()
    ids = torch.randint(0, 12, (6, 5), generator=torch.Generator().manual_seed(0))
    labels = (ids % 3).masked_fill(ids == 0, -100)
    logits = model(ids).logits
    wrong = (logits.argmax(-1) != labels) & (labels != -100)
    loss = nn.functional.cross_entropy(logits[wrong], labels[wrong])
    rows = [{"input_ids": one, "labels": other} for one, other in zip(ids, labels, strict=True)]
    attribution = attribute_gradients(model, DataLoader(rows, 4))
    assert (attribution.selected, attribution.total) == (int(wrong.sum()), int((labels != -100).sum()))
    assert_is(attribution, naive_norms(model, loss))
