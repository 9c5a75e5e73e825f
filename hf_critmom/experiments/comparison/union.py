"""The plan of several comparisons under the same conditions: arms, seeds, targets and claims of all of them."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hf_critmom.experiments.comparison.command_lines import joint_command
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.growth import complete_seeds, first_extension, joint_tuning, other_conditions
from hf_critmom.experiments.comparison.plan import Extension, LookPlan, Plan, Run, Tuning
from hf_critmom.experiments.comparison.records import RunResult


@dataclass(frozen=True)
class Part:
    """A comparison that is joined with others.

    Attributes:
        name: What it is called in messages.
        plan: Its plan.
        runs: Results of its finished runs, by run.
    """

    name: str
    plan: Plan
    runs: Mapping[Run, RunResult]

    @property
    def history(self) -> tuple[Extension, ...]:
        """How it grew; early plans did not record it."""
        return self.plan.history or (first_extension(self.plan, date=""),)

    @property
    def looks(self) -> LookPlan:
        """When its verdicts are looked at."""
        return self.plan.looks or LookPlan(len(self.plan.seeds), len(self.plan.seeds))

    def ended_before(self, other: "Part") -> bool:
        """Whether this comparison may have been finished, and its verdicts seen, when another one began.

        Not if that began within the time that the longest run of this one took.
        """
        began, other_began = _moment(self.history), _moment(other.history)
        if began is None or other_began is None:
            return True
        longest = max((result.wall_seconds for result in self.runs.values()), default=0.0)
        return bool(other_began > began + timedelta(seconds=longest))


def unite(parts: Sequence[Part]) -> Plan:
    """The plan of all parts together; the first part's own plan where the others add nothing to it.

    Arms stand in the order in which parts and their plans name them, seeds rise. Tuning grids that can grow have the
    points of all. A target is a planned one if every
    part planned it, else exploratory: before the results of some part nobody had named it. The baseline is that of the
    first part.

    Args:
        parts: The comparisons.

    Raises:
        ComparisonError: If two of them have other conditions, or different arms of the same name.
    """
    first = parts[0]
    arms, tuning = dict(first.plan.arms), first.plan.tuning
    for part in parts[1:]:
        joint = dataclasses.replace(first.plan, arms=arms, tuning=tuning)
        if different := other_conditions(joint, part.plan):
            raise ComparisonError(
                f"{first.name} and {part.name} hold comparisons under different conditions ({'; '.join(different)}; "
                f"{first.name} first): only comparisons of the same conditions can be merged; make the runs of one of "
                "them again under those of the other."
            )
        arms |= {name: arm for name, arm in part.plan.arms.items() if name not in arms}
        tuning = joint_tuning(joint, part.plan)
    plans = [part.plan for part in parts]
    seeds = tuple(sorted({seed for plan in plans for seed in plan.seeds}))
    planned = tuple(target for target in first.plan.targets if all(target in plan.targets for plan in plans))
    every_target = dict.fromkeys(target for plan in plans for target in (*plan.targets, *plan.exploratory_targets))
    exploratory = tuple(target for target in every_target if target not in planned)
    claims = tuple(dict.fromkeys(claim for plan in plans for claim in plan.claims))
    if not planned:
        raise ComparisonError(
            f"{' and '.join(part.name for part in parts)} have no planned target in common: make shares of one "
            "comparison with the same --targets."
        )
    same = (set(arms), set(seeds), planned, set(exploratory), set(claims), tuning) == (
        set(first.plan.arms),
        set(first.plan.seeds),
        first.plan.targets,
        set(first.plan.exploratory_targets),
        set(first.plan.claims),
        first.plan.tuning,
    )
    if same:
        return first.plan
    whole: dict[str, Any] = {
        "arms": arms,
        "seeds": seeds,
        "targets": planned,
        "exploratory_targets": exploratory,
        "baseline": first.plan.baseline_arm,
        "claims": claims,
        "looks": _looks(parts, len(seeds)),
        "history": _history(parts),
        "command": _command(plans, arms, seeds, tuning),
        "tuning": tuning,
    }
    try:
        return dataclasses.replace(first.plan, **whole)
    except ValueError as error:
        names = " and ".join(part.name for part in parts)
        raise ComparisonError(f"{names} cannot be merged ({error}): choose other seeds for one of them.") from None


def _looks(parts: Sequence[Part], seeds: int) -> LookPlan:
    """When the verdicts of all parts together are looked at.

    Shares of seeds that began before another one can have been finished were planned together, and have one look. A
    part that was finished before another one began can have been the reason to make that: its look counts.
    """
    made = {look for part in parts for look in part.looks.made}
    for part in parts:
        complete = complete_seeds(part.plan, part.runs)
        led_to_more = any(set(other.plan.seeds) - set(part.plan.seeds) and part.ended_before(other) for other in parts)
        if complete >= part.looks.first and led_to_more:
            made.add(complete)
    earliest = min(parts, key=lambda part: part.history[0].date)
    grows = any(part.looks.first < part.looks.last for part in parts)
    if not made and not grows:
        return LookPlan(seeds, seeds)
    return dataclasses.replace(earliest.looks, made=tuple(sorted(made)))


def _history(parts: Sequence[Part]) -> tuple[Extension, ...]:
    """What each command added to all that was there, in the order of time."""
    commands: dict[tuple[str, str], Extension] = {}
    earliest = min(parts, key=lambda part: part.history[0].date)
    for part in parts:
        finished = sum(len(other.runs) for other in parts if other is not part and other.ended_before(part))
        for one in part.history:
            tunes = one.tuning or (one == part.history[0] and part.plan.tuning not in (None, earliest.plan.tuning))
            added = dataclasses.replace(one, finished=one.finished + finished, tuning=tunes)
            commands.setdefault((one.date, one.command), added)
    history: list[Extension] = []
    for one in sorted(commands.values(), key=lambda one: one.date):
        new: dict[str, Any] = {
            name: tuple(value for value in getattr(one, name) if value not in known)
            for name, known in {
                kind: {value for before in history for value in getattr(before, kind)}
                for kind in ("arms", "seeds", "targets")
            }.items()
        }
        if any(new.values()) or one.tuning:
            history.append(dataclasses.replace(one, **new))
    return tuple(history)


def _command(plans: Sequence[Plan], arms: Collection[str], seeds: Collection[int], tuning: Tuning | None) -> str:
    """The command of a plan that has the whole extent; else those of all plans, one after another."""
    for plan in plans:
        if {*plan.arms} >= {*arms} and {*plan.seeds} >= {*seeds} and plan.tuning == tuning:
            return plan.command
    return joint_command(plan.command for plan in plans)


def _moment(history: Sequence[Extension]) -> datetime | None:
    try:
        return datetime.fromisoformat(history[0].date)
    except ValueError:
        return None
