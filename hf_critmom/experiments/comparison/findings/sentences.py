"""Verdicts in sentences: the headline of a claim, and its evidence."""

import math
from collections.abc import Callable, Sequence

from hf_critmom.experiments.comparison.statistics.ratios import PairedRatio
from hf_critmom.experiments.comparison.statistics.summaries import Metric
from hf_critmom.experiments.comparison.statistics.verdict import (
    FASTER,
    NO_DIFFERENCE,
    NOT_DECIDED,
    NOT_TESTED,
    SLOWER,
    Headline,
    Verdict,
)
from hf_critmom.reporting.intervals import Interval
from hf_critmom.reporting.text import counted, join_names

Name = Callable[[str], str]
_MAX_DIGITS = 6  # further digits are rounding errors


def headline_sentence(verdict: Verdict, outcome: str, *, name: Name = str) -> str:
    """The verdict on a claim with its ratio, and how the arm ended; without a full stop.

    For instance "critmom is slower than constant: 1.16 times the steps (1.07 to 1.26, 3 seeds), and ends 0.035 lower in
    test accuracy (0.032 to 0.037)".

    Args:
        verdict: The verdict.
        outcome: What runs are compared by at their end, see `Analysis.outcome`.
        name: Formats an arm's name, for instance in backquotes.
    """
    if verdict.word == NOT_TESTED:
        return f"{verdict.claim.text}: not tested ({verdict.reason})"
    return ": ".join(filter(None, headline_parts(verdict, outcome, name=name)))


def headline_parts(verdict: Verdict, outcome: str, *, name: Name = str) -> tuple[str, str]:
    """The statement of a headline, such as "critmom is slower than constant", and the numbers behind it.

    Args:
        verdict: The verdict.
        outcome: See `headline_sentence`.
        name: Formats an arm's name.
    """
    if verdict.word == NOT_TESTED:
        return f"{verdict.claim.text}: not tested", verdict.reason
    if verdict.claim.first and len(verdict.headlines) > 1:
        return _first(verdict, name)
    (one,) = verdict.headlines
    arm, baseline = name(verdict.claim.arm), name(one.baseline)
    statement = {
        FASTER: f"{arm} is faster than {baseline}",
        SLOWER: f"{arm} is slower than {baseline}",
        NO_DIFFERENCE: f"{arm} and {baseline} show no difference beyond ±{100.0 * verdict.margin:g} %",
        NOT_DECIDED: f"{arm} against {baseline} is not decided yet",
    }[verdict.word]
    to = f" to {one.targets[-1]:.4g}" if verdict.claim.highest_only and one.targets else ""
    ends = ending(one.ending, outcome)
    if ends and one.ending.n < one.ratio.n:
        ends += f" in the {counted(one.ending.n, 'seed')} without a diverged run"
    if ends and verdict.word in (NO_DIFFERENCE, NOT_DECIDED):  # the subject of these statements is not the arm alone
        ends = f"{arm} {ends}"
    return statement, f"{_ratio(one, to)}{f', and {ends}' if ends else ''}{_outlook(verdict)}"


def ending(difference: Interval, outcome: str) -> str:
    """How the arm ended, such as "ends 0.035 lower in test accuracy"; empty if the two share no finished seed."""
    if not difference.n or math.isnan(difference.estimate):
        return ""
    return f"ends {_signed(difference, 'higher', 'lower', f' in {outcome}')}"


def explanations(verdict: Verdict, metric: Metric, *, name: Name = str) -> list[str]:
    """The evidence for a headline, in whole sentences.

    Args:
        verdict: The verdict.
        metric: The metric.
        name: Formats an arm's name.
    """
    found = []
    if verdict.decided_at is not None and verdict.decided_at != verdict.seeds:
        found.append(f"Decided at the interim analysis with {counted(verdict.decided_at, 'seed')}.")
    if verdict.reason and verdict.word != NOT_TESTED:
        found.append(f"{verdict.reason[0].upper()}{verdict.reason[1:]}.")
    for one in verdict.headlines:
        if len(verdict.headlines) > 1:
            found.append(f"Against {name(one.baseline)}: {_ratio(one)}.")
        found += restrictions(one, name=name)
    if len(verdict.headlines) == 1 and verdict.headlines[0].ratio.n:
        (one,) = verdict.headlines
        found.append(targets_sentence(one))
        if one.everywhere and len(one.targets) > 1:
            faster = "faster" if one.everywhere < 0 else "slower"
            found.append(
                f"It is {faster} at every target{' that tells the two apart' if one.unreached or one.at_once else ''}."
            )
        if crossing := describe_crossing(one):
            found.append(
                f"It is {crossing}: the mean over the targets hides that, so choose by the target that counts."
            )
        if verdict.word in (FASTER, SLOWER) and verdict.allows(one.ratio):
            found.append(f"The difference is smaller than {100.0 * verdict.margin:g} %.")
        if one.area.n:
            found.append(
                f"On average over the training, {name(one.arm)} is {_signed(one.area, 'higher', 'lower')} in "
                f"validation {metric.title}."
            )
    return found


def restrictions(one: Headline, *, name: Name = str) -> list[str]:
    """Restrictions of a headline, in whole sentences: missed targets, diverged runs, targets left out, unpaired seeds.

    Args:
        one: The headline.
        name: Formats an arm's name.
    """
    found = []
    missed = [
        (one.arm_missed + one.both_missed, name(one.arm)),
        (one.baseline_missed + one.both_missed, name(one.baseline)),
    ]
    misses = [f"{who} missed {count}" for count, who in missed if count]
    if misses:
        cases = f"{counted(len(one.targets), 'target')} with {counted(one.ratio.n, 'seed')}"
        found.append(
            f"Of {one.arrivals} cases ({cases}), {' and '.join(misses)}: these count as reached at the end of the "
            "budget, which understates a difference."
        )
    if one.paired and one.ending.n < one.ratio.n:
        lost = f"{one.ratio.n - one.ending.n} of {counted(one.ratio.n, 'seed')}"
        found.append(f"In {lost} a run of the two diverged: these have no value at the end.")
    for targets, why in (
        (one.unreached, "no run of either arm reached"),
        (one.at_once, "every run had reached by its first evaluation"),
    ):
        if targets and one.ratio.n:
            found.append(f"Left out: {join_names([f'{target:.4g}' for target in targets])}, which {why}.")
    if not one.paired and one.ratio.n:
        found.append("The seeds of the two are not paired, so their means are compared (Welch's t interval).")
    return found


def describe_crossing(one: Headline) -> str:
    """The targets to which an arm is faster and slower, if both are decided at some, else empty.

    For instance "faster to 0.8, slower to 0.88 and 0.9", which a mean over the targets hides.

    Args:
        one: The headline.
    """
    decided = [at for at in one.at if at.decided and not at.exploratory]
    sides = {
        word: [f"{at.target:.4g}" for at in decided if (at.ratio.estimate < 1.0) == (word == "faster")]
        for word in ("faster", "slower")
    }
    return (
        ", ".join(f"{word} to {join_names(targets)}" for word, targets in sides.items()) if all(sides.values()) else ""
    )


def targets_sentence(one: Headline) -> str:
    """The ratio at each target, in a sentence: interval with Holm's correction, bounds, and whether it is decided."""
    parts = []
    for at in one.at:
        if at.bound == "unknown":
            parts.append(f"{at.target:.4g}: {'reached by neither' if at.both_censored == at.ratio.n else 'open'}")
            continue
        bound = "" if at.bound == "exact" else f"{at.bound} "
        estimate, ends = _rounded(at.ratio)
        notes = [ends] if ends else []
        if at.bound == "exact" and at.outer[0] > 0.0 and math.isfinite(at.outer[1]):
            notes.append(f"between evaluations {at.outer[0]:.2f} to {at.outer[1]:.2f}")
        if at.decided or at.exploratory:
            notes.append("exploratory" if at.exploratory else "decided")
        details = f" ({'; '.join(notes)})" if notes else ""
        parts.append(f"{at.target:.4g}: {bound}{estimate}{details}")
    return f"Ratio of the steps to each target, with Holm's correction: {', '.join(parts)}."


def format_paired_ratio(found: PairedRatio, *, between: str = " ") -> str:
    """The ratio at one target with its interval, such as "at least 1.20 (from 1.05)".

    Args:
        found: The ratio.
        between: Separator of ratio and interval, for instance a line break.
    """
    if found.bound == "unknown":
        if not found.ratio.n:
            return "no seed in common"
        return "reached by neither" if found.both_censored == found.ratio.n else "open"
    bound = "" if found.bound == "exact" else f"{found.bound} "
    return f"{bound}{format_ratio(found.ratio, between=between)}"


def format_ratio(ratio: Interval, *, between: str = " ") -> str:
    """A ratio with its interval, such as "0.83 (0.51 to 1.36)", or "0.83 (up to 1.36)" if the interval is open."""
    if math.isnan(ratio.estimate):
        return "-"
    estimate, ends = _rounded(ratio)
    return f"{estimate}{f'{between}({ends})' if ends else ''}"


def format_ratio_interval(found: PairedRatio) -> str:
    """The interval of a ratio with its level, such as "95 % interval 0.51 to 1.36"."""
    _, ends = _rounded(found.ratio)
    return f"{format_level(found.confidence)} interval {ends}" if ends else "no interval"


def format_level(confidence: float) -> str:
    """A confidence level in percent, such as "97.5 %", with as many digits as its distance from 100 % needs."""
    digits = max(1, math.ceil(-math.log10(100.0 * (1.0 - confidence)))) if confidence < 1.0 else 0
    return f"{100.0 * confidence:.{digits}f}".rstrip("0").rstrip(".") + " %"


def _rounded(ratio: Interval) -> tuple[str, str]:
    """A ratio and the ends of its interval, which are empty if both are open, with the same number of decimals.

    It is two, or as many as are needed for an interval that excludes 1 to exclude it after rounding, too: an upper end
    of 0.9984 must not read 1.00.
    """
    digits = 2
    while digits < _MAX_DIGITS and (
        (ratio.low > 1.0 and round(ratio.low, digits) <= 1.0) or (ratio.high < 1.0 and round(ratio.high, digits) >= 1.0)
    ):
        digits += 1
    estimate, low, high = (
        f"{value:.0e}" if value >= 1000.0 else f"{value:.{digits}f}"
        for value in (ratio.estimate, ratio.low, ratio.high)
    )
    bounded_below, bounded_above = ratio.low > 0.0, math.isfinite(ratio.high)
    if bounded_below and bounded_above:
        return estimate, f"{low} to {high}"
    return estimate, f"from {low}" if bounded_below else f"up to {high}" if bounded_above else ""


def format_difference(found: Interval, between: str = " ") -> str:
    """A difference with its interval, if it has one, such as "+0.0120 (+0.0041 to +0.0199)"."""
    if math.isnan(found.estimate):
        return "-"
    text = f"{found.estimate:+.4f}"
    return text if found.n < 2 else f"{text}{between}({found.low:+.4f} to {found.high:+.4f})"


def decisive_headline(verdict: Verdict) -> Headline:
    """The headline whose numbers stand for a verdict: the only one or, for a claim to be first, the closest rival's.

    With "no difference" that is the rival whose interval is the narrowest around 1, otherwise the one with the largest
    ratio: the closest slower arm or, if there are faster ones, the fastest.
    """
    known = [one for one in verdict.headlines if not math.isnan(one.ratio.estimate)]
    if verdict.word == NO_DIFFERENCE:
        return min(known, key=lambda one: max(one.ratio.high, 1.0 / one.ratio.low if one.ratio.low else math.inf))
    return max(known, key=lambda one: one.ratio.estimate, default=verdict.headlines[0])


def _first(verdict: Verdict, name: Name) -> tuple[str, str]:
    """Statement and numbers of a headline for a claim to be faster than several others."""
    arm, others = name(verdict.claim.arm), verdict.headlines
    known = [one for one in others if not math.isnan(one.ratio.estimate)]
    to = f" to reach {known[0].targets[-1]:.4g}" if verdict.claim.highest_only and known else ""
    closest = decisive_headline(verdict)
    if verdict.word == NO_DIFFERENCE:
        within = [one for one in known if one is closest or verdict.allows(one.ratio)]
        beyond = f"±{100.0 * verdict.margin:g} % from {join_names([name(one.baseline) for one in within])}"
        numbers = _ratio(closest, of=name(closest.baseline) if len(within) > 1 else "")
        return f"{arm} is not the first{to}, and shows no difference beyond {beyond}", numbers
    if not known:
        return f"Whether {arm} is the first{to} is not decided yet", ""
    against = _ratio(closest, of=name(closest.baseline))
    if verdict.word == FASTER:
        return f"{arm} is the first{to}", f"{against}, the next"
    if verdict.word == SLOWER:
        return f"{arm} is not the first{to}", against
    undecided = f"Whether {arm} is the first{to} is not decided yet"
    return undecided, f"{against}{_outlook(verdict)}"


def _ratio(one: Headline, to: str = "", *, of: str = "") -> str:
    n, found = one.ratio.n, one.ratio
    if not n:
        return "no seed in common"
    if math.isnan(found.estimate):
        return f"no target tells them apart with {counted(n, 'seed')}"
    estimate, ends = _rounded(found)
    steps = f"{estimate} times the steps{f' of {of}' if of else ''}{to}"
    known = [] if n == 1 or math.isinf(found.high) else [ends]
    crossing = describe_crossing(one)
    return f"{steps} ({', '.join([*known, counted(n, 'seed')])}{f'; {crossing}' if crossing else ''})"


def _outlook(verdict: Verdict) -> str:
    if verdict.word != NOT_DECIDED or verdict.needed is None:
        return ""
    return f"; about {counted(verdict.needed, 'seed')} would probably decide"


def _signed(found: Interval, above: str, below: str, of: str = "") -> str:
    """A difference by its size and direction, such as "0.035 lower (0.032 to 0.037)"; `of` stands after "lower"."""
    side, other = (above, below) if found.estimate >= 0.0 else (below, above)
    known = found.n > 1 and math.isfinite(found.low) and math.isfinite(found.high)
    if found.estimate == 0.0 and (not known or found.low == found.high):
        return f"equal{of}"
    shown = [abs(found.estimate), *((abs(found.low), abs(found.high)) if known else ())]
    # Half the interval's width gets one or two significant digits, a difference without an interval two.
    size = (found.high - found.low) / 2.0 if known else abs(found.estimate) / 5.0
    digits = min(max(math.ceil(0.3 - math.log10(size)), 0), _MAX_DIGITS) if size > 0.0 else 4
    while any(0.5 * 10.0**-_MAX_DIGITS <= value < 0.5 * 10.0**-digits for value in shown):
        digits += 1
    estimate = (f"{shown[0]:.{digits}f} {side}" if round(shown[0], digits) else "equal") + of
    if not known or not any(round(value, digits) for value in shown):
        return estimate
    if found.low < 0.0 < found.high:
        ends = (found.low, found.high) if found.estimate >= 0.0 else (found.high, found.low)
        return f"{estimate} ({abs(ends[0]):.{digits}f} {other} to {abs(ends[1]):.{digits}f} {side})"
    low, high = sorted((abs(found.low), abs(found.high)))
    return f"{estimate} ({low:.{digits}f} to {high:.{digits}f})"


def join_seeds(seeds: Sequence[int]) -> str:
    """Seeds in a sentence; more than two consecutive ones by the first and the last."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return join_names([str(seed) for seed in seeds])
