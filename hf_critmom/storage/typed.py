"""Records on disk: JSON that is read into dataclasses, every value checked by the type of its field.

What is read from disk is checked as strictly as what comes from the command line, so that a damaged file is a sentence
that names the place, and nobody computes with what it holds.
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
    """What a stored record holds instead of what was expected, as part of a sentence."""


def read_json(file: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        OSError: If the file cannot be read.
        RecordError: If it does not hold a JSON object, or one with NaN or infinity.
    """
    try:
        content = json.loads(read_text(file), parse_constant=_refuse_constant)
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError(f"it is not JSON: {str(error) or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise RecordError(f"it holds {_shown(content)} instead of a JSON object")
    return content


def from_json(record: type[Record], content: Any, name: str = "") -> Record:
    """A dataclass from what `dataclasses.asdict` and JSON made of it.

    Fields may be of the types str, bool, int, float (finite, and an integer will do), None, unions of these, tuples,
    lists and mappings of them, other dataclasses, and Any. What a class knows beyond types it checks itself, by a
    `ValueError` in ``__post_init__``. A class variable ``_NOT_READ`` lists names that files hold and the class does
    not: what follows from the rest, and what earlier versions stored. Fields that these did not store have defaults.
    A class that is stored in another arrangement has a class method ``from_stored``, which takes the stored object and
    returns its fields.

    Args:
        record: The dataclass.
        content: What JSON holds.
        name: Where it stands in the file, for messages.

    Raises:
        RecordError: If a value is missing, unknown, or of another type.

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
    return _value(record, content, name)


def _record(record: type, content: Any, name: str) -> Any:
    if not isinstance(content, dict):
        raise RecordError(f"{name or 'it'} is {_shown(content)} instead of an object")
    if hasattr(record, "from_stored"):
        content = record.from_stored(content)
    types_of = _types(record)
    known = {part.name: part for part in fields(record) if part.init}
    dropped = getattr(record, "_NOT_READ", ())
    if unknown := [key for key in content if key not in known and key not in dropped]:
        raise RecordError(f"{_path(name, unknown[0])} is not known")
    values = {}
    for key, part in known.items():
        if key in content:
            values[key] = _value(types_of[key], content[key], _path(name, key))
        elif part.default is MISSING and part.default_factory is MISSING:
            raise RecordError(f"{_path(name, key)} is missing")
    try:
        return record(**values)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{name}: {error}" if name else str(error)) from None


def _value(expected: Any, content: Any, name: str) -> Any:
    """A value of the expected type."""
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return content
    if origin in (Union, types.UnionType):
        return _union(arguments, content, name)
    if is_dataclass(expected) and isinstance(expected, type):
        return _record(expected, content, name)
    if expected is None or expected is type(None):
        if content is not None:
            raise RecordError(f"{name} is {_shown(content)} instead of null")
        return None
    if expected is float:
        if isinstance(content, bool) or not isinstance(content, int | float) or not abs(content) <= _LARGEST:
            raise RecordError(f"{name} is {_shown(content)} instead of a number")
        return float(content)
    if expected in (str, bool, int):
        if type(content) is not expected:
            raise RecordError(f"{name} is {_shown(content)} instead of {_KINDS[expected]}")
        return content
    if origin in (tuple, list, Sequence):
        return _sequence(origin, arguments, content, name)
    if origin in (dict, Mapping) or expected in (dict, Mapping):
        if not isinstance(content, dict):
            raise RecordError(f"{name} is {_shown(content)} instead of an object")
        return {key: _value((arguments or (str, Any))[1], item, _path(name, key)) for key, item in content.items()}
    raise TypeError(f"{name}: fields of type {expected} cannot be read from JSON")


_LARGEST = sys.float_info.max
_KINDS: dict[Any, str] = {str: "text", bool: "true or false", int: "an integer"}


def _union(alternatives: Sequence[Any], content: Any, name: str) -> Any:
    if content is None and type(None) in alternatives:
        return None
    errors = []
    for alternative in alternatives:
        if alternative is type(None):
            continue
        try:
            return _value(alternative, content, name)
        except RecordError as error:
            errors.append(error)
    raise errors[0]


def _sequence(origin: Any, arguments: Sequence[Any], content: Any, name: str) -> Any:
    if not isinstance(content, list):
        raise RecordError(f"{name} is {_shown(content)} instead of a list")
    if origin is not tuple or arguments[1:] == (...,):
        items = [_value(arguments[0], item, f"{name}[{place}]") for place, item in enumerate(content)]
        return tuple(items) if origin is tuple else items
    if len(content) != len(arguments):
        raise RecordError(f"{name} has {len(content)} values instead of {len(arguments)}")
    pairs = zip(arguments, content, strict=True)
    return tuple(_value(argument, item, f"{name}[{place}]") for place, (argument, item) in enumerate(pairs))


@cache
def _types(record: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(record).items() if get_origin(hint) is not ClassVar}


def _refuse_constant(text: str) -> None:
    raise RecordError(f"it holds {text}, which is no number")


def _path(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _shown(content: Any) -> str:
    text = repr(content)
    return text if len(text) <= 40 else f"{text[:37]}..."
