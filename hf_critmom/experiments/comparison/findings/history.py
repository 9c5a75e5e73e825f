"""The history of a comparison in sentences: what was added to its plan after the first command, and when."""

from collections.abc import Sequence

from hf_critmom.experiments.comparison.findings.sentences import join_seeds
from hf_critmom.experiments.comparison.plan import Extension, Plan
from hf_critmom.reporting.text import join_names


def describe_history(plan: Plan) -> list[str]:
    """A sentence for each addition to a comparison; empty if nothing was added.

    For instance "On 2026-11-29 seeds 45 to 47 were added after the first analysis (12 runs were finished)."

    Args:
        plan: The plan.
    """
    return [_sentence(plan, before, added) for before, added in zip(plan.history, plan.history[1:], strict=False)]


def _sentence(plan: Plan, before: Extension, added: Extension) -> str:
    looks = plan.planned_looks
    additions = []
    if added.arms:
        additions.append(f"the arm{_s(added.arms)} {join_names(added.arms)}")
    if added.seeds:
        whose = f" of {join_names(added.seeds_for)}" if added.seeds_for else ""
        additions.append(f"seed{_s(added.seeds)} {join_seeds(added.seeds)}{whose}")
    if added.targets:
        additions.append(f"the target{_s(added.targets)} {join_names([f'{target:g}' for target in added.targets])}")
    if added.tuning:
        additions.append("points of the tuning grid")
    if added.trial_seeds:
        additions.append(f"seed{_s(added.trial_seeds)} {join_seeds(added.trial_seeds)} of the trials")
    if added.tried and not added.adds_trials:
        additions.append(f"the trials of {join_names(added.tried)}")
    things = added.arms or added.seeds or added.targets or added.trial_seeds
    one = len(additions) == 1 and not (added.tried and not added.trial_seeds) and len(things) == 1
    by_rule = bool(added.seeds) and not added.arms and looks.first < looks.last and added.command == before.command
    how = " by the rule of --until_decided" if by_rule else ""
    on = f"On {added.date[:10]} " if added.date else ""
    subject = " and ".join(additions) or "claims"
    looked = bool(added.finished) and _looked(plan, added)
    text = f"{on}{subject} {'was' if one else 'were'} added{how} {_when(plan, added, looked=looked)}"
    if added.targets and (added.finished or {*added.targets} & {*plan.exploratory_targets}):
        text += "; what was added as a target is exploratory and enters no headline"
    if added.adds_trials:
        text += f"; tuned variants are those that {'the whole grid' if added.tuning else 'all trials'} chose"
        chosen_before = any(one.tuning for one in plan.history[: plan.history.index(added)])
        if chosen_before and looked:
            text += ", and earlier choices may have had verdicts: the 5 % hold for each choice by itself"
    return f"{text[:1].upper()}{text[1:]}."


def _when(plan: Plan, added: Extension, *, looked: bool) -> str:
    if not added.finished:
        return f"before the first {'compared ' if plan.tuning else ''}run had finished"
    runs = f"{added.finished} run{'s were' if added.finished != 1 else ' was'} finished"
    return f"{'after' if looked else 'before'} the first analysis ({runs})"


def _looked(plan: Plan, added: Extension) -> bool:
    """Whether a verdict could have been seen before an addition."""
    until = plan.history[: plan.history.index(added) + 1]
    arms = [{arm for one in until[:place] for arm in one.arms} for place in range(len(until))]
    return any(
        one.finished >= plan.planned_looks.first * max(len(before), 1) * len(plan.budgets)
        for one, before in zip(until, arms, strict=True)
    )  # arms that were added since have no finished run at first


def _s(things: Sequence[object]) -> str:
    return "s" if len(things) > 1 else ""
