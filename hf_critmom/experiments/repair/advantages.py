"""Whether the chosen groups did better than the controls: differences over paired seeds, judged together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_critmom.reporting.intervals import CONFIDENCE, Estimate, Interval, paired_estimate

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


@dataclass(frozen=True)
class Advantage:
    """How much better the chosen groups did than a control.

    Attributes:
        interval: Difference in net fixed items over the paired seeds, with the interval of this control alone.
        status: `BETTER` or `WORSE` for the chosen groups, or `UNDECIDED`, with all controls taken together.
        reason: What leaves it undecided, as a clause; empty if it is decided, or only the spread over the seeds does.
    """

    interval: Interval
    status: str
    reason: str = ""


def judge_advantages(differences: Mapping[str, Sequence[int]]) -> dict[str, Advantage]:
    """Judges the chosen groups against every control by t tests over the paired seeds, with Holm's correction.

    Every control is another chance to find a difference where there is none. So the p-values of all m controls are
    tested in rising order, the j-th at 0.05 / (m - j + 1), until the first one fails (Holm, Scand. J. Statist. 6 (1979)
    65). A difference that is the same for every seed decides nothing: counts of items coincide by chance too, and what
    two of them say of their spread is that it is 0.

    Args:
        differences: By control, the net of the chosen groups less that of the control for each seed.
    """
    estimates = {role: paired_estimate(np.array(of_role, float)) for role, of_role in differences.items()}
    p_values = {role: one.p_value() if one.standard_error > 0.0 else 1.0 for role, one in estimates.items()}
    decided = set()
    for place, role in enumerate(sorted(p_values, key=lambda role: p_values[role])):
        if p_values[role] > (1.0 - CONFIDENCE) / (len(p_values) - place):
            break
        decided.add(role)
    return {role: _advantage(one, role in decided, len(estimates)) for role, one in estimates.items()}


def _advantage(estimate: Estimate, decided: bool, controls: int) -> Advantage:
    interval = estimate.interval()
    if decided:
        return Advantage(interval, BETTER if estimate.value > 0.0 else WORSE)
    reason = ""
    if estimate.standard_error == 0.0:
        reason = "every seed gave the same difference, which says nothing of its spread"
    elif interval.low > 0.0 or interval.high < 0.0:
        reason = f"the correction for {controls} controls leaves it open"
    return Advantage(interval, UNDECIDED, reason)
