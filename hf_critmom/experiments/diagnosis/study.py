"""A study: attributions of one model on one set of examples, with controls that tell a finding from an artefact."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from accelerate import Accelerator
from torch import nn

from hf_critmom.attribution.attribution import attribute_gradients, predict
from hf_critmom.attribution.groups import Groups
from hf_critmom.attribution.passes import LARGEST_GRADIENT_BATCH, TOP_ROWS
from hf_critmom.attribution.problems import TOP, Diagnosis, diagnose
from hf_critmom.attribution.results import Attribution
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.storage.typed import RecordError, from_json

MOST_CLASSES = 20
"""Largest number of classes that are attributed one by one: those with the most mistakes."""


@dataclass(frozen=True)
class Study:
    """The result for one model on one set of examples.

    Attributes:
        attribution: Attribution on the chosen examples.
        correct: Attribution on correctly classified examples, as many of each class as are misclassified; None if there
            are none.
        initial: Attribution on the misclassified examples in the untrained network; None without one.
        classes: Attribution on the misclassified examples of each class, by class name.
        corruption: Name of the corruption of the images, or None.
        severity: Severity of the corruption; 0 for clean images.
        num_top: Number of top groups.
    """

    attribution: Attribution
    correct: Attribution | None = None
    initial: Attribution | None = None
    classes: Mapping[str, Attribution] = dataclasses.field(default_factory=dict)
    corruption: str | None = None
    severity: int = 0
    num_top: int = TOP

    _NOT_READ: ClassVar[tuple[str, ...]] = ("diagnosis",)

    def __post_init__(self) -> None:
        names = list(self.attribution.groups)
        others = [control for control in (self.correct, self.initial) if control is not None]
        if any(list(found.groups) != names for found in (*others, *self.classes.values())):
            raise ValueError("the attributions are of different layer groups")
        if self.num_top < 1 or self.severity < 0:
            raise ValueError("num_top or severity is below its least value")

    @property
    def diagnosis(self) -> Diagnosis:
        """The problem groups."""
        return diagnose(self.attribution, correct=self.correct, initial=self.initial, num_top=self.num_top)

    @property
    def attributions(self) -> dict[str, Attribution]:
        """The attributions by name: on the chosen examples, and the controls that exist."""
        controls = {"correct": self.correct, "initial": self.initial}
        made = {name: control for name, control in controls.items() if control is not None}
        return {self.attribution.select: self.attribution, **made}

    def to_dict(self) -> dict[str, Any]:
        """The study as JSON values."""
        optional = {"correct": self.correct, "initial": self.initial}
        return {
            "corruption": self.corruption,
            "severity": self.severity,
            "num_top": self.num_top,
            "attribution": self.attribution.to_dict(),
            **{name: attribution and attribution.to_dict() for name, attribution in optional.items()},
            "classes": {name: attribution.to_dict() for name, attribution in self.classes.items()},
            "diagnosis": self.diagnosis.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Study":
        """The inverse of `to_dict`.

        Raises:
            DiagnosisError: If ``content`` is not a study.
        """
        try:
            return from_json(cls, dict(content))
        except (RecordError, TypeError, ValueError) as error:
            raise DiagnosisError(f"This is not a stored study ({error}): make it again.") from None


def make_study(
    model: nn.Module,
    dataloader: Any,
    *,
    select: str = "misclassified",
    num_top_rows: int = TOP_ROWS,
    initial: nn.Module | None = None,
    groups: Groups = None,
    class_names: Sequence[str] = (),
    batch_size: int | None = None,
    num_top: int = TOP,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    corruption: str | None = None,
    severity: int = 0,
) -> Study:
    """Attributes the gradient on chosen examples; for misclassified ones, also by class and with controls.

    Args:
        model: The trained model.
        dataloader: The examples, always in the same order.
        select: See `attribute_gradients`; only "misclassified" comes with controls.
        num_top_rows: See `attribute_gradients`.
        initial: The untrained model.
        groups: See `layer_groups`.
        class_names: Names of the classes, by index; empty for no attribution by class.
        batch_size: See `attribute_gradients`.
        num_top: Number of top groups.
        seed: Seed for drawing correctly classified examples and for the bootstrap.
        accelerator: See `attribute_gradients`.
        corruption: Recorded with the result.
        severity: Recorded with the result.

    Raises:
        AttributionError: As `attribute_gradients`.
    """
    options: dict[str, Any] = {
        "groups": groups,
        "batch_size": batch_size,
        "accelerator": accelerator,
        "seed": seed,
    }
    described: dict[str, Any] = {"corruption": corruption, "severity": severity, "num_top": num_top}
    if select != "misclassified":
        found = attribute_gradients(model, dataloader, select=select, num_top_rows=num_top_rows, **options)
        return Study(found, **described)
    predictions = predict(model, dataloader, accelerator=accelerator)
    wrong, matched = predictions.wrong, predictions.matched(seed)
    if not wrong.any():
        # Raises the error that there is nothing to attribute.
        attribute_gradients(model, dataloader, **options)

    def of(part: np.ndarray, name: str, of_model: nn.Module = model, **changed: Any) -> Attribution:
        found = attribute_gradients(of_model, dataloader, select=part, **{**options, **changed})
        return dataclasses.replace(found, select=name, misclassified=int(wrong.sum()))

    classes = {}
    if class_names and wrong.ndim == 1:
        counts = np.bincount(predictions.labels[wrong], minlength=len(class_names))
        large = batch_size or LARGEST_GRADIENT_BATCH  # single classes need no interval
        most = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
        classes = {
            class_names[index]: of(wrong & (predictions.labels == index), "misclassified", batch_size=large)
            for index in sorted(most)
            if counts[index]
        }
    return Study(
        attribution=of(wrong, "misclassified"),
        correct=of(matched, "correct") if matched.any() else None,
        initial=None if initial is None else of(wrong, "misclassified", initial),
        classes=classes,
        **described,
    )
