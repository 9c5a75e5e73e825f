"""How a comparison grows: a command with the stored conditions adds arms, seeds, targets or tuning to the plan."""

import dataclasses
import itertools
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_critmom.experiments.comparison.arguments import GRID_FLAGS
from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX
from hf_critmom.experiments.comparison.command_lines import (
    JOINT,
    completed,
    flag_values,
    is_completed,
    omitted_flags,
)
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.plan import (
    PLAN_FILE_FORMAT,
    Extension,
    LookPlan,
    Plan,
    Run,
    Tuning,
    left_out_by_name,
    with_tuned,
)
from hf_critmom.experiments.comparison.results import Results, read_results
from hf_critmom.experiments.comparison.statistics.claims import parse_claim
from hf_critmom.storage.run_folder import RESULT_FILE


def has_started(folder: Path) -> bool:
    """Whether a run of the folder's comparison has written a result or a checkpoint."""
    runs = folder / "runs"
    return any(runs.rglob(RESULT_FILE)) or any(runs.rglob("checkpoint-*"))


def load_or_create_plan(requested: Plan, folder: Path, *, write: bool, alone: bool = False) -> Plan:
    """The plan of a folder: the stored one with what the request adds to it, or the requested one.

    Args:
        requested: The requested plan; its extent may be smaller than the stored one's.
        folder: The comparison's folder.
        write: Whether this process writes the plan.
        alone: Whether no other launch works in the folder; then a plan whose runs have not started is replaced.

    Raises:
        ComparisonError: If the folder holds a comparison with other conditions, or other files, or cannot be written.
    """

    def reconcile(content: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
        stored = Plan.parse(folder, content)
        if alone and not has_started(folder):
            return content if _same_request(stored, requested) else initial_plan(requested).as_json()
        extended = extend(stored, requested, folder)
        return content if extended == stored else extended.as_json()

    if PLAN_FILE_FORMAT.exists(folder):  # a refusal leaves no trace, not even a lock
        reconcile(PLAN_FILE_FORMAT.read(folder), {})
    content = PLAN_FILE_FORMAT.load_or_create(folder, initial_plan(requested).as_json(), reconcile, write=write)
    return Plan.parse(folder, content)


def extend(stored: Plan, requested: Plan, folder: Path) -> Plan:
    """The stored plan with what a request adds to it; the stored plan itself if the request adds nothing.

    Args:
        stored: The stored plan.
        requested: The requested plan.
        folder: The comparison's folder.

    Raises:
        ComparisonError: If the conditions, or arms of the same name, differ, or a seed is one of the trials'.
    """
    tuning = merged_tuning(stored, requested)
    tunes = tuning != stored.tuning
    if different := other_conditions(stored, requested):
        raise ComparisonError(
            f"{folder} holds a comparison with a different plan ({'; '.join(different)}; stored first): more arms, "
            "seeds, targets and points of the tuning grid can be added to it, but its conditions cannot change; repeat "
            "those of its command, or choose another --output_dir."
        )
    arms = {name: arm for name, arm in requested.arms.items() if name not in stored.arms}
    seeds = tuple(seed for seed in requested.seeds if seed not in stored.seeds)
    known = (*stored.targets, *stored.exploratory_targets)
    targets = tuple(target for target in requested.targets if target not in known)
    claims = tuple(claim for claim in requested.claims if claim not in stored.claims)
    tried = tuple(requested.arms) if tunes else tuple(untried_arms(stored).intersection(requested.arms))
    left_out = _left_out(stored, requested, seeds)
    trial_seeds = _added_trial_seeds(stored.tuning, tuning)
    looks = _looks(stored, requested, seeds, folder)
    same_arguments = requested.arguments == stored.arguments or not requested.arguments
    adds = bool(arms or seeds or left_out != stored.left_out or targets or claims or tried)
    if not adds and looks == stored.looks and same_arguments:
        return stored
    results = read_results(folder, stored)
    finished = sum(run in results.runs for run in stored.runs())
    exploratory = bool(finished or results.trials)
    extent: dict[str, Any] = {
        "arms": {**stored.arms, **arms},
        "seeds": (*stored.seeds, *seeds),
        "left_out": left_out,
        "targets": stored.targets if exploratory else _ordered(stored, (*stored.targets, *targets)),
        "exploratory_targets": (*stored.exploratory_targets, *(targets if exploratory else ())),
        "claims": (*stored.claims, *claims),
        "later_claims": (*stored.later_claims, *_later_claims(claims, (*stored.arms, *arms), results)),
        "looks": looks,
        "arguments": requested.arguments or stored.arguments,
        "tuning": tuning,
    }
    try:
        grown = dataclasses.replace(stored, **extent)
    except ValueError as error:  # another launch may have taken a seed since the request was planned
        raise ComparisonError(f"{folder} cannot grow by this ({error}): choose other seeds.") from None
    if adds:
        history = stored.history or (first_extension(stored, date=""),)
        points = tuning is not None and (stored.tuning is None or stored.tuning.factors != tuning.factors)
        gained = _gained_seeds(stored, grown)
        added = Extension(
            _now(),
            requested.command,
            tuple(arms),
            tuple(seed for seed in grown.seeds if any(seed in own for own in gained.values())),
            targets,
            finished,
            points,
            tried,
            trial_seeds,
            () if len({*gained.values()}) == 1 else _gaining(gained),
        )
        last = history[-1]
        more_than_seeds = arms or targets or tried or last.arms or last.targets or last.tried or last.adds_trials
        more_than_seeds = more_than_seeds or last.seeds_for != added.seeds_for
        if len(history) > 1 and last.command == added.command and not more_than_seeds:  # another round of one command
            history, added = history[:-1], dataclasses.replace(last, seeds=(*last.seeds, *added.seeds))
        grown = dataclasses.replace(grown, history=(*history, added))
    if not _covers(requested, grown) or not _names(requested, stored):
        return grown
    command = completed(requested.command, stored.command, seeds=len(grown.seeds))
    return dataclasses.replace(grown, command=command)


def covered_steps(plan: Plan) -> int:
    """Number of entries of a plan's history that its command covers; 0 if it is not known.

    Args:
        plan: The plan.
    """
    parts = plan.command.split(JOINT)
    places = [place for place, one in enumerate(plan.history) if any(is_completed(part, one.command) for part in parts)]
    return places[-1] + 1 if places else 0


def untried_arms(plan: Plan) -> set[str]:
    """The arms for which no command has asked for the trials of the present tuning grid.

    Args:
        plan: The plan.
    """
    return untried_in(plan.history)


def untried_in(history: Iterable[Extension]) -> set[str]:
    """The arms for which no command of a history has asked for the trials of its tuning grid.

    Args:
        history: The history, or its beginning.
    """
    arms, untried = set[str](), set[str]()
    for step in history:
        arms.update(step.arms)
        if step.adds_trials:
            untried = arms.difference(step.tried or _named_arms(step.command) or arms)
        untried.difference_update(step.tried)
    return untried


def _named_arms(command: str) -> list[str]:
    """The arms in a command of a version that did not record whose trials it asked for."""
    try:
        return flag_values(shlex.split(command), "--arms") or []
    except ValueError:
        return []


def _covers(requested: Plan, grown: Plan) -> bool:
    """Whether a command would make everything that a plan has in an empty folder.

    Targets and claims that were added after results would be planned ones there.
    """
    return (
        {*requested.arms} >= {*grown.arms}
        and {*requested.seeds} >= {*grown.seeds}
        and {*requested.targets} >= {*grown.targets}
        and not (grown.exploratory_targets or grown.later_claims)
        and {*requested.claims} >= {*grown.claims}
        and requested.tuning == grown.tuning
        and not grown.left_out
    )


def _names(requested: Plan, stored: Plan) -> bool:
    """Whether the command of a request names what the stored plan's does not say, instead of leaving it to the plan.

    That is what later entries of the history added, and what the parts of a merged comparison say differently.
    """
    steps = stored.history[covered_steps(stored) :]
    try:
        argv = shlex.split(requested.command)
    except ValueError:
        return False
    try:
        before = shlex.split(stored.command)
    except ValueError:  # an early plan keeps a command for people
        before = []
    named = {
        flag for flag in ("arms", "claim", "trial_seeds", *GRID_FLAGS) if flag_values(argv, f"--{flag}") is not None
    }
    tunes = any(step.adds_trials or step.tried for step in steps)
    claims = [step for step in steps if not (step.arms or step.seeds or step.targets or step.adds_trials or step.tried)]
    return (
        ("arms" in named or not any(step.arms for step in steps))
        and ("trial_seeds" in named or not any(step.trial_seeds for step in steps))
        and (not named.isdisjoint(GRID_FLAGS) or not tunes)
        and ("claim" in named or not claims)
        and _names_seeds(argv, requested, before, steps)
        and (JOINT.strip() not in before or not omitted_flags(argv, before) - {"seed"})
    )


def _names_seeds(argv: Sequence[str], requested: Plan, before: Sequence[str], steps: Sequence[Extension]) -> bool:
    """Whether a command, completed by the one before, gives the same seeds in an empty folder, where none is skipped.

    Without a number of seeds they are those of the one before, if that gives a number, and no later one added to it.
    """
    if any(flag_values(argv, flag) is not None for flag in ("--num_seeds", "--until_decided")):
        return max(requested.seeds) - min(requested.seeds) + 1 == len(requested.seeds)
    fixed = before and JOINT.strip() not in before and flag_values(before, "--until_decided") is None
    start = flag_values(argv, "--seed")
    return bool(fixed) and not any(step.seeds for step in steps) and start in (None, flag_values(before, "--seed"))


def other_conditions(stored: Plan, requested: Plan) -> list[str]:
    """The conditions in which two plans differ, see `Plan.differences`, without tuning grids that can be joined.

    Args:
        stored: A plan.
        requested: The other plan.
    """
    own, other = stored.tuning, requested.tuning
    if own is None or other is None or own.can_add(other):
        stored, requested = (dataclasses.replace(plan, tuning=None) for plan in (stored, requested))
    return stored.differences(requested)


def merged_tuning(stored: Plan, requested: Plan) -> Tuning | None:
    """The tuning grid of a stored plan, with points and seeds of the requested one if they can be added.

    Args:
        stored: The stored plan.
        requested: The requested plan.
    """
    own, other = stored.tuning, requested.tuning
    if own is not None and other is not None and own.can_add(other):
        return own.joined_with(other)
    return own or other


def _added_trial_seeds(before: Tuning | None, after: Tuning | None) -> tuple[int, ...]:
    """The seeds that were added to the trials of a tuning grid: of a new grid all but the first."""
    known = () if before is None else before.seeds
    return () if after is None else tuple(seed for seed in after.more_seeds if seed not in known)


def initial_plan(plan: Plan) -> Plan:
    """A requested plan as it is stored for a new comparison: with its looks and its history."""
    looks = plan.planned_looks
    return dataclasses.replace(plan, looks=looks, history=(first_extension(plan, date=_now()),))


def count_shared_seeds(plan: Plan, finished: Iterable[Run]) -> int:
    """The largest number of seeds whose runs are finished for two arms, or tuned variants, alike, at every budget.

    With a single arm it is 0.
    """
    done = {(run.arm, run.seed, run.epochs) for run in finished}
    complete = {
        name: {seed for seed in plan.seeds if all((name, seed, epochs) in done for epochs in plan.budgets)}
        for name in with_tuned(plan.arms)
    }
    pairs = itertools.combinations(complete, 2)
    of_two_arms = [pair for pair in pairs if len({name.removesuffix(TUNED_SUFFIX) for name in pair}) == 2]
    return max((len(complete[one] & complete[other]) for one, other in of_two_arms), default=0)


def _left_out(stored: Plan, requested: Plan, seeds: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The seeds with which each arm and tuned variant is not run: those that no command has asked for with it."""
    left_out = {}
    for arm in dict.fromkeys((*stored.arms, *requested.arms)):
        for name in with_tuned([arm]):
            without = {*stored.seeds_left_out(name), *seeds} if arm in stored.arms else {*stored.seeds, *seeds}
            if arm in requested.arms:
                without -= {*requested.seeds}.difference(requested.seeds_left_out(name))
            left_out[name] = tuple(seed for seed in (*stored.seeds, *seeds) if seed in without)
    return left_out_by_name(left_out)


def _gained_seeds(stored: Plan, grown: Plan) -> dict[str, tuple[int, ...]]:
    """The seeds that each arm and tuned variant has gained: new ones, and such as only others had.

    Of a new arm these are only new ones.
    """
    gained = {}
    for arm in grown.arms:
        for name in with_tuned([arm]):
            had = stored.seeds_of([name]) if arm in stored.arms else stored.seeds
            gained[name] = tuple(seed for seed in grown.seeds_of([name]) if seed not in had)
    return gained


def _gaining(gained: Mapping[str, Collection[int]]) -> tuple[str, ...]:
    """The arms that have gained seeds, and the tuned variants that have gained others than their arms."""
    as_arm = {name for arm in gained for name in with_tuned([arm])[1:] if gained.get(name) == gained[arm]}
    return tuple(name for name, own in gained.items() if own and name not in as_arm)


def _later_claims(claims: Iterable[str], arms: Sequence[str], results: Results) -> tuple[str, ...]:
    """Those of some added claims whose arms have results already."""
    seen = {run.arm for run in (*results.runs, *results.trials)}
    return tuple(text for text in claims if {(claim := parse_claim(text, arms)).arm, *claim.baselines} <= seen)


def _looks(stored: Plan, requested: Plan, seeds: Collection[int], folder: Path) -> LookPlan | None:
    """The planned looks after seeds were added, or a growing comparison was requested.

    As long as nobody can have seen a verdict, because no two arms have as many seeds as the first look, or more than
    one, which decides nothing, the looks are planned again. Afterwards the plan stays.
    """
    if not seeds and requested.looks is None:
        return stored.looks
    current = stored.planned_looks
    if count_shared_seeds(stored, read_results(folder, stored).runs) >= max(current.first, 2):
        return current
    number = len(stored.seeds) + len(seeds)
    return requested.looks or LookPlan(number, number)


def _same_request(stored: Plan, requested: Plan) -> bool:
    """Whether a plan whose runs have not started is the requested one already."""
    ignored: dict[str, Any] = {"history": (), "command": "", "versions": {}}
    return dataclasses.replace(stored, **ignored) == dataclasses.replace(initial_plan(requested), **ignored)


def first_extension(plan: Plan, date: str) -> Extension:
    """The first entry of a comparison's history."""
    return Extension(date, plan.command, tuple(plan.arms), tuple(plan.seeds), tuple(plan.targets))


def _ordered(plan: Plan, targets: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted(targets, reverse=not plan.task.greater_is_better))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
