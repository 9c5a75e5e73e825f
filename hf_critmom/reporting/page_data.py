"""Compact data for the charts of a page: columns of rounded numbers, and deflated text.

A chart takes its rows as objects, which repeat the field names and have numbers of up to 17 digits. A page stores
columns of numbers with `DIGITS` digits instead, deflated; its script restores the rows.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

DIGITS = 5
"""Significant digits of the numbers that charts draw; integers keep all digits."""


def deflate(text: str) -> str:
    """Deflates text (RFC 1950, "deflate" in browsers) and encodes it in base64, so that none of it acts as HTML."""
    return base64.b64encode(zlib.compress(text.encode(), level=9)).decode()


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Converts rows to columns of rounded numbers; missing values are None.

    Example:
        >>> to_columns([{"step": 1.0, "value": 0.1234567}, {"step": 123456.0}])
        {'step': [1, 123456], 'value': [0.12346, None]}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_round(row.get(name)) for row in rows] for name in names}


def _round(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else float(f"{value:.{DIGITS}g}")
