"""Where text comes from: Python's own standard library, files, and datasets that `datasets` loads."""

import platform
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from hf_critmom.errors import root_message
from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.loading import loaded_dataset
from hf_critmom.tasks.paths import is_file
from hf_critmom.tasks.tables import TABLE_SUFFIXES, check_separated, is_table, read_table

_NO_TEXT = (
    *(".xls", ".xlsx", ".ods", ".doc", ".docx", ".odt", ".rtf", ".pdf", ".epub", ".feather", ".arrow", ".orc", ".avro"),
    *(".h5", ".hdf5", ".pkl", ".pickle", ".npy", ".npz", ".pt", ".bin", ".safetensors", ".db", ".sqlite", ".sqlite3"),
    *(".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"),
)
"""Endings of files that are not plain text, even if their bytes happen to be UTF-8."""
_NOT_IN_CORPUS = {
    # Not installed everywhere, written by the build, or mostly generated tables that nearly copy one another.
    *("test", "tests", "idle_test", "idlelib", "turtledemo", "lib2to3", "ensurepip", "encodings", "site-packages"),
    *("pydoc_data", "__pycache__"),
}


@dataclass(frozen=True)
class Corpus:
    """Texts as their source provides them.

    Attributes:
        splits: Texts, in a fixed order, of each of "train", "validation" and "test" that the source has.
        unit: Plural noun for the texts in notes, such as "files".
        notes: Sentences on what was left out.
    """

    splits: dict[str, list[str]]
    unit: str = "texts"
    notes: tuple[str, ...] = ()


def load_standard_library(arguments: DataArguments) -> Corpus:
    """The source files of Python's standard library, one text each, sorted by path, as a single training split.

    Raises:
        TaskError: If a flag is given that applies only to other datasets, or Python came without its sources.
    """
    for flag in ("dataset_config_name", "text_column_name"):
        if getattr(arguments, flag) is not None:
            raise TaskError(f"--{flag} has no meaning for the standard library: leave it out, or name a dataset.")
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = [text for file in _modules(folder) if (text := _source(file)).strip()]
    if not texts:
        raise TaskError(
            f"This Python came without the source of its standard library ({folder}): give text with --train_file."
        )
    return Corpus({"train": texts}, "files")


def standard_library() -> str:
    """Name of the embedded corpus in cards."""
    return f"the standard library of Python {platform.python_version()}"


def load_texts(arguments: DataArguments) -> Corpus:
    """Reads a dataset of texts, or text files.

    Args:
        arguments: ``dataset_name`` (a folder or a name on the Hub) or ``train_file``, ``validation_file``,
            ``test_file``: each one text, or a table with one text per row.

    Raises:
        TaskError: If there is no such dataset or file, or it has no training split or no texts.
    """
    files = {
        name: Path(file)
        for name, file in (
            ("train", arguments.train_file),
            ("validation", arguments.validation_file),
            ("test", arguments.test_file),
        )
        if file is not None
    }
    if arguments.dataset_name is not None and files:
        raise TaskError("Both a dataset and text files were given: use --dataset_name or --train_file, not both.")
    if files and "train" not in files:
        raise TaskError(
            f"A file was given for {' and '.join(files)} but none for training: give one with --train_file."
        )
    column = arguments.text_column_name
    if files:
        return Corpus({name: _texts_in(file, column) for name, file in files.items()})
    name = str(arguments.dataset_name)
    with loaded_dataset(name, arguments.dataset_config_name, "texts", "--train_file") as (splits, notes):
        texts = {split: _column(table, column, f"Split {split}") for split, table in splits.items()}
    return Corpus(texts, notes=tuple(notes))


def _modules(folder: Path) -> Iterator[Path]:
    """Files of the standard library that every installation of one Python version has, sorted."""
    for name in sorted(sys.stdlib_module_names - _NOT_IN_CORPUS):
        if (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"
        for file in sorted((folder / name).rglob("*.py"), key=lambda file: file.relative_to(folder).parts):
            if not _NOT_IN_CORPUS & set(file.relative_to(folder).parts):
                yield file


def _texts_in(file: Path, column: str | None) -> list[str]:
    """The texts of a file."""
    if not is_file(file):
        raise TaskError(f"There is no file {file}: expected a text file, or a table of texts.")
    if is_table(file):
        return _column(read_table(file), column, str(file))
    if file.suffix.lower() in _NO_TEXT:
        raise TaskError(f"{file} is not plain text: convert it to text, or to a table ({', '.join(TABLE_SUFFIXES)}).")
    if column is not None:
        raise TaskError(f"{file} has no columns, so --text_column_name does not apply: leave it out.")
    text = _read(file)
    if not text.strip():
        raise TaskError(f"{file} is empty: expected text.")
    return [text]


def _source(file: Path) -> str:
    with tokenize.open(file) as lines:  # in the encoding that it declares
        return lines.read()


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file} cannot be read as UTF-8 text ({root_message(error)}): convert it first.") from error
    if "\0" in text:
        raise TaskError(
            f"{file} contains NUL characters, so it is not UTF-8 text (UTF-16, perhaps): convert it to UTF-8."
        )
    return text


def _column(split: datasets.Dataset, given: str | None, where: str) -> list[str]:
    """The texts of a split, from the given column, the one named text, or the only column of strings."""
    check_separated(split.column_names, where)
    strings = [name for name, feature in split.features.items() if _holds_strings(feature)]
    if given is not None and given not in strings:
        raise TaskError(
            f"{where} has no column {given!r} of texts: of its columns {', '.join(split.column_names)}, "
            f"{', '.join(strings) or 'none'} would do."
        )
    column = given or ("text" if "text" in strings else strings[0] if len(strings) == 1 else None)
    if column is None:
        raise TaskError(
            f"{where} has {len(strings)} columns of texts among {', '.join(split.column_names)}: name the one "
            "to learn from with --text_column_name."
        )
    texts = [text for text in split[column] if text]
    if not any(text.strip() for text in texts):
        raise TaskError(f"{where} holds no text in its column {column!r}: expected at least one.")
    return texts


def _holds_strings(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string", "string_view")
