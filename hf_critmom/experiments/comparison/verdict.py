"""The verdict: what a comparison says about each claim, never more strongly than its intervals allow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from hf_critmom.experiments.comparison.arms import TUNED_SUFFIX
from hf_critmom.experiments.comparison.statistics import Metric, PairedRatio, paired_difference, paired_ratio
from hf_critmom.reporting.intervals import CONFIDENCE, Interval

SUPPORTED, CONTRADICTED, UNDECIDED, UNTESTED = "supported", "contradicted", "undecided", "not tested"


@dataclass(frozen=True)
class Claim:
    """A claim about time to a target.

    Attributes:
        text: What is claimed.
        arm: The arm that should be faster.
        baselines: Arms that it should be faster than; empty: all others but tuned variants.
        highest_only: Whether only the highest target counts.
        same_learning_rate: Whether the claim is about arms at the same learning rate.
    """

    text: str
    arm: str
    baselines: tuple[str, ...]
    highest_only: bool = False
    same_learning_rate: bool = False


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "critmom is faster than constant momentum at the same learning rate",
        "critmom",
        ("constant",),
        same_learning_rate=True,
    ),
    Claim("critmom is faster than its matched control", "critmom", ("matched",)),
    Claim("critmom, tuned, is faster than constant momentum, tuned", "critmom_tuned", ("constant_tuned",)),
    Claim("hybrid is the first to reach the high target", "hybrid", (), highest_only=True),
    Claim(
        "critmom_adamw is faster than AdamW at the same learning rate",
        "critmom_adamw",
        ("adamw",),
        same_learning_rate=True,
    ),
    Claim("critmom_adamw, tuned, is faster than AdamW, tuned", "critmom_adamw_tuned", ("adamw_tuned",)),
)
"""The paper's claims (the first and the fourth), and the controls that they have to survive."""


@dataclass(frozen=True)
class Finding:
    """What one arm's times to one target say against one baseline's.

    Attributes:
        baseline: The baseline's name.
        steps: Ratio of the steps taken, on which the status rests.
        status: `SUPPORTED` if the whole interval is below 1, `CONTRADICTED` if it is above, else `UNDECIDED`.
    """

    baseline: str
    steps: PairedRatio
    status: str


@dataclass(frozen=True)
class Verdict:
    """What a comparison says about one claim.

    Attributes:
        claim: The claim.
        status: `SUPPORTED` or `CONTRADICTED` if every finding is (a claim to be first is contradicted by a single
            faster arm); `UNTESTED` if an arm that it needs was not run; else `UNDECIDED`.
        findings: What it rests on, one per target and baseline.
        seeds: Number of paired seeds, the least over the findings.
        reason: Why the claim was not tested or nothing could be found; empty otherwise.
        endings: Differences of the test metric from the claim's baselines, which the status does not rest on.
    """

    claim: Claim
    status: str
    findings: tuple[Finding, ...]
    seeds: int
    reason: str = ""
    endings: tuple[tuple[str, Interval], ...] = ()

    @property
    def headline(self) -> str:
        """The status in words."""
        if self.status != UNDECIDED:
            return self.status
        return f"undecided with {self.seeds} seed{'s' if self.seeds != 1 else ''}"


def verdicts(table: pd.DataFrame, metric: Metric, targets: Sequence[float]) -> list[Verdict]:
    """What a comparison says about every claim whose arm it has.

    No correction for several targets is needed, because a claim has to hold at every one of them, and is contradicted
    only where it fails at every one; where the targets disagree it is undecided. A claim to be first of several arms
    has intervals at Bonferroni's level.

    Args:
        table: The results table, of one budget.
        metric: The metric.
        targets: Values whose first reaching is timed.
    """
    found = []
    for claim in CLAIMS:
        if (table["arm"] == claim.arm).any():
            ends = tuple((name, paired_difference(table, claim.arm, name, metric)) for name in claim.baselines)
            found.append(replace(_verdict(claim, table, metric, targets), endings=ends))
    return found


def _verdict(claim: Claim, table: pd.DataFrame, metric: Metric, targets: Sequence[float]) -> Verdict:
    arms = list(dict.fromkeys(table["arm"]))
    if missing := [name for name in claim.baselines if name not in arms]:
        return Verdict(claim, UNTESTED, (), 0, f"it needs the arm {', '.join(missing)}")
    # A tuned variant may be the very arm, and is no rival of one that is not tuned.
    rivals = tuple(name for name in arms if name != claim.arm and not name.endswith(TUNED_SUFFIX))
    baselines = claim.baselines or rivals
    if not baselines:
        return Verdict(claim, UNTESTED, (), 0, "there is no other arm")
    if claim.same_learning_rate and not _same_learning_rate(table, claim.arm, baselines):
        return Verdict(claim, UNTESTED, (), 0, "the arms have different learning rates")
    ordered = sorted(targets, reverse=not metric.greater_is_better)
    judged = ordered[-1:] if claim.highest_only else ordered
    # One faster arm contradicts a claim to be first: among several, one would look faster by chance soon.
    confidence = CONFIDENCE if claim.baselines else 1.0 - (1.0 - CONFIDENCE) / len(baselines)
    findings = tuple(
        Finding(baseline, ratio, _status(ratio))
        for target in judged
        for baseline in baselines
        for ratio in [paired_ratio(table, claim.arm, baseline, metric, target, confidence=confidence)]
    )
    seeds = min(finding.steps.ratio.n for finding in findings)
    informative = [finding for finding in findings if finding.steps.both_censored < finding.steps.ratio.n]
    if not informative:
        compared = any(finding.steps.ratio.n for finding in findings)
        why = "none of the arms reached the target" if compared else "no seed of theirs is finished in common"
        return Verdict(claim, UNDECIDED, findings, seeds, why)
    statuses = {finding.status for finding in informative}
    if claim.highest_only and len(informative) < len(findings):
        statuses.add(UNDECIDED)
    if claim.highest_only and CONTRADICTED in statuses:
        return Verdict(claim, CONTRADICTED, findings, seeds)
    return Verdict(claim, statuses.pop() if len(statuses) == 1 else UNDECIDED, findings, seeds)


def _status(ratio: PairedRatio) -> str:
    if ratio.ratio.high < 1.0:
        return SUPPORTED
    return CONTRADICTED if ratio.ratio.low > 1.0 else UNDECIDED


def _same_learning_rate(table: pd.DataFrame, arm: str, baselines: Sequence[str]) -> bool:
    if "peak_learning_rate" not in table:  # results of 0.1: every arm had the one of the command
        return True
    return table[table["arm"].isin([arm, *baselines])]["peak_learning_rate"].nunique(dropna=False) == 1


def sentence(verdict: Verdict) -> str:
    """A verdict in a few sentences, with the figures that it rests on."""
    claim = _capital(verdict.claim.text)
    if verdict.reason:
        return f"{claim}: **{verdict.headline}** ({verdict.reason})."
    return " ".join([f"{claim}: **{verdict.headline}**.", *(_figures(finding) for finding in verdict.findings)])


def _figures(finding: Finding) -> str:
    steps, baseline, n = finding.steps, finding.baseline, finding.steps.ratio.n
    to = f"To {steps.target:.4g}"
    if n == 0:
        return f"It has no finished seed in common with `{baseline}`."
    if steps.both_censored == n:
        return f"{to} neither it nor `{baseline}` arrived."
    missed = [
        (steps.arm_censored, "it alone"),
        (steps.baseline_censored, f"`{baseline}` alone"),
        (steps.both_censored, "neither"),
    ]
    told = [
        f"{who} {'arrived' if who == 'neither' else 'did not arrive'} with {k} of {n} seeds" for k, who in missed if k
    ]
    if steps.bound == "unknown":
        return f"{to} it cannot be related to `{baseline}` ({', '.join([*told, finding.status])})."
    bound = "" if steps.bound == "exact" else f"{steps.bound} "
    seeds = f"{n} seed{'s' if n > 1 else ''}"
    details = ", ".join([interval_in_words(steps), seeds, *told, finding.status])
    return f"{to} it took {bound}{steps.ratio.estimate:.2f} times the steps of `{baseline}` ({details})."


def ending(verdict: Verdict, metric: Metric) -> str:
    """How the arm of a claim ended beside its baselines, in a sentence: faster to a target is not better at the end.

    Empty where the claim was not tested, is about all other arms, or no seed was tested in common.
    """
    if verdict.status == UNTESTED:
        return ""
    told = []
    for baseline, difference in verdict.endings:
        if difference.n:
            level = f"{100 * CONFIDENCE:.3g} % interval, " if difference.n > 1 else ""
            better = "" if metric.greater_is_better else ", less is better"
            told.append(
                f"Test {metric.title} minus that of `{baseline}`: {difference_in_words(difference)}, {level}"
                f"{difference.n} seed{'s' if difference.n > 1 else ''}{better}."
            )
    return " ".join(told)


def _capital(text: str) -> str:
    first, rest = text.split(" ", 1)
    return f"`{first.rstrip(',')}`{',' if first.endswith(',') else ''} {rest}"


def interval_in_words(found: PairedRatio) -> str:
    """The interval of a ratio, with its level."""
    low, high = found.ratio.low, found.ratio.high
    level = f"{100 * found.confidence:.3g} % interval"
    if low <= 0.0 and math.isinf(high):
        return "no interval"
    if math.isinf(high):
        return f"{level} from {_bound(low)}"
    return f"{level} {_bound(low)} to {_bound(high)}"


def _bound(value: float) -> str:
    """An end of an interval, which does not read 1 unless it is."""
    if value >= 1000.0:
        return f"{value:.0e}"
    return f"{value:.2f}" if abs(value - 1.0) >= 0.005 else f"{value:.4f}"


def difference_in_words(found: Interval) -> str:
    """A difference with its interval, if it has one."""
    if math.isnan(found.estimate):
        return "-"
    text = f"{found.estimate:+.4f}"
    return text if found.n < 2 else f"{text} ({found.low:+.4f} to {found.high:+.4f})"
