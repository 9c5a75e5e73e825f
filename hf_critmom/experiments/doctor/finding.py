"""Findings of an examination."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["fine", "note", "warning", "cannot tell"]


@dataclass(frozen=True)
class Finding:
    """The answer to one question about a training.

    Attributes:
        topic: Subject of the finding, such as "clipping".
        state: "fine", "note" (worth knowing), "warning" (worth changing), or "cannot tell" (not in the log).
        sentence: The answer in words; for "cannot tell", also how to log what is missing.
        values: The numbers behind the answer, by name.
    """

    topic: str
    state: State
    sentence: str
    values: Mapping[str, Any] = field(default_factory=dict)
