"""Agreement between runs: do networks that were trained apart have the same problem groups?

The paper finds the same 3 of 7 groups in a network trained by SGD and in one trained by Adam. Two random choices agree
so far once in 35 times; but networks of one architecture are no random choices, so the same agreement has to be looked
for on correctly classified examples and in untrained networks.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.problems import TOP, check_num_top, check_same_groups
from hf_critmom.attribution.results import Attribution


@dataclass(frozen=True)
class PairAgreement:
    """Two runs.

    Attributes:
        first: One run.
        second: The other.
        overlap: How many of their top groups they share.
        spearman: Rank correlation of the groups' shares; None where it is not defined.
    """

    first: str
    second: str
    overlap: int
    spearman: float | None


@dataclass(frozen=True)
class Mean:
    """A mean over pairs of runs.

    Attributes:
        value: The mean.
        interval: Interval over seeds; None for too few of them, and where leaving out any one changes nothing, as
            where all pairs are equal.
    """

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ArmAgreement:
    """The runs of an arm among each other, or those of two arms.

    Attributes:
        first: One arm.
        second: The other, or the same.
        pairs: Number of pairs of runs.
        overlap: Mean number of shared top groups.
        full: Share of the pairs whose top groups are all the same.
        spearman: Mean rank correlation; None where it is not defined for a pair.
    """

    first: str
    second: str
    pairs: int
    overlap: Mean
    full: float
    spearman: Mean | None


@dataclass(frozen=True)
class ArmDifference:
    """How much more the runs of an arm, or those of two arms, agree on some examples than on others, pair by pair.

    Attributes:
        first: One arm.
        second: The other, or the same.
        overlap: Mean difference of the number of shared top groups.
        spearman: Mean difference of the rank correlation; None where it is not defined for a pair.
    """

    first: str
    second: str
    overlap: Mean
    spearman: Mean | None


@dataclass(frozen=True)
class Agreement:
    """Agreement between runs.

    Attributes:
        groups: Number of layer groups.
        num_top: Number of top groups.
        expected: Overlap that two random choices have on average, num_top squared / groups.
        full_by_chance: Probability that two random choices agree in full, such as 1 / 35 for 3 of 7.
        pairs: Every two runs.
        arms: Every arm of two or more runs, and every two arms.
        confidence: Level of the intervals.
        members: The runs of each arm.
    """

    groups: int
    num_top: int
    expected: float
    full_by_chance: float
    pairs: tuple[PairAgreement, ...]
    arms: tuple[ArmAgreement, ...]
    confidence: float
    members: dict[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def chance_of_overlap(overlap: int, num_top: int, groups: int) -> float:
    """Probability that two random choices of ``num_top`` of ``groups`` share at least ``overlap`` (hypergeometric)."""
    return float(stats.hypergeom.sf(overlap - 1, groups, num_top, num_top))


def measure_agreement(
    attributions: Mapping[str, Attribution],
    arms: Mapping[str, str] | None = None,
    *,
    num_top: int = TOP,
    confidence: float = 0.95,
) -> Agreement:
    """Compares the runs' rankings of layer groups.

    Means over pairs are U-statistics of the runs, since a run is in many pairs; their intervals are from the jackknife
    that leaves out one run at a time (J. N. Arvesen, Annals of Mathematical Statistics 40, 1969), with a t quantile for
    the smaller arm, within the possible range. They say what other seeds of these arms would give.

    Args:
        attributions: One of each run, by its name.
        arms: The arm of each run; default: all are of one.
        num_top: How many groups count as a run's problem groups.
        confidence: Level of the intervals.

    Raises:
        AttributionError: If there are fewer than two runs, their layer groups differ, or the number is less than 1.
    """
    check_num_top(num_top)
    if len(attributions) < 2:
        raise AttributionError("Agreement takes two runs at least: name several checkpoints.")
    groups = check_same_groups(attributions)
    num_top = min(num_top, len(groups))
    runs = {name: Ranking.of(attribution, num_top) for name, attribution in attributions.items()}
    pairs = {
        (first, second): _pair(first, second, runs[first], runs[second])
        for first, second in itertools.combinations(runs, 2)
    }
    by_arm: dict[str, list[str]] = {}
    for name in runs:
        by_arm.setdefault((arms or {}).get(name, "all"), []).append(name)
    compared = [
        _arms(first, second, by_arm, pairs, num_top, confidence)
        for first, second in itertools.combinations_with_replacement(by_arm, 2)
        if first != second or len(by_arm[first]) > 1
    ]
    return Agreement(
        groups=len(groups),
        num_top=num_top,
        expected=num_top**2 / len(groups),
        full_by_chance=chance_of_overlap(num_top, num_top, len(groups)),
        pairs=tuple(pairs.values()),
        arms=tuple(compared),
        confidence=confidence,
        members={arm: tuple(names) for arm, names in by_arm.items()},
    )


def compare_agreement(chosen: Agreement, control: Agreement) -> list[ArmDifference]:
    """How much more the same runs agree on the chosen examples than on a control's, with jackknife intervals.

    Every pair of runs is compared with itself, so that what its networks have in common on any examples falls out.

    Args:
        chosen: Agreement on the chosen examples.
        control: Agreement of the same runs on a control's examples.
    """
    pairs = {
        (one.first, one.second): PairAgreement(
            one.first,
            one.second,
            one.overlap - other.overlap,
            None if one.spearman is None or other.spearman is None else one.spearman - other.spearman,
        )
        for one, other in zip(chosen.pairs, control.pairs, strict=True)
    }
    top = float(chosen.num_top)
    return [
        ArmDifference(
            arms.first, arms.second, *_means(arms.first, arms.second, chosen.members, pairs, (-top, top), (-2.0, 2.0),
                                             chosen.confidence)
        )
        for arms in chosen.arms
    ]  # fmt: skip


@dataclass(frozen=True)
class Ranking:
    """What of a run is compared: shares in the groups' order, and the names of the largest."""

    shares: tuple[float, ...]
    top: frozenset[str]

    @classmethod
    def of(cls, attribution: Attribution, num_top: int) -> "Ranking":
        """The ranking of an attribution."""
        return cls(tuple(attribution.shares.values()), frozenset(attribution.ranked()[:num_top]))


Pairs = Mapping[tuple[str, str], PairAgreement]

_ROUNDING = 1e-9
"""Standard errors up to this are rounding errors of equal means, which would make an interval without width."""


def _pair(first: str, second: str, one: Ranking, other: Ranking) -> PairAgreement:
    overlap = len(one.top & other.top)
    defined = len(set(one.shares)) > 1 and len(set(other.shares)) > 1
    return PairAgreement(
        first,
        second,
        overlap,
        float(stats.spearmanr(one.shares, other.shares).statistic) if defined else None,
    )


def _arms(
    first: str, second: str, by_arm: Mapping[str, Sequence[str]], pairs: Pairs, num_top: int, confidence: float
) -> ArmAgreement:
    found = [_of(pairs, *names) for names in _pairs_of(by_arm[first], by_arm[second], first == second)]
    overlap, spearman = _means(first, second, by_arm, pairs, (0.0, float(num_top)), (-1.0, 1.0), confidence)
    full = sum(pair.overlap == num_top for pair in found) / len(found)
    return ArmAgreement(first, second, len(found), overlap, full, spearman)


def _means(
    first: str,
    second: str,
    by_arm: Mapping[str, Sequence[str]],
    pairs: Pairs,
    overlaps: tuple[float, float],
    correlations: tuple[float, float],
    confidence: float,
) -> tuple[Mean, Mean | None]:
    """Mean overlap and mean rank correlation of the pairs of two arms, each within its possible range."""
    left, right, within = by_arm[first], by_arm[second], first == second
    known = all(_of(pairs, *names).spearman is not None for names in _pairs_of(left, right, within))
    return (
        _mean(lambda pair: float(pair.overlap), pairs, left, right, within, overlaps, confidence),
        _mean(lambda pair: pair.spearman or 0.0, pairs, left, right, within, correlations, confidence)
        if known
        else None,
    )


def _mean(
    value: Callable[[PairAgreement], float],
    pairs: Pairs,
    left: Sequence[str],
    right: Sequence[str],
    within: bool,
    possible: tuple[float, float],
    confidence: float,
) -> Mean:
    def mean(left: Sequence[str], right: Sequence[str]) -> float:
        values = [value(_of(pairs, one, other)) for one, other in _pairs_of(left, right, within)]
        return math.fsum(values) / len(values)

    whole = mean(left, right)
    if len(left) < (3 if within else 2) or (not within and len(right) < 2):
        return Mean(whole, None)
    samples = [[mean(rest, rest if within else right) for rest in _each_left_out(left)]]
    if not within:
        samples.append([mean(left, rest) for rest in _each_left_out(right)])
    error = math.sqrt(sum(_jackknife_variance(sample) for sample in samples))
    if error <= _ROUNDING:
        return Mean(whole, None)
    reach = stats.t.ppf(0.5 + confidence / 2.0, min(map(len, samples)) - 1) * error
    return Mean(whole, (max(possible[0], whole - float(reach)), min(possible[1], whole + float(reach))))


def _pairs_of(left: Sequence[str], right: Sequence[str], within: bool) -> list[tuple[str, str]]:
    return list(itertools.combinations(left, 2)) if within else list(itertools.product(left, right))


def _of(pairs: Pairs, one: str, other: str) -> PairAgreement:
    return pairs[one, other] if (one, other) in pairs else pairs[other, one]


def _each_left_out(names: Sequence[str]) -> list[list[str]]:
    return [[name for name in names if name != left_out] for left_out in names]


def _jackknife_variance(estimates: Sequence[float]) -> float:
    count, middle = len(estimates), math.fsum(estimates) / len(estimates)
    return (count - 1) / count * math.fsum((estimate - middle) ** 2 for estimate in estimates)
