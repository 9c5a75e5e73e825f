"""Tables in files: which files are tables, and how they are read."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from hf_critmom.errors import root_message
from hf_critmom.tasks.errors import TaskError

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
_JSON = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (*_DELIMITERS, *_JSON, ".parquet", ".pq")
"""Endings, in lower case, of files that are read as tables."""

_ROWS_TO_SEE = 50
_LARGEST_BLOCK = 2**31 - 1


def is_table(file: Path) -> bool:
    """Whether a file is read as a table, judged by its ending."""
    return file.suffix.lower() in TABLE_SUFFIXES


def read_table(file: Path) -> datasets.Dataset:
    """Reads a table: JSON, CSV (separated by commas, semicolons, tabs or bars) or Parquet.

    Raises:
        TaskError: If the file is not such a table.
    """
    suffix = file.suffix.lower()
    try:
        if suffix in _DELIMITERS:
            return datasets.Dataset(_read_csv(file, _delimiter(file, _DELIMITERS[suffix])))
        if suffix in _JSON:
            return datasets.Dataset(_read_json(file))
        return datasets.Dataset(pa_parquet.read_table(file))
    except TaskError:
        raise
    except Exception as error:  # readers raise errors of their own; the message says which
        raise TaskError(f"{file} cannot be read ({root_message(error)}): expected {suffix[1:]} rows.") from error


def check_separated(column_names: list[str], where: str) -> None:
    """Refuses a single column whose name holds a delimiter: the table was not split into its columns.

    Raises:
        TaskError: If there is only such a column.
    """
    found = [mark for mark in (*dict.fromkeys(_DELIMITERS.values()), ";") if mark in "".join(column_names)]
    if len(column_names) == 1 and found:
        raise TaskError(
            f"{where} has one column, called {column_names[0]!r}: it seems to be separated by {found[0]!r}, but not "
            "all of its rows have the same number of fields; quote fields that hold the delimiter."
        )


def _delimiter(file: Path, usual: str) -> str:
    """The delimiter of a file: the usual one for its ending, unless only another gives rows of equal length."""
    fitting = []
    for delimiter in dict.fromkeys((usual, ",", ";", "\t", "|")):
        with file.open(encoding="utf-8-sig", newline="") as lines:
            try:
                rows = [row for row in itertools.islice(csv.reader(lines, delimiter=delimiter), _ROWS_TO_SEE) if row]
            except csv.Error:  # a field is longer than this reader's limit
                continue
        if rows and len(rows[0]) > 1 and {len(row) for row in rows} == {len(rows[0])}:
            fitting.append(delimiter)
    return fitting[0] if fitting and (fitting[0] == usual or len(fitting) == 1) else usual


def _read_csv(file: Path, delimiter: str) -> Any:
    # One block, because no row may be longer than a block. Arrow neither truncates fields nor takes one for an index.
    block_size = min(max(file.stat().st_size + 1, 2**20), _LARGEST_BLOCK)
    table = pa_csv.read_csv(
        file,
        read_options=pa_csv.ReadOptions(block_size=block_size),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
    )
    check_separated(table.column_names, str(file))
    return table


def _read_json(file: Path) -> Any:
    """Reads a row per line, a list of rows, or an object of columns."""
    text = file.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = [_json_row(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if isinstance(content, dict):
        lists = all(isinstance(values, list) for values in content.values())
        return pa.table(content) if content and lists else pa.table({name: [value] for name, value in content.items()})
    if not isinstance(content, list) or not content:
        raise ValueError("it holds no rows")
    if wrong := [number for number, row in enumerate(content, 1) if not isinstance(row, dict)]:
        raise ValueError(f"row {wrong[0]} is not an object of columns")
    names = dict.fromkeys(name for row in content for name in row)
    return pa.table({name: [row.get(name) for row in content] for name in names})


def _json_row(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from None
