"""What an attribution found, and how it is stored."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.errors import root_message
from hf_critmom.storage.files import write_json
from hf_critmom.storage.typed import RecordError, from_json, read_json


@dataclass(frozen=True)
class GroupGradient:
    """The gradient of one layer group over the chosen items.

    Attributes:
        norm: Norm of the mean gradient.
        share: Part of the squared norm of the whole model's mean gradient, from 0 to 1.
        share_interval: Bootstrap interval of the share: what other examples from the same source would give for this
            very model. It says nothing on other training seeds. None: too few items.
        log_odds_error: Standard error of log(share / (1 - share)), from the same resampling.
        relative_norm: Norm of the mean gradient by norm of the parameters; None where these are all zero.
        parameters: Number of trainable values.
        signal_share: The share in the population's gradient, see `hf_critmom.attribution.signal`: without the noise of
            finitely many examples that ``share`` holds. None where noise hides it, or there are too few items.
        signal_error: Standard error of its logarithm.
    """

    _NOT_READ: ClassVar[tuple[str, ...]] = ("mean_batch_norm", "rms")

    norm: float
    share: float
    share_interval: tuple[float, float] | None
    log_odds_error: float | None
    relative_norm: float | None
    parameters: int
    signal_share: float | None = None
    signal_error: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"a share is {self.share} instead of a number from 0 to 1")
        if self.norm < 0.0 or self.parameters < 1:
            raise ValueError("a norm is negative, or a group has no parameters")
        if (self.signal_share is None) != (self.signal_error is None) or (self.signal_share or 0.0) < 0.0:
            raise ValueError(f"a signal_share is {self.signal_share}, and its error {self.signal_error}")


@dataclass(frozen=True)
class Attribution:
    """Gradients by layer group, over chosen examples (or tokens) of a dataset.

    Attributes:
        groups: Gradient of each group that has trainable parameters, in the model's order.
        frozen: Number of frozen values of each group that has any; no gradient is computed for them.
        select: What was chosen, a name in `SELECTIONS`, or "given" for a mask.
        unit: What is counted: "examples" or "tokens".
        selected: How many were chosen.
        total: How many there are in the dataset.
        misclassified: How many of them are predicted wrongly; None where the selection needed no predictions.
        loss: Mean loss of the chosen ones.
        batches: Number of backward passes.
        units: Number of resampled units behind the intervals.
        confidence: Level of the intervals.
        signal_shares: Whether `GroupGradient.signal_share` was estimated, as earlier versions did not.
    """

    groups: dict[str, GroupGradient]
    frozen: dict[str, int]
    select: str
    unit: str
    selected: int
    total: int
    misclassified: int | None
    loss: float
    batches: int
    units: int
    confidence: float = 0.95
    signal_shares: bool = False

    def __post_init__(self) -> None:
        if not self.groups or abs(sum(group.share for group in self.groups.values()) - 1.0) > 1e-6:
            raise ValueError("the shares of the groups do not add up to 1")
        squares = {name: group.norm * group.norm for name, group in self.groups.items()}
        whole = sum(squares.values())
        if not all(abs(squares[name] - group.share * whole) <= 1e-6 * whole for name, group in self.groups.items()):
            raise ValueError("the shares of the groups are not those of their norms")
        if not 0 < self.selected <= self.total or not 0 <= (self.misclassified or 0) <= self.total:
            raise ValueError(f"{self.selected} of {self.total} {self.unit} are chosen")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence is {self.confidence} instead of a number between 0 and 1")

    @property
    def shares(self) -> dict[str, float]:
        """Share of each group."""
        return {name: group.share for name, group in self.groups.items()}

    @property
    def accuracy(self) -> float | None:
        """Share of the items that are predicted correctly, where that is known."""
        return None if self.misclassified is None else 1.0 - self.misclassified / self.total

    def ranked(self, by: str = "share") -> list[str]:
        """Names of the groups, the largest first, by `share`, `relative_norm` or `norm`.

        A gradient is infinitely large relative to parameters that are all zero.
        """

        def size(group: GroupGradient) -> float:
            value = getattr(group, by)
            return value if value is not None else math.inf if group.norm > 0.0 else 0.0

        return sorted(self.groups, key=lambda name: -size(self.groups[name]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Attribution":
        """The inverse of `to_dict`.

        Raises:
            AttributionError: If it is not one.
        """
        try:
            return from_json(cls, dict(content))
        except (RecordError, TypeError, ValueError) as error:
            raise AttributionError(f"This is not a stored attribution ({error}): make it again.") from None

    def save(self, path: str | Path) -> None:
        """Writes it as JSON, completely or not at all."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Attribution":
        """Reads what `save` wrote.

        Raises:
            AttributionError: If the file does not exist or holds something else.
        """
        try:
            return from_json(cls, read_json(Path(path)))
        except (OSError, RecordError) as error:
            raise AttributionError(f"No attribution could be read from {path} ({root_message(error)}).") from None
