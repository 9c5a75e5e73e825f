"""What each role of a repair treats: the chosen groups, and the controls beside them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from hf_critmom.experiments.repair.plan import RepairPlan
from hf_critmom.experiments.repair.selection import CHOSEN, CONTROLS, PARAMETERS, Choice, listed


@dataclass(frozen=True)
class Target:
    """What a treatment trains.

    Attributes:
        groups: Layer groups; empty for single parameters, wherever they lie.
        parameters: Number of single parameters; None: all of the groups.
    """

    groups: tuple[str, ...]
    parameters: int | None = None

    def run_folder(self, seed: int) -> Path:
        """The folder of its treatment with a seed, within the repair's."""
        name = "+".join(self.groups)
        if self.parameters is not None:
            name = "single-parameters"
        elif len(name) > 80 or not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
            name = f"{len(self.groups)}-groups-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        return Path("runs", name, f"seed-{seed}")

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return listed(self.groups) if self.parameters is None else f"{self.parameters:,} single parameters"


def targets_by_role(plan: RepairPlan, choice: Choice) -> dict[str, list[Target]]:
    """What each role treats, for each seed of the plan; roles that have no choice of groups are left out."""
    roles = {CHOSEN: [Target(choice.groups)] * len(plan.seeds)}
    for role, control in CONTROLS.items() if plan.settings.get("controls") else ():
        groups = [control.groups(tuple(plan.layers), choice.groups, choice.attribution, seed) for seed in plan.seeds]
        if found := [Target(of_seed) for of_seed in groups if of_seed is not None]:
            roles[role] = found
    if plan.settings.get("granularity") == "parameter":
        roles[PARAMETERS] = [Target((), num_parameters(choice))] * len(plan.seeds)
    return roles


def num_parameters(choice: Choice) -> int:
    """How many trainable values the chosen groups have."""
    groups = choice.attribution.groups
    return sum(groups[name].parameters for name in choice.groups if name in groups)
