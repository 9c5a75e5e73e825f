"""Problem groups: which layer groups a diagnosis names, by stated rules, and whether errors have to do with them.

A gradient is largest where a network is widest or deepest, whatever it is the gradient of. So a ranking of groups on
misclassified examples is compared with the same ranking on correctly classified ones, and in the untrained network.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from hf_critmom.attribution.bootstrap import LEAST_UNITS
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.results import Attribution, GroupGradient

TOP = 3
"""How many groups the paper names (of seven)."""


@dataclass(frozen=True)
class Contrast:
    """A group's share among misclassified examples, by its share among correctly classified ones.

    Attributes:
        ratio: The ratio of the two shares, without noise where `Diagnosis.without_noise`; None where it cannot be told.
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
        without_noise: Whether ratios are of `GroupGradient.signal_share`. Those of earlier versions are of shares with
            noise, and their intervals do not hold their level.
        undecided: Dominant groups of which it cannot be told whether they are problem groups.
        reason: Why that cannot be told, as a clause; None where it can.
        num_groups: Number of groups; 0 in results of earlier versions.
    """

    top: tuple[str, ...]
    dominant: tuple[str, ...]
    problem: tuple[str, ...] | None
    contrast: dict[str, Contrast]
    controls: dict[str, tuple[str, ...]]
    selected: dict[str, int]
    confidence: float
    without_noise: bool = False
    undecided: tuple[str, ...] = ()
    reason: str | None = None
    num_groups: int = 0

    @property
    def same_groups(self) -> dict[str, bool]:
        """Whether each control has the same top groups as the misclassified examples; empty where all groups are."""
        if len(self.top) == self.num_groups:
            return {}
        return {name: set(top) == set(self.top) for name, top in self.controls.items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def findings(self) -> list[str]:
        """What it says, in sentences."""
        said = [f"Misclassified examples have the largest shares in {_listed(self.top)}."]
        if len(self.top) == self.num_groups:
            said = [
                f"By their shares on misclassified examples, the groups are {_listed(self.top)}, the largest first."
            ]
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
        same = self.same_groups
        if same.get("correct"):
            said.append(
                "Misclassified and correctly classified examples have the same top groups: the ranking says where the "
                "gradient of this network is large, not where its mistakes come from."
            )
        elif "correct" in same:
            top = _listed(self.controls["correct"])
            said.append(f"Correctly classified examples have different top groups: {top}.")
        if same.get("initial"):
            said.append("The untrained network has the same top groups on the same examples.")
        elif "initial" in same:
            top = _listed(self.controls["initial"])
            said.append(f"The untrained network has the top groups {top} on the same examples.")
        return [*said, *self._contrast_findings()]

    def _contrast_findings(self) -> list[str]:
        """What the comparison with correctly classified examples says."""
        if not self.contrast:
            return []
        with_noise = "By shares that hold the noise of finitely many examples, "
        if self.problem:
            ratios = [f"{name} ({self.contrast[name].ratio:.2f} times)" for name in self.problem]
            said = (
                f"{'Beyond chance, ' if self.without_noise else with_noise}misclassified examples put more of their "
                f"gradient than correctly classified ones into {_listed(ratios)}."
            )
            return [
                said,
                *([f"Of {_listed(self.undecided)}, that cannot be told: {self.reason}."] if self.undecided else []),
            ]
        if self.problem is not None:
            return [
                f"{'No' if self.without_noise else f'{with_noise}no'} group with more than an average share has a "
                "significantly larger share among misclassified examples than among correctly classified ones: there "
                "is no problem group."
            ]
        whose = _listed(self.undecided) if self.undecided else "any group"
        return [
            f"Whether {whose} has a larger share among misclassified examples than among correctly classified ones "
            f"cannot be told: {self.reason or 'there are too few examples'}."
        ]


def diagnose(
    misclassified: Attribution,
    *,
    correct: Attribution | None = None,
    initial: Attribution | None = None,
    num_top: int = TOP,
    confidence: float = 0.95,
) -> Diagnosis:
    """Names problem groups.

    Ratios are of the shares in the gradients of the populations, from which the noise of the examples at hand is taken
    off (`GroupGradient.signal_share`): on examples that a network has learned, the gradient is small and noise a large
    part of its shares, so that a ratio with noise differs from 1 where there is nothing to find. Their intervals are
    normal ones on the scale of the logarithm, by the jackknife over units, with a t quantile for the smaller number of
    units, and hold for all groups at once (Bonferroni). In simulation (tests/attribution/test_signal.py) they hold
    their level; with ratios of shares that hold noise, up to all of them named a group where there was none. Stored
    attributions without these estimates are compared by such shares, as they were, and findings say so.

    Args:
        misclassified: Attribution of misclassified examples.
        correct: Of correctly classified ones, best of the same number and classes (`Predictions.matched`).
        initial: Of the misclassified examples in an untrained network of the same configuration.
        num_top: How many groups `Diagnosis.top` has.
        confidence: Joint level of the ratios' intervals.

    Raises:
        AttributionError: If the attributions are of different groups, or the number is less than 1.
    """
    check_num_top(num_top)
    controls = {name: control for name, control in (("correct", correct), ("initial", initial)) if control is not None}
    for name, control in controls.items():
        check_same_groups({"misclassified": misclassified, name: control})
    count = len(misclassified.groups)
    dominant = tuple(name for name in misclassified.ranked() if misclassified.groups[name].share > 1.0 / count)
    contrast: dict[str, Contrast] = {}
    problem: tuple[str, ...] | None = None
    undecided: tuple[str, ...] = ()
    reason, without_noise = None, False
    if correct is not None:
        without_noise = misclassified.signal_shares and correct.signal_shares
        contrast = _contrast(misclassified, correct, 1.0 - (1.0 - confidence) / count, without_noise)
        intervals = {name: contrast[name].interval for name in dominant}
        undecided = tuple(name for name, interval in intervals.items() if interval is None)
        problem = tuple(name for name, interval in intervals.items() if interval is not None and interval[0] > 1.0)
        if undecided or all(one.interval is None for one in contrast.values()):
            reason = _why_not(misclassified, correct)
            problem = problem or None
    return Diagnosis(
        top=tuple(misclassified.ranked()[:num_top]),
        dominant=dominant,
        problem=problem,
        contrast=contrast,
        controls={name: tuple(control.ranked()[:num_top]) for name, control in controls.items()},
        selected={name: found.selected for name, found in {"misclassified": misclassified, **controls}.items()},
        confidence=confidence,
        without_noise=without_noise,
        undecided=undecided,
        reason=reason,
        num_groups=count,
    )


def check_num_top(num_top: int) -> None:
    """Checks a number of top groups.

    Raises:
        AttributionError: If it is less than 1.
    """
    if num_top < 1:
        raise AttributionError(f"The number of top groups must be at least 1, got {num_top}.")


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


def _contrast(wrong: Attribution, right: Attribution, confidence: float, without_noise: bool) -> dict[str, Contrast]:
    freedom = min(wrong.units, right.units) - 1
    quantile = float(stats.t.ppf(0.5 + confidence / 2.0, freedom)) if freedom > 0 else math.inf
    share_of = _signal_share if without_noise else _noisy_share
    found = {}
    for name, group in wrong.groups.items():
        (ours, our_error), (theirs, their_error) = share_of(group), share_of(right.groups[name])
        ratio = None if ours is None or not theirs else ours / theirs
        if not ratio or our_error is None or their_error is None or len(wrong.groups) == 1:
            found[name] = Contrast(ratio, None)
            continue
        factor = math.exp(min(quantile * math.hypot(our_error, their_error), 700.0))
        found[name] = Contrast(ratio, (ratio / factor, ratio * factor))
    return found


def _signal_share(group: GroupGradient) -> tuple[float | None, float | None]:
    """A share and the standard error of its logarithm."""
    return group.signal_share, group.signal_error


def _noisy_share(group: GroupGradient) -> tuple[float | None, float | None]:
    """The error of log(share) is that of the log odds times (1 - share)."""
    error = group.log_odds_error
    return group.share, None if error is None else error * (1.0 - group.share)


def _why_not(wrong: Attribution, right: Attribution) -> str:
    """Why some or all groups cannot be compared."""
    if len(wrong.groups) == 1:
        return "there is a single layer group"
    for found, which in ((wrong, "misclassified"), (right, "correctly classified")):
        if found.units < LEAST_UNITS <= found.selected:
            return (
                f"the gradients of {found.selected:,} {which} {found.unit} were summed in "
                f"{found.units} batch{'es' * (found.units > 1)}, and an interval takes {LEAST_UNITS} at least: choose "
                "a smaller gradient batch size"
            )
        if found.units < LEAST_UNITS:
            return f"there are too few {which} {found.unit} ({found.selected:,})"
    return "the noise of finitely many examples hides the gradient there, and more of them may show it"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"
