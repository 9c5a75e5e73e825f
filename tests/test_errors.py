"""Claims about how errors of other libraries are quoted in a sentence."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from hf_critmom.errors import InputError, root_message


def raised(*steps: Callable[[BaseException | None], BaseException]) -> BaseException:
    """The last of some errors, each raised from the one before."""
    error: BaseException | None = None
    for step in steps:
        try:
            raise step(error) from error
        except BaseException as caught:
            error = caught
    assert error is not None
    return error


def caught_from(action: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


def test_a_package_that_a_message_tells_to_install_is_bounded_as_in_pyproject() -> None:
    root = Path(__file__).parents[1]
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    texts = [file.read_text(encoding="utf-8") for file in (root / "hf_critmom").rglob("*.py")]
    told = {name for text in texts for name in re.findall(r"pip install '?([^'\s]+)'?", text)}
    assert told and told <= {requirement for extra in declared.values() for requirement in extra}


def test_the_innermost_cause_that_says_something_is_quoted() -> None:
    error = raised(
        lambda _: ValueError("row 3 has 4 columns."),
        lambda _: RuntimeError("the reader failed"),
        lambda _: OSError("An error occurred while generating the dataset"),
    )
    assert root_message(error) == "row 3 has 4 columns"


@pytest.mark.parametrize("silent", [ValueError(), KeyError("train"), AssertionError("\n\n"), RuntimeError("failed")])
def test_a_cause_that_says_nothing_is_passed_over(silent: Exception) -> None:
    assert (
        root_message(raised(lambda _: silent, lambda _: OSError("the file has no header."))) == "the file has no header"
    )


def test_an_error_without_words_is_named_by_its_type() -> None:
    assert root_message(KeyError("velocity")) == "KeyError: 'velocity'"
    assert root_message(MemoryError()) == "MemoryError"
    assert root_message(ValueError("  \n ")) == "ValueError"


def test_a_context_is_quoted_only_where_the_error_itself_says_nothing() -> None:
    def explained() -> None:
        try:
            json.loads("{")
        except ValueError:
            raise OSError("config.json holds no JSON") from None

    def unexplained() -> None:
        try:
            json.loads("{")
        except ValueError:
            raise RuntimeError  # noqa: B904

    assert root_message(caught_from(explained)) == "config.json holds no JSON"
    assert root_message(caught_from(unexplained)).startswith("Expecting property name")


def test_our_own_sentence_is_not_taken_apart() -> None:
    error = raised(lambda _: ValueError("low level words"), lambda _: InputError("--image_size must be at least 1."))
    assert (
        root_message(raised(lambda _: error, lambda _: RuntimeError("outer words")))
        == "--image_size must be at least 1"
    )


def test_a_failed_connection_does_not_hide_what_was_wanted() -> None:
    for connection in (
        ConnectionRefusedError(111, "Connection refused"),
        TimeoutError("The read operation timed out"),
        LocalEntryNotFoundError("An error happened while trying to locate the file."),
    ):
        error = raised(
            lambda _, inner=connection: inner, lambda _: OSError("x/y is no folder and no model on the Hub.")
        )
        assert root_message(error) == "x/y is no folder and no model on the Hub"
        assert root_message(connection) == str(connection).rstrip(".")


def test_a_chain_that_ends_in_itself_is_followed_once() -> None:
    first, second = ValueError("the first"), ValueError("the second")
    first.__cause__, second.__cause__ = second, first
    assert root_message(first) == "the second"


def test_one_printable_line_of_bounded_length_is_quoted() -> None:
    assert root_message(RuntimeError("Error in weights:\n\tsize mismatch for fc.weight\n\tmore")) == (
        "Error in weights: size mismatch for fc.weight"
    )
    quoted = root_message(ValueError("a row " + "\x1b[31m\x00" * 1000))
    assert quoted.isprintable() and len(quoted) < 320


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".csv", b"text,label\na,b\nc,d,e,f\n", ("Expected 2 fields in line 3, saw 4",)),
        (".csv", b"text\n\xff\xfe\xfa", ("utf-8",)),
        (".jsonl", b'{"text": "a"}\n{"te', ("JSON",)),
        (".parquet", b"not a table", ("Parquet",)),
    ],
)
def test_what_datasets_hides_is_said(tmp_path: Any, suffix: str, content: bytes, words: tuple[str, ...]) -> None:
    file = tmp_path / f"data{suffix}"
    file.write_bytes(content)
    kind = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}[suffix]
    error = caught_from(lambda: datasets.load_dataset(kind, data_files=str(file), cache_dir=str(tmp_path / "cache")))
    message = root_message(error)
    assert "error occurred" not in message, message
    assert any(word.lower() in message.lower() for word in words), message
