"""Records on disk: JSON that is parsed into dataclasses, with every value checked against the type of its field.

Files are checked as strictly as the command line, so that a damaged one ends in a sentence that names the value, and
nothing is computed from it.
"""

import json
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from hf_critmom.storage.files import read_text

Record = TypeVar("Record")


class RecordError(ValueError):
    """A stored record is invalid; the message is part of a sentence and names the value and what was expected."""


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        OSError: If the file cannot be read.
        RecordError: If it does not hold a JSON object, or the object holds NaN or infinity.
    """
    try:
        content = json.loads(read_text(file), parse_constant=_reject_constant)
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError(f"it is not JSON: {str(error) or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise RecordError(f"it holds {_shorten(content)} instead of a JSON object")
    return content


def from_json(record: type[Record], content: Any, name: str = "") -> Record:
    """Rebuilds a dataclass from `dataclasses.asdict` of it after storing that as JSON.

    Fields may have the types str, bool, int, float (finite; integers are converted), None, unions of these, tuples,
    lists and mappings of them, other dataclasses, and Any. A class checks everything beyond types itself, and raises
    `ValueError` in ``__post_init__``. A class variable ``_NOT_READ`` lists stored names that are not fields, because
    they follow from others or come from earlier versions. Fields that earlier versions did not store have defaults.
    If a class is stored in another layout, its class method ``from_stored`` takes the stored object and returns its
    fields.

    Args:
        record: The dataclass.
        content: The parsed JSON.
        name: Where it is in the file, for messages.

    Raises:
        RecordError: If a value is missing, unknown, or of the wrong type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Point:
        ...     x: float
        ...     names: tuple[str, ...] = ()
        >>> from_json(Point, {"x": 1, "names": ["origin"]})
        Point(x=1.0, names=('origin',))
        >>> from_json(Point, {"x": "one"})
        Traceback (most recent call last):
        ...
        hf_critmom.storage.typed.RecordError: x is 'one' instead of a number
    """
    return _parse_value(record, content, name)


def _parse_record(record: type, content: Any, name: str) -> Any:
    if not isinstance(content, dict):
        raise RecordError(f"{name or 'it'} is {_shorten(content)} instead of an object")
    if hasattr(record, "from_stored"):
        content = record.from_stored(content)
    field_types = _field_types(record)
    known = {part.name: part for part in fields(record) if part.init}
    dropped = getattr(record, "_NOT_READ", ())
    if unknown := [key for key in content if key not in known and key not in dropped]:
        raise RecordError(f"{_path(name, unknown[0])} is not known")
    values = {}
    for key, part in known.items():
        if key in content:
            values[key] = _parse_value(field_types[key], content[key], _path(name, key))
        elif part.default is MISSING and part.default_factory is MISSING:
            raise RecordError(f"{_path(name, key)} is missing")
    try:
        return record(**values)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{name}: {error}" if name else str(error)) from None


def _parse_value(expected: Any, content: Any, name: str) -> Any:
    """Parses a value of the expected type."""
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return content
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, content, name)
    if is_dataclass(expected) and isinstance(expected, type):
        return _parse_record(expected, content, name)
    if expected is None or expected is type(None):
        if content is not None:
            raise RecordError(f"{name} is {_shorten(content)} instead of null")
        return None
    if expected is float:
        if isinstance(content, bool) or not isinstance(content, int | float) or not abs(content) <= _MAX_FLOAT:
            raise RecordError(f"{name} is {_shorten(content)} instead of a number")
        return float(content)
    if expected in (str, bool, int):
        if type(content) is not expected:
            raise RecordError(f"{name} is {_shorten(content)} instead of {_TYPE_NAMES[expected]}")
        return content
    if origin in (tuple, list, Sequence):
        return _parse_sequence(origin, arguments, content, name)
    if origin in (dict, Mapping) or expected in (dict, Mapping):
        if not isinstance(content, dict):
            raise RecordError(f"{name} is {_shorten(content)} instead of an object")
        return {
            key: _parse_value((arguments or (str, Any))[1], item, _path(name, key)) for key, item in content.items()
        }
    raise TypeError(f"{name}: fields of type {expected} cannot be read from JSON")


_MAX_FLOAT = sys.float_info.max
_TYPE_NAMES: dict[Any, str] = {str: "text", bool: "true or false", int: "an integer"}


def _parse_union(alternatives: Sequence[Any], content: Any, name: str) -> Any:
    if content is None and type(None) in alternatives:
        return None
    errors = []
    for alternative in alternatives:
        if alternative is type(None):
            continue
        try:
            return _parse_value(alternative, content, name)
        except RecordError as error:
            errors.append(error)
    raise errors[0]


def _parse_sequence(origin: Any, arguments: Sequence[Any], content: Any, name: str) -> Any:
    if not isinstance(content, list):
        raise RecordError(f"{name} is {_shorten(content)} instead of a list")
    if origin is not tuple or arguments[1:] == (...,):
        items = [_parse_value(arguments[0], item, f"{name}[{place}]") for place, item in enumerate(content)]
        return tuple(items) if origin is tuple else items
    if len(content) != len(arguments):
        raise RecordError(f"{name} has {len(content)} values instead of {len(arguments)}")
    pairs = zip(arguments, content, strict=True)
    return tuple(_parse_value(argument, item, f"{name}[{place}]") for place, (argument, item) in enumerate(pairs))


@cache
def _field_types(record: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(record).items() if get_origin(hint) is not ClassVar}


def _reject_constant(text: str) -> None:
    raise RecordError(f"it holds {text}, which is not valid JSON")


def _path(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _shorten(content: Any) -> str:
    text = repr(content)
    return text if len(text) <= 40 else f"{text[:37]}..."
