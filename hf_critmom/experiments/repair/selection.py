"""Selects the groups to treat: the rules of the diagnosis, and the controls."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hf_critmom.attribution.problems import TOP, Diagnosis
from hf_critmom.attribution.results import Attribution
from hf_critmom.reporting.text import join_names

CHOSEN = "chosen"
"""Role of the treatment of the groups that the diagnosis chose."""
IKFAD_STEPS = 100
"""Number of steps of the run by which ``ikfad`` chooses."""


@dataclass(frozen=True)
class Choice:
    """A diagnosis, and the groups that it selects.

    Attributes:
        groups: The groups to treat.
        reason: Why these groups, in a sentence.
        attribution: Gradients on the misclassified examples of the diagnosis split.
        diagnosis: Groups that the rules of attribution name.
        friction: Mean friction of each group after a short run of iKFAD, if the groups were chosen by it.
    """

    groups: tuple[str, ...]
    reason: str
    attribution: Attribution
    diagnosis: Diagnosis
    friction: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {*self.attribution.groups, *self.attribution.frozen}
        if not self.groups or not {*self.groups, *self.friction} <= known:
            raise ValueError(f"groups are {list(self.groups)}, and the attribution is of {', '.join(known)}")


@dataclass(frozen=True)
class Evidence:
    """The evidence by which a rule chooses.

    Attributes:
        attribution: Gradients on the misclassified examples of the diagnosis split.
        diagnosis: Groups that the rules of attribution name.
        friction: Returns the mean friction of each group after a short run of iKFAD; called only by the rule that needs
            it.
        num_groups: Number of groups to choose; None: as the rule says.
    """

    attribution: Attribution
    diagnosis: Diagnosis
    friction: Callable[[], Mapping[str, float]]
    num_groups: int | None


@dataclass(frozen=True)
class Selected:
    """The choice of a rule.

    Attributes:
        groups: The groups to treat.
        reason: Why these groups, in a sentence.
        friction: Mean friction of each group, if the groups were chosen by it; else empty.
    """

    groups: tuple[str, ...]
    reason: str
    friction: Mapping[str, float]


@dataclass(frozen=True)
class Selection:
    """An entry of the table of rules.

    Attributes:
        help: The groups that the rule chooses, for help texts.
        choose: The rule.
    """

    help: str
    choose: Callable[[Evidence], Selected]


def _by_gradient(evidence: Evidence) -> Selected:
    found = evidence.diagnosis
    if evidence.num_groups is None and found.problem:
        reason = (
            f"{join_names(found.problem)}: more than an equal share of the gradient on misclassified examples and, "
            "beyond chance, more than on correctly classified ones."
        )
        return Selected(found.problem, reason, {})
    reason = f"{join_names(found.top)} have the largest shares of the gradient on misclassified examples"
    if found.same_groups.get("correct"):
        reason += ", as they have on correctly classified ones"
    elif found.problem == ():
        reason += "; no group stands out against correctly classified examples"
    if found.problem is None:
        unknown = "there are too few examples" if found.contrast else "the classes with errors have none"
        why = found.reason or unknown
        reason += f"; whether a group stands out against correctly classified ones could not be tested, because {why}"
    return Selected(found.top, f"{reason}.", {})


def _by_relative_norm(evidence: Evidence) -> Selected:
    groups = tuple(evidence.attribution.ranked("relative_norm")[: evidence.num_groups or TOP])
    return Selected(groups, f"{join_names(groups)} have the largest gradient relative to their parameters.", {})


def _by_friction(evidence: Evidence) -> Selected:
    friction = evidence.friction()
    groups = tuple(sorted(friction, key=lambda name: -friction[name])[: evidence.num_groups or TOP])
    return Selected(
        groups, f"{join_names(groups)} built up the most friction in {IKFAD_STEPS} steps of iKFAD.", friction
    )


SELECTIONS: dict[str, Selection] = {
    "gradient": Selection(
        "problem groups by the gradient on misclassified examples, or those with the largest shares if there are none",
        _by_gradient,
    ),
    "relative_norm": Selection(
        "groups with the largest gradient relative to their parameters (Auto-RGN, arXiv 2210.11466)",
        _by_relative_norm,
    ),
    "ikfad": Selection("groups in which a short run of iKFAD builds up the most friction", _by_friction),
}
"""Ways to choose the groups to treat."""


@dataclass(frozen=True)
class Control:
    """An entry of the table of controls.

    Attributes:
        help: Groups that are treated instead of the chosen ones, for help texts.
        groups: Returns the groups, given the names of all groups that can be trained, the chosen ones, the attribution
            and the seed; None if there is no such choice.
    """

    help: str
    groups: Callable[[Sequence[str], tuple[str, ...], Attribution, int], tuple[str, ...] | None]


def _random(
    names: Sequence[str], chosen: tuple[str, ...], attribution: Attribution, seed: int
) -> tuple[str, ...] | None:
    """Any groups but exactly the chosen ones, with which it would only repeat the treatment."""
    if not 0 < len(chosen) < len(names):
        return None
    draw = random.Random(seed)
    while True:
        groups = in_order(names, draw.sample(names, len(chosen)))
        if groups != chosen:
            return groups


def _relative_norm(
    names: Sequence[str], chosen: tuple[str, ...], attribution: Attribution, seed: int
) -> tuple[str, ...] | None:
    if not 0 < len(chosen) < len(names):
        return None
    return in_order(names, attribution.ranked("relative_norm")[: len(chosen)])


CONTROLS: dict[str, Control] = {
    "random": Control("as many groups, drawn at random for each seed", _random),
    "relative_norm": Control(
        "as many groups, those with the largest gradient relative to their parameters", _relative_norm
    ),
    "last_layer": Control("the last group", lambda names, chosen, attribution, seed: (names[-1],)),
    "whole": Control("the whole network", lambda names, chosen, attribution, seed: tuple(names)),
}
"""Controls, which are treated at the same budget as the chosen groups."""

PARAMETERS = "parameters"
"""The role of the control that treats single parameters."""
PARAMETERS_HELP = "as many single parameters as the chosen groups have, those with the largest gradient"


def control_help(role: str) -> str:
    """The groups or parameters that a control treats, for help texts."""
    return PARAMETERS_HELP if role == PARAMETERS else CONTROLS[role].help


def in_order(names: Iterable[str], chosen: Iterable[str]) -> tuple[str, ...]:
    """The chosen names in the order of all names."""
    wanted = set(chosen)
    return tuple(name for name in names if name in wanted)
