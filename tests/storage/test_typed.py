"""Claims about records on disk: a stored dataclass is read back, and any other content is an error that names it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_critmom.storage.typed import RecordError, from_json, read_json


@dataclass(frozen=True)
class Inner:
    share: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share} instead of a number from 0 to 1")


@dataclass(frozen=True)
class Outer:
    _NOT_READ: ClassVar[tuple[str, ...]] = ("old",)

    name: str
    count: int
    done: bool
    inner: Inner | None
    parts: tuple[Inner, ...] = ()
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    anything: Any = None


EXAMPLE = Outer("a", 3, True, Inner(0.5, (0.1, 0.9)), (Inner(1.0),), {"x": Inner(0.0)}, ["b"], {"free": [1, None]})


def test_what_was_written_is_read_back() -> None:
    assert from_json(Outer, json.loads(json.dumps(asdict(EXAMPLE)))) == EXAMPLE


def test_fields_with_defaults_may_be_missing_and_former_ones_are_dropped() -> None:
    content = {"name": "a", "count": 0, "done": False, "inner": None, "old": 1.0}
    assert from_json(Outer, content) == Outer("a", 0, False, None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"count": 1.5}, "count is 1.5 instead of an integer"),
        ({"count": True}, "count is True instead of an integer"),
        ({"done": 1}, "done is 1 instead of true or false"),
        ({"name": None}, "name is None instead of text"),
        ({"inner": []}, r"inner is \[\] instead of an object"),
        ({"inner": {"share": "x"}}, "inner.share is 'x' instead of a number"),
        ({"inner": {"share": True}}, "inner.share is True instead of a number"),
        ({"inner": {"share": 2}}, "inner: share is 2.0 instead of a number from 0 to 1"),
        ({"inner": {"share": 0.5, "interval": [0.1]}}, "inner.interval has 1 values instead of 2"),
        ({"inner": {}}, "inner.share is missing"),
        ({"parts": {"0": 1}}, "parts is .* instead of a list"),
        ({"parts": [{"share": None}]}, r"parts\[0\].share is None instead of a number"),
        ({"by_name": {"x": 1}}, "by_name.x is 1 instead of an object"),
        ({"words": ["a", 1]}, r"words\[1\] is 1 instead of text"),
        ({"new": 1}, "new is not known"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, Any], expected: str) -> None:
    content = {**json.loads(json.dumps(asdict(EXAMPLE))), **change}
    with pytest.raises(RecordError, match=f"^{expected}$"):
        from_json(Outer, content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["name", "count", "done", "inner", "parts", "by_name", "words"]), JSON)
def test_no_content_raises_anything_but_a_record_error(key: str, value: Any) -> None:
    content = {**json.loads(json.dumps(asdict(EXAMPLE))), key: value}
    try:
        assert isinstance(from_json(Outer, content), Outer)
    except RecordError as error:
        assert key in str(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe{}", "it is not JSON"),
        (b"[1]", r"it holds \[1\] instead of a JSON object"),
        (b'{"a": NaN}', "it holds NaN"),
        (b'{"a": -Infinity}', "it holds -Infinity"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "it is not JSON"),
    ],
)
def test_a_file_without_a_record_is_an_error(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(content)
    with pytest.raises(RecordError, match=expected):
        read_json(file)
