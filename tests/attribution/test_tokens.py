"""Claims about the attribution of language models: what is counted are tokens."""

import pytest
import torch
from helpers.attributions import assert_is, assert_same, naive_norms
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertForTokenClassification,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from hf_critmom.attribution import (
    AttributionError,
    attribute_gradients,
    predict,
)
from hf_critmom.attribution.predictions import model_loss, shifts_labels

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


# ----------------------------------------------------------------------------------------- where the loss takes a label


def bart():
    """Named as those that shift labels are, and does not."""
    return BartForCausalLM(
        BartConfig(
            vocab_size=12, d_model=8, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8,
            max_position_embeddings=16, is_decoder=True, is_encoder_decoder=False, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        )
    )  # fmt: skip


def llava():
    """Named as those that do not shift labels are, and does."""
    text = LlamaConfig(
        vocab_size=12, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=11))


def t5():
    return T5ForConditionalGeneration(
        T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


@pytest.mark.parametrize(("build", "expected"), [(bart, False), (llava, True), (t5, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_loss_does_decides_where_its_labels_belong_and_not_a_name(build, expected, dtype):
    set_seed(0)
    model = build().to(dtype).eval()
    batch = padded(texts([3, 9, 5]))
    assert shifts_labels(model, model_loss, batch) is expected
    model = model.float()
    labels, logits = batch["labels"], model(**batch).logits
    at_places = logits[:, :-1] if expected else logits
    labels = labels[:, 1:] if expected else labels
    ours = nn.functional.cross_entropy(at_places.flatten(0, 1), labels.flatten())
    loader = DataLoader(texts([3, 9, 5]), 3, collate_fn=padded)
    attribution = attribute_gradients(model, loader, select="all")
    assert attribution.loss == pytest.approx(ours.item(), rel=1e-5)
    assert attribution.total == int((labels != -100).sum())
    right = (at_places.argmax(-1) == labels)[labels != -100]
    assert predict(model, loader).accuracy == pytest.approx(right.float().mean().item())


class Tagger(nn.Module):
    """Logits of 5 classes at each place, and a loss that compares them with the labels some places on."""

    def __init__(self, shift, confident=1.0, **loss):
        super().__init__()
        set_seed(0)
        self.table, self.shift, self.confident, self.loss = nn.Embedding(12, 5), shift, confident, loss
        self.calls = 0

    def forward(self, input_ids, labels):
        self.calls += 1
        logits = self.confident * self.table(input_ids)
        ours, theirs = logits[:, : logits.shape[1] - self.shift], labels[:, self.shift :]
        return {"loss": nn.functional.cross_entropy(ours.transpose(1, 2), theirs, **self.loss), "logits": logits}


def tagged(lengths):
    rows = texts(lengths)
    return [{"input_ids": row["input_ids"], "labels": row["input_ids"] % 5} for row in rows]


LOSSES = {"plain": {}, "smoothed": {"label_smoothing": 0.3}, "summed": {"reduction": "sum"},
          "weighted": {"weight": torch.tensor([0.1, 5.0, 1.0, 0.3, 2.0])}}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("confident", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("shift", [0, 1])
def test_smoothing_weights_scale_and_confidence_make_no_difference_to_that(loss, confident, shift):
    model = Tagger(shift, confident, **LOSSES[loss])
    batch = torch.utils.data.default_collate(tagged([6, 6, 6]))
    assert shifts_labels(model, model_loss, batch) is bool(shift)
    without = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert shifts_labels(model, model_loss, without) is bool(shift)


def test_finding_out_costs_a_few_texts_and_not_a_pass():
    calls = []
    for batches in (2, 6):
        model = Tagger(1)
        predict(model, DataLoader(tagged([6] * 4 * batches), 4))
        calls.append(model.calls - batches)
    assert calls == [4, 4]


def test_a_loss_that_takes_labels_from_elsewhere_is_refused():
    with pytest.raises(AttributionError, match="neither with the logits of their own places"):
        predict(Tagger(2), DataLoader(tagged([6] * 4), 4))
    with pytest.raises(AttributionError, match="is not finite"):
        attribute_gradients(Tagger(0, confident=float("nan")), DataLoader(tagged([6] * 4), 4))


def test_texts_of_one_token_have_no_next_one():
    batch = torch.utils.data.default_collate(tagged([1, 1]))
    assert shifts_labels(Tagger(1), model_loss, batch) is True
    assert shifts_labels(Tagger(0), model_loss, batch) is False
