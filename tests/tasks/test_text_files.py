"""Claims about files of text: tables are read as tables or refused, and held-out text is not trained on."""

import csv
import gzip
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_critmom.tasks import DataArguments, TaskError, TextTask, load_task
from hf_critmom.tasks.provenance import check_disjoint
from hf_critmom.tasks.tables import read_table

TEXTS = [f"line {number}; it has a semicolon, a comma, a 'quote' and a | bar " * 4 for number in range(30)]


def task_of(**flags: Any) -> TextTask:
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    task = load_task(DataArguments(**{"task": "text", "block_size": 16, **flags}))
    assert isinstance(task, TextTask)
    return task


def error_of(**flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        task_of(**flags)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def rows(number: bool = True) -> pd.DataFrame:
    return pd.DataFrame({"text": TEXTS, **({"number": range(len(TEXTS))} if number else {})})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Splits of the texts, from a folder with a file each."""
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(TEXTS):
        (folder / f"{number:02d}.txt").write_text(text)
    return task_of(dataset_name=folder).description()["splits"]


# ------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv", ".TSV", ".tab", ".psv"])
@pytest.mark.parametrize("number", [True, False], ids=["two columns", "one column"])
def test_separated_tables_are_tables_whatever_their_ending_and_delimiter(
    tmp_path: Path, expected: dict[str, Any], delimiter: str, suffix: str, number: bool
) -> None:
    rows(number).to_csv(tmp_path / f"a{suffix}", sep=delimiter, index=False, quoting=csv.QUOTE_NONNUMERIC)
    assert task_of(train_file=tmp_path / f"a{suffix}").description()["splits"] == expected


@pytest.mark.parametrize("suffix", [".json", ".JSON", ".jsonl", ".ndjson", ".NDJSON"])
@pytest.mark.parametrize("lines", [True, False])
def test_json_is_a_table_whatever_its_ending(
    tmp_path: Path, expected: dict[str, Any], suffix: str, lines: bool
) -> None:
    rows().to_json(tmp_path / f"a{suffix}", orient="records", lines=lines)
    assert task_of(train_file=tmp_path / f"a{suffix}").description()["splits"] == expected


@pytest.mark.parametrize("suffix", [".parquet", ".Parquet", ".pq"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_every_kind_of_string_column_holds_text(
    tmp_path: Path, expected: dict[str, Any], suffix: str, kind: pa.DataType
) -> None:
    table = pa.table({"number": list(range(len(TEXTS))), "body": pa.array(TEXTS, kind)})
    pq.write_table(table, tmp_path / f"a{suffix}")
    assert task_of(train_file=tmp_path / f"a{suffix}").description()["splits"] == expected
    if suffix == ".parquet":
        assert task_of(dataset_name=tmp_path).description()["splits"] == expected


def test_fields_with_line_breaks_marks_and_quotes_are_whole(tmp_path: Path) -> None:
    texts = ['"quoted"', "two\nlines", "a ; b , c", "null", "NA", "  spaces  ", "größer \N{GRINNING FACE}", "1.5"]
    pd.DataFrame({"text": texts, "n": 1}).to_csv(tmp_path / "a.csv", index=False, encoding="utf-8-sig")
    assert read_table(tmp_path / "a.csv")["text"][:] == texts


def test_a_row_longer_than_the_readers_blocks_is_whole(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    pd.DataFrame({"text": ["a", long]}).to_csv(tmp_path / "a.csv", index=False)
    assert read_table(tmp_path / "a.csv")["text"][:] == ["a", long]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,n\na,1\nb,2,3\n", "Expected 2 columns, got 3"),
        ("text,n\na,1,2\nb,2,3\n", "Expected 2 columns, got 3"),
        ("text,n\na,1\nb\n", "Expected 2 columns, got 1"),
        ("a;b\nx;y\nx;y;z\n", "separated by ';'"),
        ("a\tb\nx\ty\nx\n", "separated by '\\t'"),
        ("", "cannot be read"),
        ("n,m\n1,2\n", "0 columns of texts"),
        ('text\n"\n', "no text"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    message = error_of(train_file=tmp_path / "a.csv")
    assert words in message and str(tmp_path / "a.csv") in message


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    for suffix in (".csv", ".tsv"):
        (tmp_path / f"a{suffix}").write_bytes("text\ngrößer\n".encode("latin-1"))
        assert "UTF" in error_of(train_file=tmp_path / f"a{suffix}").upper()


@pytest.mark.parametrize("suffix", [".xlsx", ".XLS", ".rtf", ".feather", ".csv.gz", ".pdf", ".zip", ".npy", ".sqlite"])
def test_files_that_hold_no_plain_text_are_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("{\\rtf1 letters that could be read as text}" * 30)
    message = error_of(train_file=tmp_path / f"a{suffix}")
    assert "is not plain text" in message and ".csv" in message


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32-be"])
def test_text_in_other_encodings_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(("plain words " * 50).encode(encoding))
    assert "UTF-8" in error_of(train_file=tmp_path / "a.txt")


def test_a_folder_of_separated_tables_is_read_or_refused(tmp_path: Path, expected: dict[str, Any]) -> None:
    (tmp_path / "tabs").mkdir()
    rows().to_csv(tmp_path / "tabs" / "a.tsv", sep="\t", index=False)
    assert task_of(dataset_name=tmp_path / "tabs").description()["splits"] == expected
    (tmp_path / "semicolons").mkdir()
    (tmp_path / "semicolons" / "a.csv").write_text("text;n\n" + "".join(f"words;{n}\n" for n in range(30)))
    assert "separated by ';'" in error_of(dataset_name=tmp_path / "semicolons")


def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
    for name in ("more.TXT", "more.md", "table.csv", "README.md"):
        (tmp_path / name).write_text("a,b\n1,2\n")
    task = task_of(dataset_name=tmp_path)
    assert any("3 other files" in note and ".txt: 1" in note and ".csv: 1" in note for note in task.notes), task.notes


def test_a_folder_whose_endings_are_not_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_text("words " * 100)
    assert str(tmp_path) in error_of(dataset_name=tmp_path)


def test_a_data_set_that_was_saved_to_disk_is_read(tmp_path: Path, expected: dict[str, Any]) -> None:
    saved = datasets.Dataset.from_pandas(rows())
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "extra": saved}).save_to_disk(tmp_path / "several")
    for name in ("one", "several"):
        task = task_of(dataset_name=tmp_path / name)
        assert task.description()["splits"] == expected
    assert task.notes[0] == "Not used: split extra (30 examples)."


# ------------------------------------------------------------------------------------------------------ held-out text


HELD_OUT = ("validation", "test")


def words(count: int, seed: int) -> str:
    return " ".join(map(str, np.random.default_rng(seed).integers(0, 10**6, count)))


@pytest.mark.parametrize("flag", ["validation_file", "test_file"])
def test_a_held_out_text_that_is_a_part_of_the_training_text_is_refused(tmp_path: Path, flag: str) -> None:
    text = words(3000, 0)
    (tmp_path / "all.txt").write_text(text)
    (tmp_path / "part.txt").write_text(text[5000:9000])
    (tmp_path / "mostly.txt").write_text(text[5000:9000] + words(900, 1))
    for name in ("part.txt", "mostly.txt"):
        message = error_of(train_file=tmp_path / "all.txt", **{flag: tmp_path / name})
        assert "passages" in message and "also in the training split" in message


@pytest.mark.parametrize(
    "near_copies",
    [
        [words(3000, 0), words(3000, 0)[:9000]],
        [words(75, seed) + end for seed in range(40) for end in ("", " (draft)")],
    ],
    ids=["few texts, of which ends are held out", "many texts"],
)
def test_near_copies_on_both_sides_of_a_split_are_noted(tmp_path: Path, near_copies: list[str]) -> None:
    for name, texts in (("copies", near_copies), ("alone", near_copies[::2])):
        pd.DataFrame({"text": texts}).to_csv(tmp_path / f"{name}.csv", index=False)
        task = task_of(train_file=tmp_path / f"{name}.csv")
        noted = [any(f"passages from all over the {split} text" in note for note in task.notes) for split in HELD_OUT]
        assert noted == [name == "copies"] * 2


def test_a_held_out_text_that_contains_the_training_text_is_refused(tmp_path: Path) -> None:
    text = words(3000, 0)
    (tmp_path / "part.txt").write_text(text[200:])
    (tmp_path / "all.txt").write_text(words(300, 1) + text + words(300, 2))
    assert "passages" in error_of(train_file=tmp_path / "part.txt", test_file=tmp_path / "all.txt")


def test_a_licence_at_the_head_of_a_text_is_noted(tmp_path: Path) -> None:
    licence = words(60, 9)
    (tmp_path / "train.txt").write_text(licence + words(3000, 0))
    (tmp_path / "test.txt").write_text(licence + words(3000, 1))
    task = task_of(train_file=tmp_path / "train.txt", test_file=tmp_path / "test.txt")
    assert any("passages" in note and "test text" in note for note in task.notes)


def test_rows_of_training_in_a_held_out_table_are_counted(tmp_path: Path) -> None:
    rows().to_csv(tmp_path / "train.csv", index=False)
    rows()[:7].to_csv(tmp_path / "test.csv", index=False)
    message = error_of(train_file=tmp_path / "train.csv", test_file=tmp_path / "test.csv")
    assert "7 of the 7 test texts are also in the training split" in message


def test_short_rows_of_training_in_a_held_out_table_are_counted_too(tmp_path: Path) -> None:
    short = [f"message {number} says {number * 7919 % 1000}" for number in range(400)]
    for name, texts in (("train", short[:300]), ("copies", short[:60]), ("few", [*short[300:], *short[:5]])):
        pd.DataFrame({"text": texts}).to_csv(tmp_path / f"{name}.csv", index=False)
    message = error_of(train_file=tmp_path / "train.csv", validation_file=tmp_path / "copies.csv")
    assert "60 of the 60 validation texts are also in the training split" in message
    task = task_of(train_file=tmp_path / "train.csv", validation_file=tmp_path / "few.csv")
    assert any("5 of the 105 validation texts are also in the training text: 4." in note for note in task.notes)


def test_splits_of_text_know_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(3000, 0))
    (tmp_path / "b.txt").write_text(words(3000, 1))
    task = task_of(train_file=tmp_path / "a.txt", test_file=tmp_path / "b.txt")
    check_disjoint(task.splits)
    for split in task.splits.values():
        keys = split.content_keys()
        assert len(keys) == len(set(keys)) == len(split)
        assert split.take(np.arange(3)).content_keys() == keys[:3]
    with pytest.raises(TaskError, match="share 5 examples"):
        check_disjoint({"train": task.train, "test": task.train.take(np.arange(5))})
    check_disjoint(load_task(DataArguments(task="text")).splits)


@pytest.mark.parametrize("content", ["null", " null\nnull", '{"text": "words"}\nnull\n'])
@pytest.mark.parametrize("name", ["train.json", "train.jsonl.gz"])
def test_a_row_that_is_null_is_refused_before_a_reader_that_it_crashes(tmp_path: Path, name: str, content: str) -> None:
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert f"of {name} is null: expected an object of columns" in error_of(dataset_name=tmp_path)
