"""What would decide the open claims, more seeds or other targets, and the command for it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_critmom.experiments.comparison.findings.commands import command_for_pilot, command_for_seeds
from hf_critmom.experiments.comparison.plan import Plan, with_tuned
from hf_critmom.experiments.comparison.statistics.power import POWER
from hf_critmom.experiments.comparison.statistics.verdict import NOT_DECIDED, NOT_TESTED, Verdict
from hf_critmom.reporting.text import join_names


@dataclass(frozen=True)
class Outlook:
    """What would probably decide a comparison.

    Attributes:
        seeds: Number of open claims that would probably be decided, by total number of seeds in rising order; empty if
            no number of seeds would, because no target tells the arms apart.
        present: How many of the smallest of these numbers of seeds the arms have that the command gives more.
        undecided: Number of open claims.
        command: The command that brings the comparison to the smallest of these numbers of seeds, or the one that makes
            a comparison with other targets.
        unreached: The planned targets that no run of an open claim's arms reached, if no target tells these apart.
        at_once: Those that every run of them had reached at its first evaluation.
        partial: Whether there are arms or claims besides the open ones, so that other runs may have done otherwise.
        arms: Names of the arms that the command gives more seeds; empty if it is every arm.
    """

    seeds: Mapping[int, int]
    present: int
    undecided: int
    command: str
    unreached: Sequence[float] = field(default=())
    at_once: Sequence[float] = field(default=())
    partial: bool = False
    arms: Sequence[str] = field(default=())

    @property
    def sentence(self) -> str:
        """The outlook as a sentence that ends with a colon, to be followed by the command."""
        if not self.seeds:
            return self._targets
        likely = f"with a probability of about {POWER:.0%} at the present estimate and spread"
        least = next(iter(self.seeds))
        more = f"{least - self.present} more seed{'s' if least - self.present > 1 else ''}"
        if self.arms:
            more += f" of {join_names(self.arms)}"
        if self.undecided == 1:
            return f"{more} ({least} in all) would probably decide it, {likely}:"
        others = [f"{count} with {seeds} seeds" for seeds, count in self.seeds.items() if seeds > least]
        later = f" ({', '.join(others)})" if others else ""
        return (
            f"{more} ({least} in all) would probably decide {self.seeds[least]} of {self.undecided} open claims, "
            f"{likely}{later}:"
        )

    @property
    def _targets(self) -> str:
        run = "run that an open claim compares" if self.partial else "run"
        reasons = [f"no {run} reached {_values(self.unreached)}"] if self.unreached else []
        reasons += [f"every {run} had reached {_values(self.at_once)} at its first evaluation"] if self.at_once else []
        reason = " and ".join(reasons)
        return (
            f"{reason[:1].upper()}{reason[1:]}, so more seeds decide nothing. Other targets can, if they are fixed "
            "before the first run: this command makes a comparison of its own, whose targets a pilot run sets:"
        )


def outlook(plan: Plan, folder: Path, verdicts: Iterable[Verdict]) -> Outlook | None:
    """The numbers of seeds that would probably decide open claims, or what else would; None if nothing is known.

    Args:
        plan: The comparison's plan.
        folder: The comparison's folder.
        verdicts: The verdicts at all budgets.
    """
    tested = [verdict for verdict in verdicts if verdict.word != NOT_TESTED]
    undecided = [verdict for verdict in tested if verdict.word == NOT_DECIDED]
    needed = [
        (one.needed, one.compared)
        for one in undecided
        if one.needed is not None and one.needed > len(plan.first_seeds_of(one.compared))
    ]
    if not needed:
        return _other_targets(plan, folder, undecided, decided=len(tested) > len(undecided))
    numbers = sorted(seeds for seeds, _ in needed)
    decided = {seeds: sum(one <= seeds for one in numbers) for seeds in numbers}
    names = {name for seeds, compared in needed if seeds == numbers[0] for name in compared}
    arms = [arm for arm in plan.arms if not names.isdisjoint(with_tuned([arm]))]
    command = command_for_seeds(plan, folder, numbers[0], arms)
    named = arms if len(arms) < len(plan.arms) else ()
    lacking = plan.seeds_lacking(names)
    present = sum(seed not in lacking for seed in plan.seeds[: numbers[0]])
    return Outlook(decided, present, len(undecided), command, arms=named)


def _other_targets(plan: Plan, folder: Path, undecided: Sequence[Verdict], *, decided: bool) -> Outlook | None:
    """The outlook of a comparison none of whose targets tells the arms of its open claims apart."""
    shown = [one for verdict in undecided for one in verdict.headlines if one.ratio.n]
    if not shown or not all(math.isnan(one.ratio.estimate) for one in shown):
        return None
    if not any(one.ending.n for one in shown):  # without a pair that did not diverge, no target helps
        return None
    command = command_for_pilot(plan, folder)
    unreached, at_once = (
        {target for one in shown for target in getattr(one, name)} for name in ("unreached", "at_once")
    )
    unreached, at_once = unreached - at_once, at_once - unreached  # two claims may differ in what their runs reached
    if command is None or not (unreached or at_once):
        return None
    partial = decided or not {arm for one in shown for arm in (one.arm, one.baseline)}.issuperset(plan.arms)
    return Outlook({}, len(plan.seeds), len(undecided), command, sorted(unreached), sorted(at_once), partial)


def _values(targets: Sequence[float]) -> str:
    return join_names([f"{target:.4g}" for target in targets]).replace(" and ", " or ")
