"""What a page carries for its charts, made small: columns of short numbers, and deflated text.

Every chart needs its rows as objects, which repeat the names of their fields and write numbers with 17 digits. A page
holds columns of numbers with `DIGITS` digits instead, and what is long deflated; its script undoes both.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

DIGITS = 5
"""Significant digits of the numbers that charts draw; integers keep all of theirs."""


def deflate(text: str) -> str:
    """Text deflated (RFC 1950, what browsers call "deflate"), in base64, so that nothing in it acts as HTML."""
    return base64.b64encode(zlib.compress(text.encode(), level=9)).decode()


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns with short numbers; a field that a row lacks is None there.

    Example:
        >>> to_columns([{"step": 1.0, "value": 0.1234567}, {"step": 123456.0}])
        {'step': [1, 123456], 'value': [0.12346, None]}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_short(row.get(name)) for row in rows] for name in names}


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else float(f"{value:.{DIGITS}g}")
