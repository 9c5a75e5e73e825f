"""How many more seeds would probably decide the open claims, and the command that adds them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_critmom.experiments.comparison.findings.commands import command_for_seeds
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.comparison.statistics.power import POWER
from hf_critmom.experiments.comparison.statistics.verdict import NOT_DECIDED, Verdict


@dataclass(frozen=True)
class Outlook:
    """How many seeds would probably decide a comparison.

    Attributes:
        seeds: Number of open claims that would probably be decided, by total number of seeds in rising order.
        present: Present number of seeds.
        undecided: Number of open claims.
        command: The command that brings the comparison to the smallest of these numbers of seeds.
    """

    seeds: Mapping[int, int]
    present: int
    undecided: int
    command: str

    @property
    def sentence(self) -> str:
        """The outlook as a sentence that ends with a colon, to be followed by the command."""
        likely = f"with a probability of {POWER:.0%} or more at the present estimate and spread"
        least = next(iter(self.seeds))
        more = f"{least - self.present} more seed{'s' if least - self.present > 1 else ''}"
        if self.undecided == 1:
            return f"{more} ({least} in all) would probably decide it, {likely}:"
        others = [f"{count} with {seeds} seeds" for seeds, count in self.seeds.items() if seeds > least]
        later = f" ({', '.join(others)})" if others else ""
        return (
            f"{more} ({least} in all) would probably decide {self.seeds[least]} of {self.undecided} open claims, "
            f"{likely}{later}:"
        )


def outlook(plan: Plan, folder: Path, verdicts: Iterable[Verdict]) -> Outlook | None:
    """The numbers of seeds that would probably decide open claims; None if no number is known.

    Args:
        plan: The comparison's plan.
        folder: The comparison's folder.
        verdicts: The verdicts at all budgets.
    """
    undecided = [verdict for verdict in verdicts if verdict.word == NOT_DECIDED]
    needed = sorted(
        verdict.needed for verdict in undecided if verdict.needed is not None and verdict.needed > len(plan.seeds)
    )
    if not needed:
        return None
    decided = {seeds: sum(one <= seeds for one in needed) for seeds in needed}
    return Outlook(decided, len(plan.seeds), len(undecided), command_for_seeds(plan, folder, needed[0]))
