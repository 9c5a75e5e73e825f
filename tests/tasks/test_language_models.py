"""Claims about metrics of text and about language models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.text_data import (
    BLOCK,
    SIZES,
    SMALL,
    documents,
    error_of,
    one_sentence,
    task_on,
    text_task_of,
    write_texts,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    ByT5Tokenizer,
    EvalPrediction,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from hf_critmom.commands.compare import parse_comparison
from hf_critmom.tasks import (
    ModelArguments,
    TaskError,
    TextTask,
    build_model,
    check_model,
)
from hf_critmom.tasks.metrics import language_metrics, token_statistics

# ------------------------------------------------------------------------------------------------------------ metrics


def statistics_slowly(logits: torch.Tensor, labels: torch.Tensor) -> list[list[float]]:
    """The reference twin: token by token."""
    rows = []
    for row in range(len(labels)):
        loss = right = counted = 0.0
        for place in range(1, labels.shape[1]):
            label = int(labels[row, place])
            if label != -100:
                scores = logits[row, place - 1].double()
                loss -= float(scores[label] - scores.exp().sum().log())
                right += int(scores.argmax()) == label
                counted += 1
        rows.append([loss, right, counted])
    return rows


def test_token_statistics_equal_the_reference_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 7, generator=generator)
    labels = torch.randint(0, 7, (4, 9), generator=generator)
    labels[1, 3:6], labels[2, :], labels[3, 0] = -100, -100, -100
    for given in (logits, (logits, "past")):
        found = token_statistics(given, labels)
        torch.testing.assert_close(found, torch.tensor(statistics_slowly(logits, labels)), rtol=1e-5, atol=1e-5)


def test_metrics_are_of_all_tokens_together() -> None:
    predictions = np.array([[8.0, 1.0, 4.0], [2.0, 2.0, 6.0]], dtype=np.float32)
    found = language_metrics(0.5)(EvalPrediction(predictions, np.zeros((2, 7))))
    assert found["perplexity"] == pytest.approx(math.e)
    assert found["bits_per_byte"] == pytest.approx(0.5 / math.log(2.0))
    assert found["accuracy"] == pytest.approx(0.3)


@pytest.mark.parametrize(("loss", "perplexity"), [(1e6, math.inf), (math.inf, math.inf), (math.nan, math.nan)])
def test_a_diverged_model_has_no_finite_perplexity(loss: float, perplexity: float) -> None:
    found = language_metrics(1.0)(EvalPrediction(np.array([[loss, 0.0, 1.0]]), np.zeros((1, 2))))
    np.testing.assert_equal(found["perplexity"], perplexity)


@pytest.mark.parametrize("tokens", ["bytes", "words"])
def test_the_trainers_metrics_follow_from_its_loss_and_the_texts_size(tmp_path: Path, words: Path, tokens: str) -> None:
    model = ModelArguments(**vars(SMALL) | {"tokenizer_name": None if tokens == "bytes" else str(words)})
    task = task_on(write_texts(tmp_path, documents(40)), model)
    trainer = Trainer(
        build_model(task, model, seed=0),
        TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=7, use_cpu=True, report_to="none", remove_unused_columns=False
        ),
        data_collator=task.collator,
        preprocess_logits_for_metrics=task.preprocess_logits,
    )
    for split, compute in ((task.validation, task.compute_metrics), (task.test, task.compute_test_metrics)):
        trainer.compute_metrics = compute
        found = trainer.predict(split, metric_key_prefix="test").metrics
        loss = found["test_loss"]
        assert found["test_bits_per_byte"] == pytest.approx(loss / math.log(2.0) * split.tokens_per_byte, rel=1e-5)
        assert found["test_perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert (task.validation.tokens_per_byte < 0.7) == (tokens == "words")
    assert tokens == "bytes" or task.validation.tokens_per_byte != task.test.tokens_per_byte


# ------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_weights_are_a_function_of_the_seed_alone(library: TextTask, name: str) -> None:
    arguments = ModelArguments(**vars(SMALL) | {"model": name})
    first = build_model(library, arguments, seed=3).state_dict()
    torch.rand(100)  # what was drawn in between must not matter
    again, other = (build_model(library, arguments, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_model_is_made_for_the_tokens_and_the_block(library: TextTask, name: str) -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = build_model(library, ModelArguments(model=name, **sizes), seed=0)
    config = model.config
    assert (config.model_type, config.vocab_size, config.max_position_embeddings) == (name, 259, 128)
    assert {size: getattr(config, size) for size in sizes} == sizes
    assert config.eos_token_id == library.tokenizer.eos_token_id
    check_model(model, library)
    model.train()
    batch = library.train.__getitems__([0, 1])
    assert torch.equal(model(**batch).logits, model(**batch).logits)  # no dropout


def test_gpt2_is_the_usual_one() -> None:
    assert parse_comparison(["--task", "text"]).model.model is None
    task = text_task_of(task="text", max_train_samples=10)
    assert build_model(task, ModelArguments(), seed=0).config.model_type == "gpt2"


@pytest.mark.parametrize(
    ("flags", "words_of_it"),
    [
        ({"width": 16}, ("--width", "gpt2", "--hidden_size")),
        ({"patch_size": 4}, ("--patch_size", "gpt2")),
        ({"hidden_size": 10, "num_attention_heads": 3}, ("--hidden_size 10", "--num_attention_heads 3")),
        ({"num_hidden_layers": 0}, ("--num_hidden_layers 0",)),
        ({"model": "vit"}, ("'vit'", "gpt2", "llama")),
    ],
)
def test_a_model_that_cannot_be_is_refused(
    library: TextTask, flags: dict[str, Any], words_of_it: tuple[str, ...]
) -> None:
    with pytest.raises(TaskError) as caught:
        build_model(library, ModelArguments(**flags), seed=0)
    assert all(word in one_sentence(caught.value) for word in words_of_it)


def saved_gpt2(folder: Path, vocab_size: int = 259, positions: int = 64) -> str:
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=vocab_size, n_positions=positions)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_brings_its_tokenizer(tmp_path: Path, words: Path) -> None:
    checkpoint = saved_gpt2(tmp_path / "saved", vocab_size=400)
    AutoTokenizer.from_pretrained(words).save_pretrained(checkpoint)
    arguments = ModelArguments(model_name_or_path=checkpoint)
    task = task_on(write_texts(tmp_path / "texts", documents(30)), arguments)
    assert task.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(words).get_vocab()
    check_model(build_model(task, arguments, seed=0), task)


def test_a_checkpoint_without_tokenizer_needs_one(tmp_path: Path) -> None:
    for model_type in ("gpt2", "llama"):
        config = AutoConfig.for_model(model_type, vocab_size=259, **SIZES)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / model_type)
        message = error_of(ModelArguments(model_name_or_path=str(tmp_path / model_type)))
        assert "tokenizer" in message and str(tmp_path / model_type) in message


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(tmp_path: Path, words: Path) -> None:
    arguments = ModelArguments(model_name_or_path=saved_gpt2(tmp_path / "saved"), tokenizer_name=str(words))
    task = task_on(write_texts(tmp_path / "texts", documents(30)), arguments)
    with pytest.raises(TaskError) as caught:
        build_model(task, arguments, seed=0)
    assert f"{len(task.tokenizer)} tokens" in one_sentence(caught.value) and "embeds 259" in str(caught.value)


def test_a_block_longer_than_the_models_positions_is_refused(tmp_path: Path) -> None:
    checkpoint = saved_gpt2(tmp_path / "saved", positions=BLOCK - 1)
    ByT5Tokenizer(extra_ids=0).save_pretrained(checkpoint)
    arguments = ModelArguments(model_name_or_path=checkpoint)
    task = task_on(write_texts(tmp_path / "texts", documents(30)), arguments)
    with pytest.raises(TaskError) as caught:
        build_model(task, arguments, seed=0)
    assert f"--block_size {BLOCK} exceeds the {BLOCK - 1} positions" in one_sentence(caught.value)
