"""Verification of a repair on examples that neither diagnosis nor treatment saw."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from hf_critmom.attribution.predictions import Predictions
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.storage.typed import from_json

MCNEMAR = "McNemar's exact test"


@dataclass(frozen=True)
class ClassChange:
    """Changes in one class.

    Attributes:
        label: Class index.
        items: Number of items of the class.
        right_before: Number of items that were right before the repair.
        fixed: Number of items that became right.
        broken: Number of items that became wrong.
    """

    label: int
    items: int
    right_before: int
    fixed: int
    broken: int


@dataclass(frozen=True)
class Verification:
    """Comparison of predictions before and after a repair.

    Attributes:
        items: Number of examples, or of tokens of a language model.
        right_before: Number of items that were right before.
        fixed: Number of items that were wrong before and are right now.
        broken: Number of items that were right before and are wrong now.
        pvalue: p-value of the hypothesis that fixing and breaking were equally likely, see `test`.
        test: "McNemar's exact test" for examples; for tokens, which are not independent within a text, "paired t test
            over texts" on the net of each text, whose mean has the sign of `net`.
        classes: Changes in each class; empty for tokens.
    """

    items: int
    right_before: int
    fixed: int
    broken: int
    pvalue: float
    test: str
    classes: tuple[ClassChange, ...] = ()

    def __post_init__(self) -> None:
        counts = (self.right_before, self.fixed, self.broken)
        wrong = self.items - self.right_before
        if self.items < 1 or min(counts) < 0 or self.fixed > wrong or self.broken > self.right_before:
            raise ValueError(f"of {self.items} items {counts} cannot be right before, fixed and broken")
        if not 0.0 <= self.pvalue <= 1.0:
            raise ValueError(f"pvalue is {self.pvalue} instead of a number from 0 to 1")
        if self.test == MCNEMAR and abs(self.pvalue - mcnemar(self.fixed, self.broken)) > 1e-6:
            raise ValueError(
                f"pvalue is {self.pvalue}, which is not that of {self.fixed} fixed and {self.broken} broken"
            )
        for name in ("items", "right_before", "fixed", "broken") if self.classes else ():
            if sum(getattr(change, name) for change in self.classes) != getattr(self, name):
                raise ValueError(f"{name} of the classes do not add up to {getattr(self, name)}")

    @property
    def net(self) -> int:
        """Fixed minus broken."""
        return self.fixed - self.broken

    @property
    def accuracy_before(self) -> float:
        """Share of items that were right before."""
        return self.right_before / self.items

    @property
    def accuracy_after(self) -> float:
        """Share of items that are right now."""
        return (self.right_before + self.net) / self.items

    def to_dict(self) -> dict[str, Any]:
        """The verification as JSON values."""
        return {**asdict(self), "classes": [asdict(change) for change in self.classes]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Verification":
        """The inverse of `to_dict`."""
        return from_json(cls, content)


def mcnemar(fixed: int, broken: int) -> float:
    """p-value of McNemar's exact test of the hypothesis that a changed item was as likely to be fixed as broken.

    Source: McNemar (1947), Psychometrika 12:153; the exact form is the binomial test of the discordant pairs.
    """
    changed = fixed + broken
    return float(stats.binomtest(fixed, changed, 0.5).pvalue) if changed else 1.0


def verify(before: Predictions, after: Predictions) -> Verification:
    """Compares predictions of the same items before and after.

    Args:
        before: Predictions of the untreated model.
        after: Predictions of the treated one.

    Raises:
        RepairError: If the predictions are not of the same items.
    """
    if before.labels.shape != after.labels.shape or not np.array_equal(before.labels, after.labels):
        raise RepairError(
            f"Predictions before and after are not of the same items (labels of shape {before.labels.shape} and "
            f"{after.labels.shape}): predict one dataset in one order."
        )
    fixed, broken = before.wrong & after.right, before.right & after.wrong
    labels, counted = before.labels, before.counted
    if labels.ndim == 2:
        texts = counted.any(axis=1)
        nets = fixed[texts].sum(axis=1) - broken[texts].sum(axis=1)
        varied = len(nets) > 1 and np.ptp(nets) > 0
        pvalue, test = float(stats.ttest_1samp(nets, 0.0).pvalue) if varied else 1.0, "paired t test over texts"
        classes: tuple[ClassChange, ...] = ()
    else:
        pvalue, test = mcnemar(int(fixed.sum()), int(broken.sum())), MCNEMAR
        classes = tuple(
            ClassChange(
                int(label),
                *(int(mask[labels == label].sum()) for mask in (counted, before.right, fixed, broken)),
            )
            for label in np.unique(labels[counted])
        )
    return Verification(
        items=int(counted.sum()),
        right_before=int(before.right.sum()),
        fixed=int(fixed.sum()),
        broken=int(broken.sum()),
        pvalue=pvalue,
        test=test,
        classes=classes,
    )


def changed_items(before: Predictions, after: Predictions) -> list[dict[str, Any]]:
    """Every item that was fixed or broken: its index in the dataset, label and predictions.

    Returns:
        Dictionaries with ``index`` (for tokens ``index`` of the text and ``token``), ``label``, ``before``, ``after``
        and ``change``, "fixed" or "broken".
    """
    changed = []
    for change, mask in (("fixed", before.wrong & after.right), ("broken", before.right & after.wrong)):
        for place in np.argwhere(mask):
            at: Sequence[int] = tuple(int(index) for index in place)
            where = dict(zip(("index", "token"), at, strict=False))
            values = {
                "label": int(before.labels[at]),
                "before": int(before.predicted[at]),
                "after": int(after.predicted[at]),
            }
            changed.append({**where, **values, "change": change})
    return sorted(changed, key=lambda item: (item["index"], item.get("token", 0)))
