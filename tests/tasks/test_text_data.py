"""Claims about text: tokens, blocks, where text comes from, what is held out, and what cannot be used."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.text_data import (
    BLOCK,
    documents,
    error_of,
    numbers_in,
    task_on,
    text_of,
    text_task_of,
    write_texts,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
)

from hf_critmom.tasks import (
    DataArguments,
    ModelArguments,
    TaskError,
    TextTask,
    load_task,
    task_name,
    task_spec,
)
from hf_critmom.tasks.blocks import cut_into_blocks, tokenize

# -------------------------------------------------------------------------------------------------- tokens and blocks


def test_bytes_are_what_the_tokenizer_itself_says() -> None:
    tokenizer = ByT5Tokenizer(extra_ids=0)
    texts = ["plain", "größer, élan, 漢字 \U0001f600", "a </s> b <pad> c <unk>", "tabs\tand\n\nlines \n", "\x00\x7f"]
    expected: list[int] = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        expected += [*ids, tokenizer.eos_token_id]
    assert tokenize(tokenizer, texts).tolist() == expected


def test_any_tokenizer_marks_the_end_of_each_text_and_takes_the_texts_as_they_are(words: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(words)
    end = tokenizer.eos_token_id
    texts = ["the oscillator swings", "a </s> b", "größer\n"]
    tokens = tokenize(tokenizer, texts).tolist()
    assert tokens.count(end) == 3 and tokens[-1] == end
    assert tokenizer.decode([token for token in tokens if token != end]) == "".join(texts)


@pytest.mark.parametrize("known", ["a b c d", "a b c"])
def test_text_that_the_tokenizer_does_not_know_is_noted(tmp_path: Path, known: str) -> None:
    vocabulary = {word: index for index, word in enumerate(["<unk>", *known.split()])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text("a b c d " * 500)
    arguments = DataArguments(task="text", train_file=str(tmp_path / "text.txt"), block_size=16)
    task = load_task(arguments, ModelArguments(tokenizer_name=str(tmp_path / "tokenizer")))
    noted = [note for note in task.notes if "does not know" in note]
    assert len(noted) == (0 if "d" in known else 3)
    assert all(note.startswith("25.0% of the ") for note in noted)


def test_blocks_hold_the_tokens_in_order_without_the_last_that_do_not_fill_one() -> None:
    tokens = np.arange(23, dtype=np.int32)
    assert cut_into_blocks(tokens, 5).tolist() == [list(range(first, first + 5)) for first in range(0, 20, 5)]


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
    assert task.notes[0] == "Left out as copies of other texts: 12."
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
    assert "--text_column_name does not apply" in error_of(train_file=file, text_column_name="text")
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
