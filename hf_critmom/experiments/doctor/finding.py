"""What an examination finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["fine", "note", "warning", "cannot tell"]


@dataclass(frozen=True)
class Finding:
    """The answer to one question about a training.

    Attributes:
        topic: What it is about, such as "clipping".
        state: "fine", "note" (worth knowing), "warning" (worth changing), or "cannot tell" (the log lacks it).
        sentence: The answer in words; for "cannot tell" also how to have it logged.
        values: The numbers that it rests on, by name.
    """

    topic: str
    state: State
    sentence: str
    values: Mapping[str, Any] = field(default_factory=dict)
