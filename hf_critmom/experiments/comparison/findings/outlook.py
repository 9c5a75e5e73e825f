"""How many more seeds would probably decide what is open, and the command that adds them."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hf_critmom.experiments.comparison.command_lines import with_flag, without_flag
from hf_critmom.experiments.comparison.plan import LookPlan, Plan
from hf_critmom.experiments.comparison.statistics.power import POWER
from hf_critmom.experiments.comparison.statistics.verdict import NOT_DECIDED, Verdict


@dataclass(frozen=True)
class Outlook:
    """What would probably decide a comparison.

    Attributes:
        seeds: Numbers of seeds in all, rising, with each the number of open claims that it would probably decide.
        present: Seeds that there are.
        undecided: Number of open claims.
        command: The command that brings the comparison to the first of these numbers.
    """

    seeds: Mapping[int, int]
    present: int
    undecided: int
    command: str

    @property
    def sentence(self) -> str:
        """The same in words, which the command follows."""
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


def outlook(plan: Plan, verdicts: Iterable[Verdict]) -> Outlook | None:
    """The numbers of seeds that would probably decide open claims, and the command; None where none is known.

    Args:
        plan: The comparison's plan.
        verdicts: What it says, at all budgets.
    """
    undecided = [verdict for verdict in verdicts if verdict.word == NOT_DECIDED]
    needed = sorted(
        verdict.needed for verdict in undecided if verdict.needed is not None and verdict.needed > len(plan.seeds)
    )
    if not needed:
        return None
    decided = {seeds: sum(one <= seeds for one in needed) for seeds in needed}
    return Outlook(decided, len(plan.seeds), len(undecided), command_for(plan, needed[0]))


def command_for(plan: Plan, seeds: int) -> str:
    """The command that brings a comparison to a number of seeds, or, for one that grows by itself, up to that number.

    Args:
        plan: The comparison's plan.
        seeds: The number of seeds.
    """
    try:
        argv = shlex.split(plan.command)
    except ValueError:  # an early plan keeps a command for people, who know what to do with it
        return f"{plan.command} --num_seeds {seeds}"
    if not _known_to_command(plan) >= plan.arms.keys():  # arms were added by commands that named only them
        argv = with_flag(without_flag(argv, "--arms_file"), "--arms", list(plan.arms))
    looks = plan.looks or LookPlan(len(plan.seeds), len(plan.seeds))
    if looks.first < looks.last or "--until_decided" in argv:
        argv = argv if "--until_decided" in argv else with_flag(argv, "--until_decided", [])
        return shlex.join(with_flag(argv, "--max_seeds", [str(seeds)]) if seeds > looks.last else argv)
    return shlex.join(with_flag(argv, "--num_seeds", [str(seeds)]))


def _known_to_command(plan: Plan) -> set[str]:
    """Arms that the plan's command named, or covered: it became the plan's because it left none out by then."""
    if not plan.history:
        return set(plan.arms)
    places = [place for place, one in enumerate(plan.history) if one.command == plan.command]
    return {arm for one in plan.history[: places[-1] + 1] for arm in one.arms} if places else set()
