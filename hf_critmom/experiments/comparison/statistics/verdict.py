"""The verdicts: one of five words for each claim, never stronger than the evidence."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX
from hf_critmom.experiments.comparison.statistics.arrivals import Arrivals, arrivals, repeated_seeds, smooths
from hf_critmom.experiments.comparison.statistics.claims import Claim, claim_weights, why_untested
from hf_critmom.experiments.comparison.statistics.power import seeds_needed
from hf_critmom.experiments.comparison.statistics.ratios import (
    Pair,
    PairedRatio,
    area_difference,
    decided_everywhere,
    ending_difference,
    pair,
    target_ratios,
)
from hf_critmom.experiments.comparison.statistics.sequential import ALPHA, Looks, decide, interval_level
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.reporting.intervals import CONFIDENCE, Interval

FASTER, SLOWER, NO_DIFFERENCE = "faster", "slower", "no difference"
NOT_DECIDED, NOT_TESTED = "not decided yet", "not tested"

MARGIN = 0.1
"""A ratio of times between 1 / (1 + margin) and 1 + margin counts as no difference."""


@dataclass(frozen=True)
class Headline:
    """One arm against one other, in one number: the geometric mean over targets and seeds of the ratio of times.

    Attributes:
        arm: The arm's name.
        baseline: The other arm's name.
        ratio: The ratio with its interval; below 1 the arm is faster.
        confidence: Level of the interval, see `sequential.interval_level`.
        targets: The targets on which it rests: those that can distinguish the two arms, see `Pair.informative`.
        unreached: The planned targets that no run of the two reached, which are left out.
        at_once: The planned targets that every run had reached at its first evaluation, which are left out, too.
        paired: Whether the seeds are paired; if not, means are compared (Welch).
        arm_missed: Number of arrivals, over targets and seeds, that only the arm missed; they count with the end of
            the budget.
        baseline_missed: Number of arrivals that only the baseline missed.
        both_missed: Number of arrivals that both missed.
        arrivals: Number of possible arrivals of each arm: targets times seeds.
        area: Mean difference of the validation metric over the training, arm minus baseline.
        ending: Difference of the test metric, arm minus baseline.
        at: The ratio at each target.
        everywhere: Whether the arm is faster (-1) or slower (1) at every one of `targets`; 0 if neither.
    """

    arm: str
    baseline: str
    ratio: Interval
    confidence: float
    targets: tuple[float, ...]
    unreached: tuple[float, ...]
    at_once: tuple[float, ...]
    paired: bool
    arm_missed: int
    baseline_missed: int
    both_missed: int
    arrivals: int
    area: Interval
    ending: Interval
    at: tuple[PairedRatio, ...]
    everywhere: int = 0


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim.

    Attributes:
        claim: The claim.
        word: `FASTER`, `SLOWER`, `NO_DIFFERENCE`, `NOT_DECIDED` or `NOT_TESTED`. A claim to be first is `FASTER` if
            the arm is faster than every other, `SLOWER` if at least one other is faster, `NO_DIFFERENCE` if at least
            one other is within the margin.
        headlines: The evidence: one headline for each arm with which the claim's arm is compared.
        seeds: Number of seeds at the present look.
        decided_at: Number of seeds at the look that decided the claim; None if it is not decided.
        needed: Number of seeds that would probably decide the claim; None if it is unknown or too large.
        reason: Why the claim was not tested, or what prevents a decision; may be empty.
        margin: Relative difference of times that still counts as none.
    """

    claim: Claim
    word: str
    headlines: tuple[Headline, ...]
    seeds: int
    decided_at: int | None = None
    needed: int | None = None
    reason: str = ""
    margin: float = MARGIN

    @property
    def compared(self) -> set[str]:
        """Names of the arms and tuned variants that it compares."""
        return {self.claim.arm, *self.claim.baselines, *(one.baseline for one in self.headlines)}

    @property
    def arms(self) -> set[str]:
        """The arms that it compares; a tuned variant stands for its arm."""
        return {name.removesuffix(TUNED_SUFFIX) for name in self.compared}

    @property
    def decided(self) -> bool:
        """Whether more seeds cannot change the word."""
        return self.word != NOT_DECIDED

    def allows(self, ratio: Interval) -> bool:
        """Whether a ratio's interval lies within the margin."""
        return 1.0 / (1.0 + self.margin) < ratio.low and ratio.high < 1.0 + self.margin


@dataclass(frozen=True)
class Rule:
    """How a comparison is judged: fixed before the runs.

    Attributes:
        metric: Metric of the targets.
        targets: The planned targets.
        exploratory: Targets that were added after the first results, which are reported but enter no headline.
        looks: The looks at the comparison; None for a single look with all seeds.
        seeds: The seeds in the order in which they were planned; None for rising order.
        margin: Relative difference of times that still counts as none.
        alpha: Probability of a wrong difference over all claims and looks, and of a wrong "no difference".
        paired: Whether the same seed means the same initial weights and the same order of data in every arm.
        column: Measure of time: "step", "epoch" or "seconds".
        arms: Names of the planned arms, with or without results.
    """

    metric: Metric
    targets: tuple[float, ...]
    exploratory: tuple[float, ...] = ()
    looks: Looks | None = None
    seeds: tuple[int, ...] | None = None
    margin: float = MARGIN
    alpha: float = ALPHA
    paired: bool = True
    column: str = "step"
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A table of results, prepared for its verdicts.

    Attributes:
        table: The table of results at one budget.
        rule: How the comparison is judged.
        looks: The looks at the comparison.
        seeds: The seeds in the order in which they were planned.
        smoothed: Whether the curves were smoothed before they were interpolated.
        of: Arrivals by arm, at the planned targets and then the exploratory ones.
        repeated: Seeds of each arm that have the same curve as another seed, see `arrivals.repeated_seeds`.
    """

    table: pd.DataFrame
    rule: Rule
    looks: Looks
    seeds: tuple[int, ...]
    smoothed: bool
    of: Mapping[str, Arrivals]
    repeated: Mapping[str, tuple[int, ...]]

    def confidence(self, seeds: int) -> float:
        """Level of the interval of a claim whose arms have this number of seeds in common."""
        return interval_level(self.looks.until(seeds), CONFIDENCE)

    def pair(self, arm: str, baseline: str, seeds: int | None = None) -> Pair | None:
        """The runs of two arms.

        Args:
            arm: The arm's name.
            baseline: The other arm's name.
            seeds: Number of first seeds to which the runs are restricted, as at an earlier look; None for all seeds.

        Returns:
            The pair; None if `seeds` is given and one of the arms lacks some of them.
        """
        runs = pair(self.of[arm], self.of[baseline], paired=self.rule.paired)
        if seeds is None:
            return runs
        own, others = self._first_seeds(runs)
        if min(len(own), len(others)) < seeds:
            return None
        sides = self.of[arm].of(own[:seeds]), self.of[baseline].of(others[:seeds])
        return Pair(*sides, paired=runs.paired)

    def num_looked_at(self, arm: str, baseline: str) -> int:
        """Number of seeds at the latest look that two arms have results for."""
        return min(map(len, self._first_seeds(pair(self.of[arm], self.of[baseline], paired=self.rule.paired))))

    def _first_seeds(self, runs: Pair) -> tuple[list[int], list[int]]:
        """Each arm's seeds in the order of their looks; paired ones up to the first one that an arm lacks.

        If a look could be at other seeds, somebody who has seen the results of one arm could choose them.
        """
        own, others = ([seed for seed in self.seeds if seed in side.seeds] for side in (runs.arm, runs.baseline))
        if runs.paired:
            shared = [*itertools.takewhile(lambda seed: seed in own and seed in others, self.seeds)]
            return shared, shared
        return own, others


def judge(table: pd.DataFrame, rule: Rule) -> Judged:
    """Prepares a table of results for its verdicts.

    Args:
        table: The table of results at one budget.
        rule: How the comparison is judged.
    """
    seeds = tuple(int(seed) for seed in sorted(table["seed"].unique())) if rule.seeds is None else rule.seeds
    finished = int(table.groupby("arm")["seed"].nunique().max()) if len(table) else 0
    looks = rule.looks or Looks.fixed(max(finished, 1))
    targets, smooth = (*rule.targets, *rule.exploratory), smooths(table)
    of = {
        arm: arrivals(table, arm, rule.metric, targets, rule.column, smooth=smooth)
        for arm in dict.fromkeys(table["arm"])
    }
    return Judged(table, rule, looks, seeds, smooth, of, repeated_seeds(table, rule.metric))


def headline(judged: Judged, arm: str, baseline: str, *, highest_only: bool = False) -> Headline:
    """One arm against one other, with all seeds.

    Args:
        judged: The prepared results.
        arm: The arm's name.
        baseline: The other arm's name.
        highest_only: Whether only the hardest target counts.
    """
    rule, runs = judged.rule, judged.pair(arm, baseline)
    assert runs is not None  # no number of seeds was given
    planned = _planned(rule, highest_only=highest_only)
    used = runs.at(planned).informative
    left_out = [target for target in planned if target not in used]
    reached = {
        target: any(side.at([target]).arrived.any() for side in (runs.arm, runs.baseline)) for target in left_out
    }
    at = runs.at(used)
    arm_missed, baseline_missed, both_missed = at.missed()
    confidence = judged.confidence(runs.n)
    return Headline(
        arm=arm,
        baseline=baseline,
        ratio=at.estimate().interval(confidence).exp(),
        confidence=confidence,
        targets=used,
        unreached=tuple(target for target in left_out if not reached[target]),
        at_once=tuple(target for target in left_out if reached[target]),
        paired=runs.paired,
        arm_missed=arm_missed,
        baseline_missed=baseline_missed,
        both_missed=both_missed,
        arrivals=len(used) * runs.n,
        area=area_difference(judged.table, runs, rule.metric).interval(confidence),
        ending=ending_difference(judged.table, runs, rule.metric).interval(confidence),
        at=target_ratios(runs, planned, level=1.0 - confidence, exploratory=() if highest_only else rule.exploratory),
        everywhere=decided_everywhere(at, level=1.0 - confidence),
    )


def verdicts(judged: Judged, claims: Sequence[Claim]) -> list[Verdict]:
    """The verdict on every claim.

    At each look so far, every claim that can be tested has a p-value for equal times, and one for a difference beyond
    the margin; a claim is decided at the first look at which one of them is small enough, and further seeds leave it
    decided. Further claims, as of an arm that is added, raise what all have to pass, and can open it again. Holm's
    weighted procedure over the claims and a spending function over the looks keep the probability of any wrong "faster"
    or "slower" at any look within `rule.alpha`, and that of any wrong "no difference", too
    (`hf_critmom.experiments.comparison.statistics.sequential`).

    Args:
        judged: The prepared results.
        claims: The claims, see `claims.claims_of`.
    """
    reasons = [why_untested(claim, judged.table, judged.rule.arms) for claim in claims]
    tested = iter(_tested(judged, [claim for claim, reason in zip(claims, reasons, strict=True) if not reason]))
    seeds, margin = max(judged.looks.made, default=0), judged.rule.margin
    return [
        Verdict(claim, NOT_TESTED, (), seeds, reason=reason, margin=margin) if reason else next(tested)
        for claim, reason in zip(claims, reasons, strict=True)
    ]


@dataclass(frozen=True)
class _Evidence:
    """p-values of one claim at one look.

    Attributes:
        different: p-value of equal times, two-sided.
        within: p-value of a difference beyond the margin, doubled, so that it is compared with a two-sided level.
        word: The word if `different` is small enough.
    """

    different: float = 1.0
    within: float = 1.0
    word: str = NOT_DECIDED


def _tested(judged: Judged, claims: Sequence[Claim]) -> list[Verdict]:
    """Verdicts on claims that can be tested."""
    if not claims:
        return []
    looks, alpha = judged.looks, judged.rule.alpha
    evidence = [[_evidence(judged, claim, seeds) for claim in claims] for seeds in looks.counted]
    weights = claim_weights(claims)
    shape = (len(looks.counted), len(claims))
    different, within = (
        np.array([[getattr(one, kind) for one in row] for row in evidence]).reshape(shape)
        for kind in ("different", "within")
    )
    at_different, allowed = decide(different, weights, looks, alpha)
    at_within, allowed_within = decide(within, weights, looks, 2.0 * alpha)
    found = []
    for place, claim in enumerate(claims):
        decided = [int(at[place]) for at in (at_different, at_within)]
        look = min((at for at in decided if at >= 0), default=-1)
        word = NOT_DECIDED
        if look >= 0:
            word = evidence[look][place].word if decided[0] == look else NO_DIFFERENCE
        totals = (float(allowed[place]), float(allowed_within[place]))
        found.append(_verdict(judged, claim, word, look, totals, len(claims)))
    return found


def _verdict(
    judged: Judged, claim: Claim, word: str, look: int, totals: tuple[float, float], num_claims: int
) -> Verdict:
    rule, looks = judged.rule, judged.looks
    rivals = claim.rivals(list(judged.of))
    headlines = tuple(headline(judged, claim.arm, rival, highest_only=claim.highest_only) for rival in rivals)
    seeds = min(one.ratio.n for one in headlines)
    looked = min(judged.num_looked_at(claim.arm, rival) for rival in rivals)
    if word != NOT_DECIDED:
        return Verdict(claim, word, headlines, seeds, decided_at=looks.counted[look], margin=rule.margin)
    needed = None
    pairs = [runs for rival in rivals if (runs := judged.pair(claim.arm, rival)) is not None]
    same = next(filter(None, (_repeated(judged, runs) for runs in pairs)), "")
    reason = same or _obstacle(judged, headlines, looked, num_claims)
    if not claim.first and headlines[0].targets and not same:
        (runs,) = pairs
        estimate = runs.at(headlines[0].targets).estimate()
        within = [runs.at(targets).estimate() for targets in _judged_within(runs)]
        needed = seeds_needed(estimate, looks.until(looked), math.log1p(rule.margin), *totals, within)
        if needed is None and not within and not reason:
            reason = (
                'no target was reached by every run of both, as "no difference" requires: a comparison with easier '
                "targets or a longer budget can tell"
            )
    return Verdict(claim, word, headlines, seeds, needed=needed, reason=reason, margin=rule.margin)


def _obstacle(judged: Judged, headlines: Sequence[Headline], looked: int, num_claims: int) -> str:
    """What prevents a decision at a number of seeds; empty if it is only the spread."""
    seeds = min(one.ratio.n for one in headlines)
    if seeds == 0:
        return "they have no finished seed in common"
    if not any(one.targets for one in headlines):
        if any(one.at_once for one in headlines):
            return "every run was at a target when it was first evaluated"
        arms = {name for one in headlines for name in (one.arm, one.baseline)}
        if (judged.table[judged.table["arm"].isin(arms)]["status"] == "diverged").all():
            return "every run diverged, which a lower learning rate may prevent"
        return "none of the arms reached a target"
    if looked < seeds:
        return f"seeds count in the order of the plan, and the arms do not all have seed {judged.seeds[looked]}"
    if seeds < judged.looks.first:
        return f"{seeds} of the {judged.looks.first} seeds of the first analysis are finished"
    if seeds == 1:
        return "one seed has no spread"
    if len(headlines) == 1 and (headlines[0].ratio.low > 1.0 or headlines[0].ratio.high < 1.0) and num_claims > 1:
        return f"the correction for {num_claims} claims leaves it open"
    return ""


def _repeated(judged: Judged, runs: Pair) -> str:
    """Which seeds of a pair gave the same run, as a clause; empty if none did."""
    for side in (runs.arm, runs.baseline):
        same = [seed for seed in judged.repeated.get(side.arm, ()) if seed in side.seeds]
        if len(same) > 1:
            seeds = f"{', '.join(map(str, same[:-1]))} and {same[-1]}"
            return f"seeds {seeds} of {side.arm} have the very same curve, so that the seed does not reach the training"
    return ""


def _planned(rule: Rule, *, highest_only: bool) -> tuple[float, ...]:
    """The planned targets from the easiest to the hardest, or only the hardest."""
    ordered = tuple(sorted(rule.targets, reverse=not rule.metric.greater_is_better))
    return ordered[-1:] if highest_only else ordered


def _evidence(judged: Judged, claim: Claim, seeds: int) -> _Evidence:
    """The evidence of the first seeds about a claim.

    A claim to be first holds if the arm is faster than every other, each tested at the full level (an
    intersection-union test). A single faster arm contradicts it, and a single arm within the margin makes it "no
    difference", each tested with Bonferroni's correction.
    """
    rivals = claim.rivals(list(judged.of))
    below, above, within = [], [], []
    for rival in rivals:
        runs = judged.pair(claim.arm, rival, seeds)
        if runs is None or _repeated(judged, runs):
            return _Evidence()
        runs = runs.at(_planned(judged.rule, highest_only=claim.highest_only))
        estimate = runs.at(runs.informative).estimate()
        below.append(estimate.p_below())
        above.append(estimate.p_above())
        within.append(_p_within(runs, math.log1p(judged.rule.margin)))
    faster, slower = max(below), len(rivals) * min(above)
    word = FASTER if faster < slower else SLOWER
    return _Evidence(min(2.0 * min(faster, slower), 1.0), min(2.0 * len(rivals) * min(within), 1.0), word)


def _p_within(runs: Pair, margin: float) -> float:
    """p-value of a difference beyond the margin."""
    return max((runs.at(targets).estimate().p_within(margin) for targets in _judged_within(runs)), default=1.0)


def _judged_within(runs: Pair) -> list[tuple[float, ...]]:
    """The sets of targets at each of which a difference must lie within the margin; empty if none can show that.

    The restriction to the budget draws ratios towards 1, which must not pass for evidence of equality: the targets at
    which every run of both arms was timed must show it on their own, too.
    """
    timed = tuple(
        target
        for column, target in enumerate(runs.arm.targets)
        if all((side.arrived & ~side.immediate)[:, column].all() for side in (runs.arm, runs.baseline))
    )
    return [tuple(runs.informative), timed] if timed else []
