"""Claims about tasks of text: tokens, blocks, held-out text, metrics, language models, and comparisons of them."""

import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    ByT5Tokenizer,
    EvalPrediction,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_critmom.commands import main
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.experiments.comparison import runner
from hf_critmom.tasks import (
    DataArguments,
    ModelArguments,
    TaskError,
    TextTask,
    build_model,
    check_model,
    load_task,
    task_name,
    task_spec,
)
from hf_critmom.tasks.blocks import BlockDataset, blocks_of, tokens_of
from hf_critmom.tasks.metrics import language_metrics, token_statistics

BLOCK = 16
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = ModelArguments(**SIZES)


@pytest.fixture(scope="module", autouse=True)
def datasets_cache_of_this_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        yield


@pytest.fixture(scope="module")
def library() -> TextTask:
    return text_task_of(task="text")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level BPE tokenizer whose tokens are several bytes long."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(documents(40), trainer)
    folder = tmp_path_factory.mktemp("words")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder


def documents(count: int, length: int = 300) -> list[str]:
    """Texts of made-up sentences, each with a name of its own in every line."""
    rng = np.random.default_rng(0)
    vocabulary = ["the", "oscillator", "swings", "back", "slowly", "until", "it", "rests", "élan", "größer"]
    texts = []
    for number in range(count):
        text = ""
        while len(text) < length:
            text += f"<{number}> " + " ".join(rng.choice(vocabulary, size=6)) + ".\n"
        texts.append(text)
    return texts


def write_texts(folder: Path, texts: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    return folder


def text_task_of(model: ModelArguments | None = None, **flags: Any) -> TextTask:
    task = load_task(DataArguments(**flags), model)
    assert isinstance(task, TextTask)
    return task


def task_on(folder: Path, model: ModelArguments | None = None, **flags: Any) -> TextTask:
    return text_task_of(model, **{"task": "text", "dataset_name": str(folder), "block_size": BLOCK, **flags})


def text_of(split: BlockDataset) -> str:
    """The text of a split whose tokens are bytes, a zero behind each text."""
    tokens = split.blocks.ravel()
    return np.where(tokens == 1, 0, tokens - 3).astype(np.uint8).tobytes().decode(errors="ignore")


def numbers_in(text: str) -> set[int]:
    """Which of `documents` a text has lines of."""
    return {int(part.partition(">")[0]) for part in text.split("<")[1:] if ">" in part}


def error_of(model: ModelArguments | None = None, **flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        text_task_of(model, **{"task": "text", "block_size": BLOCK, **flags})
    return one_sentence(caught.value)


def one_sentence(error: Exception) -> str:
    message = str(error)
    assert "\n" not in message and message.endswith("."), message
    return message


# -------------------------------------------------------------------------------------------------- tokens and blocks


def test_bytes_are_what_the_tokenizer_itself_says() -> None:
    tokenizer = ByT5Tokenizer(extra_ids=0)
    texts = ["plain", "größer, élan, 漢字 \U0001f600", "a </s> b <pad> c <unk>", "tabs\tand\n\nlines \n", "\x00\x7f"]
    expected: list[int] = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        expected += [*ids, tokenizer.eos_token_id]
    assert tokens_of(tokenizer, texts).tolist() == expected


def test_any_tokenizer_marks_the_end_of_each_text_and_takes_the_texts_as_they_are(words: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(words)
    end = tokenizer.eos_token_id
    texts = ["the oscillator swings", "a </s> b", "größer\n"]
    tokens = tokens_of(tokenizer, texts).tolist()
    assert tokens.count(end) == 3 and tokens[-1] == end
    assert tokenizer.decode([token for token in tokens if token != end]) == "".join(texts)


def test_blocks_hold_the_tokens_in_order_without_the_last_that_do_not_fill_one() -> None:
    tokens = np.arange(23, dtype=np.int32)
    assert blocks_of(tokens, 5).tolist() == [list(range(first, first + 5)) for first in range(0, 20, 5)]


def test_a_batch_holds_blocks_and_the_same_as_labels(library: TextTask) -> None:
    batch = library.collator(library.train.__getitems__([5, 0, 5]))
    assert set(batch) == {"input_ids", "labels"} and batch["input_ids"].dtype == torch.int64
    assert batch["input_ids"].shape == (3, 128)
    assert torch.equal(batch["input_ids"], batch["labels"]) and torch.equal(batch["labels"][0], batch["labels"][2])
    one_by_one = library.collator([library.train[index] for index in (5, 0, 5)])
    assert all(torch.equal(batch[name], one_by_one[name]) for name in batch)


# --------------------------------------------------------------------------------------------------- standard library


def test_the_standard_library_is_a_corpus_that_needs_no_file(library: TextTask) -> None:
    described = library.description()
    assert described == text_task_of(task="text").description()
    assert json.loads(json.dumps(described)) == described
    assert described["splits"]["train"]["bytes"] > 1_000_000
    assert "standard library of Python" in library.source and library.name == "text"
    assert (library.metric, library.greater_is_better) == ("bits_per_byte", False)
    assert type(library.tokenizer) is ByT5Tokenizer and len(library.tokenizer) == 259


def test_held_out_modules_are_whole_and_never_trained_on(library: TextTask) -> None:
    whole = text_task_of(task="text", max_train_samples=10**9, max_eval_samples=10**9)
    trained_on = text_of(whole.train)
    assert "class ArgumentParser" in trained_on + text_of(whole.validation) + text_of(whole.test)
    for split in (whole.validation, whole.test):
        modules = [text for text in text_of(split).split("\0") if len(text) > 1000]
        assert len(modules) > 5
        assert not any(module[:1000] in trained_on for module in modules)


def test_flags_that_the_standard_library_cannot_follow_are_refused() -> None:
    assert "--text_column_name" in error_of(text_column_name="body")
    assert "--dataset_config_name" in error_of(dataset_config_name="plain")


# ------------------------------------------------------------------------------------------------------------ sources


def test_a_folder_of_text_files_is_a_text_a_file(tmp_path: Path) -> None:
    texts = documents(30)
    task = task_on(write_texts(tmp_path / "my texts", texts))
    everything = [number for split in (task.train, task.validation, task.test) for number in numbers_in(text_of(split))]
    assert sorted(everything) == list(range(30))  # each in one split only
    assert (task.name, task.source) == ("my texts", "local folder my texts")


def test_files_of_text_json_csv_and_parquet_hold_the_same_texts(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": documents(30), "number": range(30)})
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_parquet(tmp_path / "rows.parquet")
    files = [tmp_path / f"rows.{suffix}" for suffix in ("jsonl", "csv", "parquet")]
    found = [text_task_of(train_file=str(file), block_size=BLOCK) for file in files]
    splits = [task.description()["splits"] for task in found]
    assert splits[0] == splits[1] == splits[2]
    assert splits[0] == task_on(write_texts(tmp_path / "folder", documents(30))).description()["splits"]
    assert [task.name for task in found] == ["rows"] * 3 and found[0].source == "local file rows.jsonl"


def test_files_of_their_own_are_the_given_splits(tmp_path: Path) -> None:
    texts = documents(3)
    files = {}
    for name, text in zip(("train", "validation", "test"), texts, strict=True):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        files[f"{name}_file"] = str(tmp_path / f"{name}.txt")
    task = text_task_of(**files, block_size=BLOCK)
    for split, text in zip((task.train, task.validation, task.test), texts, strict=True):
        assert (text + "\0").startswith(text_of(split))
        assert split.num_bytes == len(text.encode()) and split.num_tokens == split.num_bytes + 1
    assert task.notes == ()


def test_the_column_of_texts_is_found_or_named(tmp_path: Path) -> None:
    rows = {"title": [f"title {number}" for number in range(30)], "body": documents(30)}
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    named = task_on(tmp_path, text_column_name="body")
    assert numbers_in(text_of(named.train))
    assert task_spec(DataArguments(task=str(tmp_path), text_column_name="body")) is task_spec(
        DataArguments(train_file="x")
    )
    by_task = text_task_of(task=str(tmp_path), text_column_name="body", block_size=BLOCK)
    assert by_task.description() == named.description()
    assert "2 columns of texts among title, body" in error_of(dataset_name=str(tmp_path))
    assert "no column 'boddy'" in error_of(dataset_name=str(tmp_path), text_column_name="boddy")


def test_names_come_from_the_data(tmp_path: Path) -> None:
    assert task_name(DataArguments(task="text")) == "text"
    assert task_name(DataArguments(task="text", dataset_name="some/corpus")) == "corpus"
    (tmp_path / "plays.txt").write_text("enter")
    assert task_name(DataArguments(train_file=str(tmp_path / "plays.txt"))) == "plays"


# ------------------------------------------------------------------------------------------------------ held-out text


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_texts_are_held_out_whole_until_they_have_the_share_of_the_bytes(tmp_path: Path, share: float) -> None:
    texts = documents(60, length=200) + documents(20, length=2000)[10:]
    task = task_on(write_texts(tmp_path, texts), train_val_split=share)
    whole = sum(len(text.encode()) for text in texts)
    longest = max(len(text.encode()) for text in texts)
    for split in (task.validation, task.test):
        assert share * whole <= split.num_bytes <= share * whole + longest
    assert sum(split.num_bytes for split in (task.train, task.validation, task.test)) == whole


def test_splits_are_a_function_of_the_split_seed(tmp_path: Path) -> None:
    folder = write_texts(tmp_path, documents(30))
    first, again, other = (task_on(folder, split_seed=seed) for seed in (1, 1, 2))
    assert first.description() == again.description()
    assert numbers_in(text_of(first.test)) != numbers_in(text_of(other.test))


@pytest.mark.parametrize("count", [1, 3])
def test_of_few_texts_the_ends_are_held_out(tmp_path: Path, count: int) -> None:
    texts = documents(count, length=3000)
    task = task_on(write_texts(tmp_path, texts), train_val_split=0.2)
    train, validation, test = (text_of(split).split("\0") for split in (task.train, task.validation, task.test))
    for number, text in enumerate(texts[:-1]):  # the last block of a split, thus of its last text, may be missing
        assert train[number] + validation[number] + test[number] == text
    assert texts[-1].startswith(train[count - 1])
    for held_out in (validation, test):
        for number, text in enumerate(texts):
            assert len(held_out[number].encode()) == pytest.approx(0.2 * len(text.encode()), abs=3 * BLOCK)
            assert held_out[number] in text and held_out[number][:50] not in "".join(train)
    assert [note.endswith(end) for note, end in zip(task.notes, (": its end.", " before that."), strict=True)] == [
        True
    ] * 2


def test_copies_of_a_text_are_left_out(tmp_path: Path) -> None:
    texts = documents(30)
    task = task_on(write_texts(tmp_path / "twice", texts + texts[:12]))
    assert task.notes[0] == "Copies of other texts were left out, 12 of them."
    assert task.description()["splits"] == task_on(write_texts(tmp_path / "once", texts)).description()["splits"]


def test_text_that_was_given_for_training_is_no_held_out_text(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text(documents(1)[0], encoding="utf-8")
    same = str(tmp_path / "all.txt")
    for flag in ("validation_file", "test_file"):
        assert "also in the training split" in error_of(train_file=same, **{flag: same})


def test_limits_are_blocks_and_move_no_other_split(tmp_path: Path) -> None:
    folder = write_texts(tmp_path, documents(60))
    whole = task_on(folder)
    few = task_on(folder, max_train_samples=50, max_eval_samples=20)
    assert [len(split) for split in (few.train, few.validation, few.test)] == [50, 20, 20]
    assert few.train.tokens_per_byte == whole.train.tokens_per_byte
    fewer = task_on(folder, max_train_samples=7, max_eval_samples=20)
    for name in ("validation", "test"):
        assert few.description()["splits"][name] == fewer.description()["splits"][name]
    assert few.notes[-3] == f"Only 50 of {len(whole.train):,} train examples are used."


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_description_changes_with_a_single_token(tmp_path: Path, split: str) -> None:
    folder = write_texts(tmp_path, documents(30))
    original, changed = task_on(folder), task_on(folder)
    getattr(changed, split).blocks[3, 5] += 1
    before, after = original.description()["splits"], changed.description()["splits"]
    assert {name for name in before if before[name] != after[name]} == {split}


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


# ------------------------------------------------------------------------------------------------------------- errors


def test_text_shorter_than_a_block_is_refused_with_its_split(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("to be")
    message = error_of(train_file=str(tmp_path / "short.txt"), block_size=64)
    assert "text has 5 tokens" in message or "text has 6 tokens" in message
    assert "a block of 64" in message and "--block_size" in message
    (tmp_path / "long.txt").write_text("to be or not to be " * 100)
    files = {"train_file": str(tmp_path / "long.txt"), "validation_file": str(tmp_path / "short.txt")}
    assert "The validation text has 6 tokens" in error_of(**files, block_size=64)


@pytest.mark.parametrize("content", ["", "  \n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.txt").write_text(content)
    message = error_of(train_file=str(tmp_path / "empty.txt"))
    assert str(tmp_path / "empty.txt") in message and "empty" in message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe\x00")
    assert "UTF-8" in error_of(train_file=str(tmp_path / "picture.txt"))
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"tex')
    assert str(tmp_path / "rows.jsonl") in error_of(train_file=str(tmp_path / "rows.jsonl"))
    (tmp_path / "half.jsonl").write_text('{"text": "half a pair \\ud83d of it"}\n' * 30)
    assert "half" in error_of(train_file=str(tmp_path / "half.jsonl"))


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    assert missing in error_of(train_file=missing)
    assert missing in error_of(dataset_name=missing)


def test_flags_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be")
    file = str(tmp_path / "text.txt")
    assert "--train_file" in error_of(validation_file=file)
    assert "not both" in error_of(train_file=file, dataset_name="elsewhere")
    assert "--text_column_name has no meaning" in error_of(train_file=file, text_column_name="text")
    for flag, value in (("train_dir", "pictures"), ("image_size", 32), ("random_flip", True)):
        assert f"--{flag} has no meaning" in error_of(train_file=file, **{flag: value})
    with pytest.raises(TaskError, match="--block_size has no meaning for a task of images"):
        load_task(DataArguments(block_size=64))


@pytest.mark.parametrize("size", [0, 1, -4])
def test_a_block_holds_a_token_to_predict_and_one_before_it(size: int) -> None:
    assert f"--block_size must be at least 2 tokens, got {size}" in error_of(block_size=size)


def test_a_metric_that_is_not_measured_is_refused() -> None:
    assert "bits_per_byte or perplexity or accuracy" in error_of(metric="bleu")
    with pytest.raises(TaskError, match="choose accuracy"):
        load_task(DataArguments(metric="perplexity"))


# -------------------------------------------------------------------------------------------------------- comparisons

ARM_NAMES, SEEDS, TARGETS = ("constant", "critmom_adamw"), (42, 43), (8.5, 1.0)
TINY = (
    *("--hidden_size", "8", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--block_size", str(BLOCK)),
    *("--per_device_train_batch_size", "8", "--max_steps", "6", "--eval_steps", "3", "--use_cpu"),
    *("--max_train_samples", "40", "--max_eval_samples", "12"),
)
WHOLE = (*TINY, "--arms", *ARM_NAMES, "--num_seeds", "2", "--targets", *map(str, TARGETS))


@dataclass
class Finished:
    """A finished comparison on a folder of texts, and what every run was seen to take."""

    folder: Path
    texts: Path
    printed: str
    shown: str
    seen: dict[tuple[str, int], list[tuple[str, list[int]]]] = field(default_factory=dict)
    weights: dict[tuple[str, int], dict[str, torch.Tensor]] = field(default_factory=dict)

    def result(self, arm: str, seed: int) -> dict[str, Any]:
        return json.loads((self.folder / "runs" / arm / f"seed-{seed}" / "result.json").read_text())


def compared(words: tuple[str, ...], patch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Runs a comparison that must succeed; returns what it printed, and what it showed of its progress."""
    out, err = io.StringIO(), io.StringIO()
    patch.setenv("COLUMNS", "200")
    patch.setattr(sys, "stdout", out)
    patch.setattr(sys, "stderr", err)
    assert main(("compare", *words)) == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("comparison")
    found = Finished(root / "out", write_texts(root / "plays", documents(40)), "", "")
    run, build, hand_out, load = runner._run, runner.build_model, BlockDataset.__getitems__, runner.load_task
    current: list[tuple[str, int]] = []
    names: dict[int, str] = {}

    def watched_load(*words: Any) -> Any:
        task = load(*words)
        names.update({id(split): name for name, split in task.splits.items()})
        return task

    def watched_run(asked: Any, arm: Any, planned: Any, *rest: Any) -> Any:
        current.append((arm.name, planned.seed))
        found.seen[current[0]] = []
        try:
            return run(asked, arm, planned, *rest)
        finally:
            current.clear()

    def watched_build(*words: Any, **options: Any) -> Any:
        model = build(*words, **options)
        if current:
            found.weights[current[0]] = {name: value.clone() for name, value in model.state_dict().items()}
        return model

    def watched_hand_out(split: BlockDataset, indices: Any) -> Any:
        if current:
            found.seen[current[0]].append((names[id(split)], list(indices)))
        return hand_out(split, indices)

    with pytest.MonkeyPatch.context() as patch:
        for place, name, watched in (
            (runner, "_run", watched_run),
            (runner, "build_model", watched_build),
            (runner, "load_task", watched_load),
            (BlockDataset, "__getitems__", watched_hand_out),
        ):
            patch.setattr(place, name, watched)
        words = ("--task", "text", "--dataset_name", str(found.texts), *WHOLE, "--output_dir", str(found.folder))
        found.printed, found.shown = compared(words, patch)
    yield found


def test_every_arm_is_trained_and_tested(finished: Finished) -> None:
    for arm in ARM_NAMES:
        for seed in SEEDS:
            result = finished.result(arm, seed)
            assert (result["status"], result["steps"]) == ("finished", 6)
            assert [evaluation["step"] for evaluation in result["evaluations"]] == [3, 6]
            for measured in (*result["evaluations"], result["test"]):
                assert {"loss", "bits_per_byte", "perplexity", "accuracy"} <= set(measured)


def test_with_one_seed_every_arm_sees_the_same_blocks_in_the_same_order(finished: Finished) -> None:
    first, second = ([finished.seen[arm, seed] for arm in ARM_NAMES] for seed in SEEDS)
    assert first[0] == first[1] and second[0] == second[1] and first[0] != second[0]
    for seed in SEEDS:
        mine, theirs = (finished.weights[arm, seed] for arm in ARM_NAMES)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    trained_on = [index for split, indices in first[0] if split == "train" for index in indices]
    assert sorted(trained_on[:40]) == list(range(40))  # an epoch shows every block once
    tested = [index for split, indices in first[0] if split == "test" for index in indices]
    assert sorted(tested) == list(range(12))


def test_targets_are_reached_from_above(finished: Finished) -> None:
    plan = json.loads((finished.folder / "comparison.json").read_text())
    assert plan["targets"] == [8.5, 1.0]  # the easier first
    assert (plan["task"]["metric"], plan["task"]["greater_is_better"]) == ("bits_per_byte", False)
    card = (finished.folder / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| critmom_adamw |"))
    runs = [finished.result("critmom_adamw", seed) for seed in SEEDS]
    assert all(min(evaluation["bits_per_byte"] for evaluation in run["evaluations"]) <= 8.5 for run in runs)
    assert "reached" not in row.split("|")[2] and "not reached" in row.split("|")[3]


def test_the_report_speaks_of_text(finished: Finished) -> None:
    card = ModelCard.load(finished.folder / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert [result.task_type for result in card.data.eval_results] == ["text-generation"] * 2
    assert "bits per byte" in card.text and "accuracy" not in card.text and "augmentation" not in card.text
    assert "gpt2 of hidden size 8, hidden layers 1, attention heads 2" in finished.printed
    assert "validation bits per byte" in finished.shown
    assert (finished.folder / "figures" / "bits_per_byte.png").exists()
    table = pd.read_parquet(finished.folder / "results.parquet")
    assert table[["loss", "bits_per_byte", "perplexity", "accuracy"]].notna().all(axis=None)


def test_the_saved_model_and_tokenizer_give_what_was_tested(finished: Finished) -> None:
    task = text_task_of(
        task="text", dataset_name=str(finished.texts), block_size=BLOCK, max_train_samples=40, max_eval_samples=12
    )
    folder = finished.folder / "runs" / "critmom_adamw" / "seed-42"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text = documents(1)[0]
    assert tokenizer(text)["input_ids"] == task.tokenizer(text)["input_ids"]
    blocks = torch.tensor(task.test.blocks.astype(np.int64))
    with torch.no_grad():
        loss = float(model(input_ids=blocks, labels=blocks).loss)
    tested = finished.result("critmom_adamw", 42)["test"]
    assert tested["bits_per_byte"] == pytest.approx(loss / math.log(2.0) * task.test.tokens_per_byte, rel=1e-5)
    assert tested["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_the_same_command_again_repeats_nothing(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.glob("runs/**/*") if path.is_file()}
    words = ("--task", "text", "--dataset_name", str(finished.texts), *WHOLE, "--output_dir", str(finished.folder))
    assert compared(words, monkeypatch)[0] == finished.printed
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_metric_has_targets_of_its_own(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--task", "text", "--dataset_name", str(finished.texts), *TINY, "--metric", "perplexity")
    run = (*data, "--arms", "constant", "--num_seeds", "1", "--output_dir", str(tmp_path / "out"))
    assert "perplexity" in compared((*run, "--targets", "300", "200"), monkeypatch)[0]
    refusals: list[tuple[tuple[str, ...], str]] = [
        ((), "--targets"),
        (("--targets", "0.9"), "perplexities, above 1, got 0.9"),
        (("--targets", "300", "nan"), "got nan"),
    ]
    for targets, words in refusals:
        err = io.StringIO()
        monkeypatch.setattr(sys, "stderr", err)
        assert main(("compare", *run, *targets)) == 2
        assert words in err.getvalue() and err.getvalue().count("\n") == 1


def test_a_run_folder_is_fine_tuned_on_other_text(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = finished.folder / "runs" / "critmom_adamw" / "seed-42"
    (tmp_path / "more.txt").write_text(documents(1, length=4000)[0], encoding="utf-8")
    flags = ("--train_file", str(tmp_path / "more.txt"), "--block_size", str(BLOCK), "--max_steps", "2", "--use_cpu")
    model = ("--model_name_or_path", str(saved), "--arms", "critmom", "--num_seeds", "1", "--learning_rate", "1e-9")
    compared((*flags, *model, "--output_dir", str(tmp_path / "out")), monkeypatch)
    start, end = (load_file(folder / "model.safetensors") for folder in (saved, tmp_path / "out/runs/critmom/seed-42"))
    assert all(torch.allclose(start[name], end[name], atol=1e-6) for name in start)


def test_data_that_cannot_be_compared_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("to be")
    out = tmp_path / "out"
    assert main(("compare", "--train_file", str(tmp_path / "short.txt"), "--output_dir", str(out))) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("hf-critmom compare: error: The") and shown.count("\n") == 1
    assert not out.exists()
