"""The plan of a merged comparison: arms, seeds, targets and claims of all of its parts."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hf_critmom.experiments.comparison.command_lines import joint_command
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.growth import (
    first_extension,
    merged_tuning,
    other_conditions,
    untried_in,
)
from hf_critmom.experiments.comparison.plan import Extension, LookPlan, Plan, Run, Tuning, left_out_by_name, with_tuned
from hf_critmom.experiments.comparison.records import RunResult
from hf_critmom.experiments.comparison.statistics.claims import parse_claim


@dataclass(frozen=True)
class Part:
    """A comparison that is merged with others.

    Attributes:
        name: Name of the comparison in messages.
        plan: The plan.
        runs: Results of the finished runs and trials, by run.
    """

    name: str
    plan: Plan
    runs: Mapping[Run, RunResult]

    @property
    def history(self) -> tuple[Extension, ...]:
        """The history of the plan; in early plans, which did not record it, only the first entry."""
        return self.plan.history or (first_extension(self.plan, date=""),)

    @property
    def num_finished(self) -> int:
        """Number of compared runs that are finished, without those of tuned variants."""
        return sum(run in self.runs for run in self.plan.runs())

    @property
    def looks(self) -> LookPlan:
        """The planned looks at its verdicts."""
        return self.plan.planned_looks

    def ended_before(self, other: "Part") -> bool:
        """Whether this comparison may have been finished, and its verdicts seen, when another one was started.

        It cannot have been if the other one was started within the time that the longest run of this one took.
        """
        start, other_start = _start(self.history), _start(other.history)
        if start is None or other_start is None:
            return True
        longest = max((result.wall_seconds for result in self.runs.values()), default=0.0)
        return bool(other_start > start + timedelta(seconds=longest))


def merge_plans(parts: Sequence[Part]) -> Plan:
    """The plan of all parts together; the first part's own plan if the others add nothing to it.

    Arms keep the order of the parts and of their plans. Seeds are sorted; where a look counts, they have the order in
    which they were planned, because it is at the first ones. Tuning grids that can grow are joined. A target is planned
    if every part planned it; any other target is exploratory, because it was not named before the results of some part.
    The baseline is that of the first part.

    Args:
        parts: The comparisons.

    Raises:
        ComparisonError: If they have different conditions, different arms of the same name, no planned target in
            common, or a trial's seed that is another part's seed.
    """
    first = parts[0]
    arms, tuning = dict(first.plan.arms), first.plan.tuning
    for part in parts[1:]:
        joint = dataclasses.replace(first.plan, arms=arms, tuning=tuning)
        if different := other_conditions(joint, part.plan):
            raise ComparisonError(
                f"{first.name} and {part.name} hold comparisons with different conditions ({'; '.join(different)}; "
                f"{first.name} first): only comparisons with the same conditions can be merged; repeat one of them "
                "with those of the other."
            )
        arms |= {name: arm for name, arm in part.plan.arms.items() if name not in arms}
        tuning = merged_tuning(joint, part.plan)
    plans = [part.plan for part in parts]
    looks = _looks(parts)
    seeds = _seeds(parts)
    if looks.first >= len(seeds):
        seeds = tuple(sorted(seeds))
    left_out = _left_out(parts, seeds)
    planned = tuple(target for target in first.plan.targets if all(target in plan.targets for plan in plans))
    every_target = dict.fromkeys(target for plan in plans for target in (*plan.targets, *plan.exploratory_targets))
    exploratory = tuple(target for target in every_target if target not in planned)
    claims = tuple(dict.fromkeys(claim for plan in plans for claim in plan.claims))
    if not planned:
        raise ComparisonError(
            f"{' and '.join(part.name for part in parts)} have no planned target in common: give all shares of a "
            "comparison the same --targets."
        )
    same = (set(arms), set(seeds), planned, set(exploratory), set(claims), tuning, _as_sets(left_out)) == (
        set(first.plan.arms),
        set(first.plan.seeds),
        first.plan.targets,
        set(first.plan.exploratory_targets),
        set(first.plan.claims),
        first.plan.tuning,
        _as_sets(first.plan.left_out),
    )
    if same:
        return first.plan
    merged: dict[str, Any] = {
        "arms": arms,
        "seeds": seeds,
        "targets": planned,
        "exploratory_targets": exploratory,
        "baseline": first.plan.baseline_arm,
        "claims": claims,
        "later_claims": _later_claims(parts, claims),
        "looks": looks,
        "left_out": left_out,
        "history": _history(parts),
        "command": _command(plans, arms, seeds, tuning),
        "tuning": tuning,
    }
    try:
        return dataclasses.replace(first.plan, **merged)
    except ValueError as error:
        names = " and ".join(part.name for part in parts)
        raise ComparisonError(f"{names} cannot be merged ({error}): choose other seeds for one of them.") from None


def _seeds(parts: Sequence[Part]) -> tuple[int, ...]:
    """The seeds of all parts in the order in which they were planned: a look is at the first ones of them."""
    in_time = sorted(parts, key=lambda part: part.history[0].date)
    return tuple(dict.fromkeys(seed for part in in_time for seed in part.plan.seeds))


def _looks(parts: Sequence[Part]) -> LookPlan:
    """The planned looks at the verdicts of all parts together.

    Shares that were started before any of them can have been finished were planned together, and have one look. If some
    parts may have been finished before another was started, the verdicts on them together may have been the reason for
    that one, and the looks stay those of the earliest part; so they do if a part grew after its first look, or by the
    rule of its plan.
    """

    def had_verdicts_before(part: Part) -> bool:
        earlier = [other for other in parts if other.ended_before(part)]
        if not {*part.plan.seeds} - {seed for other in earlier for seed in other.plan.seeds}:
            return False
        seeds: dict[str, set[int]] = {}
        for run in (run for other in earlier for run in other.runs if not run.trial):
            seeds.setdefault(run.arm, set()).add(run.seed)
        first = min((other.looks.first for other in earlier), default=1)
        return max(map(len, seeds.values()), default=0) >= max(first, 2)

    grew = any(part.looks.first < max(part.looks.last, len(part.plan.seeds)) for part in parts)
    if grew or any(map(had_verdicts_before, parts)):
        return _earliest(parts).looks
    seeds = len(_seeds(parts))
    return LookPlan(seeds, seeds)


def _left_out(parts: Sequence[Part], seeds: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The seeds with which an arm or tuned variant is not run: those that parts added to others only."""
    left_out = {}
    for arm in dict.fromkeys(arm for part in parts for arm in part.plan.arms):
        plans = [part.plan for part in parts if arm in part.plan.arms]
        for name in with_tuned([arm]):
            without = {seed for plan in plans for seed in plan.seeds_left_out(name)}
            without.difference_update(*(plan.seeds_of([name]) for plan in plans))
            left_out[name] = tuple(seed for seed in seeds if seed in without)
    return left_out_by_name(left_out)


def _as_sets(left_out: Mapping[str, Sequence[int]]) -> dict[str, set[int]]:
    """Seeds by arm, whatever their order."""
    return {arm: {*seeds} for arm, seeds in left_out.items()}


def _earliest(parts: Sequence[Part]) -> Part:
    return min(parts, key=lambda part: part.history[0].date)


def _later_claims(parts: Sequence[Part], claims: Sequence[str]) -> tuple[str, ...]:
    """The claims that no part had before results of their arms, its own or another part's, could be seen."""

    def seen(part: Part, text: str) -> bool:
        claim = parse_claim(text, list(part.plan.arms))
        arms = {claim.arm, *claim.baselines}
        return text in part.plan.later_claims or any(
            arms <= {run.arm for run in other.runs} and other.ended_before(part) for other in parts if other is not part
        )

    return tuple(text for text in claims if all(seen(part, text) for part in parts if text in part.plan.claims))


def _history(parts: Sequence[Part]) -> tuple[Extension, ...]:
    """What each command added to those before it, in the order of time."""
    commands: dict[tuple[str, str], Extension] = {}
    earliest = _earliest(parts)
    for part in parts:
        finished = sum(other.num_finished for other in parts if other is not part and other.ended_before(part))
        for one in part.history:
            added = dataclasses.replace(one, finished=one.finished + finished)
            if one == part.history[0] and part is not earliest:
                added = _with_trials(added, part, earliest.plan.tuning)
            commands.setdefault((one.date, one.command), added)
    history: list[Extension] = []
    trial_seeds = {*_first_trial_seeds(earliest)}
    for one in sorted(commands.values(), key=lambda one: one.date):
        new: dict[str, Any] = {
            name: tuple(value for value in getattr(one, name) if value not in known)
            for name, known in {
                kind: {value for before in history for value in getattr(before, kind)}
                for kind in ("arms", "seeds", "targets")
            }.items()
        }
        if one.seeds_for:  # other arms may have had them before
            new["seeds"] = one.seeds
        new["trial_seeds"] = tuple(seed for seed in one.trial_seeds if seed not in trial_seeds)
        if one.trial_seeds and not (one.tuning or new["trial_seeds"]):  # another part's command added them before
            new["tried"] = tuple(arm for arm in one.tried if arm in untried_in(history))
        if any(new.values()) or one.tuning or new.get("tried", one.tried):
            history.append(dataclasses.replace(one, **new))
            trial_seeds.update(one.trial_seeds)
    return tuple(history)


def _with_trials(first: Extension, part: Part, before: Tuning | None) -> Extension:
    """The first entry of a part's history with what its trials add to a tuning grid."""
    own = part.plan.tuning
    if own is None:
        return first
    grew = any(one.tuning for one in part.history[1:])  # which then says what was added
    points = not grew and (before is None or before.joined_with(own).factors != before.factors)
    further = tuple(seed for seed in _first_trial_seeds(part) if before is None or seed not in before.seeds)
    tried = first.arms if points or further else first.tried
    return dataclasses.replace(first, tuning=points, trial_seeds=further, tried=tried)


def _first_trial_seeds(part: Part) -> tuple[int, ...]:
    """The seeds of a part's trials that its first command gave, but for the first one, which all trials have."""
    later = {seed for one in part.history[1:] for seed in one.trial_seeds}
    return tuple(seed for seed in part.plan.trial_seeds[1:] if seed not in later)


def _command(plans: Sequence[Plan], arms: Collection[str], seeds: Collection[int], tuning: Tuning | None) -> str:
    """The command of a plan that has the whole extent; if there is none, those of all plans, one after another."""
    for plan in plans:
        if {*plan.arms} >= {*arms} and {*plan.seeds} >= {*seeds} and plan.tuning == tuning and not plan.left_out:
            return plan.command
    return joint_command(plan.command for plan in plans)


def _start(history: Sequence[Extension]) -> datetime | None:
    """Time of the first command; None if it is not known."""
    try:
        return datetime.fromisoformat(history[0].date)
    except ValueError:
        return None
