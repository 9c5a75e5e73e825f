"""The targets of each role of a repair: the chosen groups, and the controls."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from hf_critmom.experiments.repair.plan import RepairPlan
from hf_critmom.experiments.repair.selection import CHOSEN, CONTROLS, PARAMETERS, Choice, in_order
from hf_critmom.reporting.text import counted, join_names


@dataclass(frozen=True)
class Target:
    """The groups or parameters that a treatment trains.

    Attributes:
        groups: Layer groups; empty for single parameters, which may lie in any group.
        parameters: Number of single parameters; None for whole groups.
    """

    groups: tuple[str, ...]
    parameters: int | None = None

    def run_folder(self, seed: int) -> Path:
        """The folder of the treatment with a seed, relative to the repair's."""
        name = "+".join(self.groups)
        if self.parameters is not None:
            name = "single-parameters"
        elif len(name) > 80 or not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
            name = f"{len(self.groups)}-groups-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        return Path("runs", name, f"seed-{seed}")

    @property
    def title(self) -> str:
        """Name of the target in messages."""
        return join_names(self.groups) if self.parameters is None else counted(self.parameters, "single parameter")


def targets_by_role(plan: RepairPlan, choice: Choice) -> dict[str, list[Target]]:
    """The target of each role for each seed of the plan; roles without a choice of groups are left out.

    Controls choose among the groups that have trainable parameters: a frozen one cannot be treated.
    """
    roles = {CHOSEN: [Target(choice.groups)] * len(plan.seeds)}
    names = in_order(plan.layers, choice.attribution.groups)
    chosen = in_order(names, choice.groups)
    for role, control in CONTROLS.items() if plan.settings.get("controls") else ():
        groups = [control.groups(names, chosen, choice.attribution, seed) for seed in plan.seeds]
        if found := [Target(of_seed) for of_seed in groups if of_seed is not None]:
            roles[role] = found
    if plan.settings.get("granularity") == "parameter":
        roles[PARAMETERS] = [Target((), num_parameters(choice))] * len(plan.seeds)
    return roles


def num_parameters(choice: Choice) -> int:
    """Number of trainable values in the chosen groups."""
    groups = choice.attribution.groups
    return sum(groups[name].parameters for name in choice.groups if name in groups)
