"""Problem groups: which layer groups a diagnosis names, by stated rules, and whether errors have to do with them.

A gradient is largest where a network is widest or deepest, whatever it is the gradient of. So a ranking of groups on
misclassified examples is compared with the same ranking on correctly classified ones, and in the untrained network.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.results import Attribution

TOP = 3
"""How many groups the paper names (of seven)."""


@dataclass(frozen=True)
class Contrast:
    """A group's share among misclassified examples, by its share among correctly classified ones.

    Attributes:
        ratio: The ratio of the two shares; None where the share among the correct ones is 0.
        interval: Of the ratio, at the joint level of all groups; None where a share has no standard error.
    """

    ratio: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Diagnosis:
    """Which groups are problem groups, by three rules.

    Attributes:
        top: The paper's rule: the `num_top` groups with the largest share.
        dominant: Groups whose share exceeds the average, 1 / number of groups. It needs no number, but like `top` it
            looks at the misclassified examples alone.
        problem: Our own rule: dominant groups whose share is larger among misclassified examples than among correctly
            classified ones, in that the interval of the ratio lies above 1. None where that could not be determined.
        contrast: The ratio of every group; empty without correctly classified examples.
        controls: The top groups of each control, by its name: "correct", "initial".
        selected: Number of items of the attribution and of each control, by name.
        confidence: Joint level of the ratios' intervals.
    """

    top: tuple[str, ...]
    dominant: tuple[str, ...]
    problem: tuple[str, ...] | None
    contrast: dict[str, Contrast]
    controls: dict[str, tuple[str, ...]]
    selected: dict[str, int]
    confidence: float

    @property
    def same_groups(self) -> dict[str, bool]:
        """Whether each control has the same top groups as the misclassified examples."""
        return {name: set(top) == set(self.top) for name, top in self.controls.items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def findings(self) -> list[str]:
        """What it says, in sentences."""
        said = [f"Misclassified examples have the largest shares in {_listed(self.top)}."]
        if "correct" not in self.controls:
            said.append(
                "They were not compared with correctly classified ones of the same classes, so whether the errors have "
                "to do with these groups is open."
            )
        elif self.selected["correct"] < self.selected["misclassified"]:
            count = self.selected["correct"]
            said.append(
                f"Only {count:,} correctly classified example{' was' if count == 1 else 's were'} there to match their "
                f"classes ({self.selected['misclassified']:,})."
            )
        same = [name for name, same in self.same_groups.items() if same]
        if "correct" in same:
            said.append(
                "Misclassified and correctly classified examples have the same top groups: the ranking says where the "
                "gradient of this network is large, not where its mistakes come from."
            )
        elif "correct" in self.controls:
            top = _listed(self.controls["correct"])
            said.append(f"Correctly classified examples have different top groups: {top}.")
        if "initial" in same:
            said.append("The untrained network has the same top groups on the same examples.")
        elif "initial" in self.controls:
            top = _listed(self.controls["initial"])
            said.append(f"The untrained network has the top groups {top} on the same examples.")
        if self.problem:
            ratios = [f"{name} ({self.contrast[name].ratio:.2f} times)" for name in self.problem]
            said.append(
                f"Beyond chance, misclassified examples put more of their gradient than correctly classified ones into "
                f"{_listed(ratios)}."
            )
        elif self.problem is not None:
            said.append(
                "No group with more than an average share has a significantly larger share among misclassified "
                "examples than among correctly classified ones: there is no problem group."
            )
        elif self.contrast:
            said.append(
                "There are too few examples to tell whether any group has a larger share among misclassified examples "
                "than among correctly classified ones."
            )
        return said


def diagnose(
    misclassified: Attribution,
    *,
    correct: Attribution | None = None,
    initial: Attribution | None = None,
    num_top: int = TOP,
    confidence: float = 0.95,
) -> Diagnosis:
    """Names problem groups.

    The intervals of the ratios are normal ones on the scale of the logarithm, with a t quantile for the number of
    resampled units, and hold for all groups at once (Bonferroni).

    Args:
        misclassified: Attribution of misclassified examples.
        correct: Of correctly classified ones, best of the same number and classes (`Predictions.matched`).
        initial: Of the misclassified examples in the network as it was before training.
        num_top: How many groups `Diagnosis.top` has.
        confidence: Joint level of the ratios' intervals.

    Raises:
        AttributionError: If the attributions are of different groups, or the number is less than 1.
    """
    if num_top < 1:
        raise AttributionError(f"The number of top groups must be at least 1, got {num_top}.")
    controls = {name: control for name, control in (("correct", correct), ("initial", initial)) if control is not None}
    for name, control in controls.items():
        check_same_groups({"misclassified": misclassified, name: control})
    count = len(misclassified.groups)
    dominant = tuple(name for name in misclassified.ranked() if misclassified.groups[name].share > 1.0 / count)
    contrast = {} if correct is None else _contrast(misclassified, correct, 1.0 - (1.0 - confidence) / count)
    problem = None
    if any(one.interval is not None for one in contrast.values()):
        intervals = {name: contrast[name].interval for name in dominant}
        problem = tuple(name for name, interval in intervals.items() if interval is not None and interval[0] > 1.0)
    return Diagnosis(
        top=tuple(misclassified.ranked()[:num_top]),
        dominant=dominant,
        problem=problem,
        contrast=contrast,
        controls={name: tuple(control.ranked()[:num_top]) for name, control in controls.items()},
        selected={name: found.selected for name, found in {"misclassified": misclassified, **controls}.items()},
        confidence=confidence,
    )


def check_same_groups(attributions: Mapping[str, Attribution]) -> list[str]:
    """The groups' names, if all attributions have the same.

    Raises:
        AttributionError: If they differ.
    """
    (first, expected), *others = attributions.items()
    for name, attribution in others:
        if list(attribution.groups) != list(expected.groups):
            raise AttributionError(
                f"{first} and {name} have different layer groups ({', '.join(expected.groups)} and "
                f"{', '.join(attribution.groups)}): compare models of one architecture, with the same groups."
            )
    return list(expected.groups)


def _contrast(wrong: Attribution, right: Attribution, confidence: float) -> dict[str, Contrast]:
    freedom = min(wrong.units, right.units) - 1
    quantile = float(stats.t.ppf(0.5 + confidence / 2.0, freedom)) if freedom > 0 else math.inf
    found = {}
    for name, group in wrong.groups.items():
        control = right.groups[name]
        if not control.share > 0.0 or not group.share > 0.0:
            found[name] = Contrast(None if not control.share > 0.0 else 0.0, None)
            continue
        ratio = group.share / control.share
        if group.log_odds_error is None or control.log_odds_error is None:
            found[name] = Contrast(ratio, None)
            continue
        # The error of log(share) is that of the log odds times (1 - share).
        error = math.hypot(group.log_odds_error * (1.0 - group.share), control.log_odds_error * (1.0 - control.share))
        factor = math.exp(min(quantile * error, 700.0))
        found[name] = Contrast(ratio, (ratio / factor, ratio * factor))
    return found


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"
