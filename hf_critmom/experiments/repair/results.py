"""Results of a repair as dataclasses, and the files that hold them, which are all read here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_critmom.attribution.doubtful_labels import DoubtfulLabel
from hf_critmom.errors import root_message
from hf_critmom.experiments.repair.advantages import Advantage, judge_advantages
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairPlan
from hf_critmom.experiments.repair.scan import EpochScan, logged_training, scan, training_seconds
from hf_critmom.experiments.repair.selection import CHOSEN, CONTROLS, SELECTIONS, Choice, Evidence, in_order
from hf_critmom.experiments.repair.targets import Target, targets_by_role
from hf_critmom.experiments.repair.verification import Verification
from hf_critmom.reporting.text import counted, join_names
from hf_critmom.storage.files import atomic_write, replace_non_finite, write_json
from hf_critmom.storage.run_folder import RESULT_FILE
from hf_critmom.storage.typed import RecordError, from_json, read_json

DIAGNOSIS_FILE, COST_FILE, MASKS_FILE = "diagnosis.json", "cost.json", "single_parameters.safetensors"
LABELS_FILE = "doubtful_labels.json"

Record = TypeVar("Record")


@dataclass(frozen=True)
class Treatment:
    """Result of one treatment.

    Attributes:
        groups: The groups that were trained; empty for single parameters.
        seed: Seed of the training.
        steps: Number of optimizer steps.
        seconds: Seconds of training.
        samples_per_second: Training examples per second.
        verification: Verification on the test split; None if the treatment diverged.
        changed: Every test item that was fixed or broken.
        status: "finished" or "diverged".
        parameters: Number of single parameters that were trained; None if whole groups were.
        training_log: Training records of the Trainer.
        versions: Versions of the libraries, and the machine.
        files: SHA-256 of each file of the trained model, by name; empty for a diverged one.
        load: Where it was made, see `hf_critmom.engines.interface.Load`; empty in results of earlier versions.
    """

    groups: tuple[str, ...]
    seed: int
    steps: int
    seconds: float
    samples_per_second: float
    verification: Verification | None
    changed: tuple[dict[str, Any], ...] = ()
    status: str = "finished"
    parameters: int | None = None
    training_log: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in ("finished", "diverged") or (self.status == "finished") != (
            self.verification is not None
        ):
            raise ValueError(f"the status {self.status!r} does not fit the verification")
        if min(self.steps, self.seconds, self.samples_per_second) < 0:
            raise ValueError("steps or seconds are negative")
        places = ("index", "label", "before", "after")
        if not all(type(item.get(place)) is int for item in self.changed for place in places):
            raise ValueError("a changed item lacks its index, label or predictions")
        if found := self.verification:
            counts = [item.get("change") for item in self.changed]
            if (counts.count("fixed"), counts.count("broken")) != (found.fixed, found.broken):
                raise ValueError("the number of changed items is not that of the verification")

    @property
    def diverged(self) -> bool:
        """Whether the loss, weights or predictions became non-finite."""
        return self.verification is None

    @property
    def title(self) -> str:
        """The trained groups or parameters, for tables."""
        return "+".join(self.groups) if self.parameters is None else counted(self.parameters, "single parameter")


@dataclass(frozen=True)
class Cost:
    """Cost of a step of the treatment, measured beside a step of the whole network.

    Attributes:
        parameter_share: Share of the parameters that are trained, which is not a share of compute.
        seconds: Median seconds of a forward and backward pass with only the chosen groups trained.
        whole_seconds: Median seconds with everything trained.
        groups: The groups; empty in results of earlier versions.
    """

    parameter_share: float
    seconds: float
    whole_seconds: float
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.parameter_share <= 1.0 or min(self.seconds, self.whole_seconds) <= 0.0:
            raise ValueError("a share or seconds are not positive")

    @property
    def time_share(self) -> float:
        """Time of the treatment's pass over that of the whole network's."""
        return self.seconds / self.whole_seconds


@dataclass(frozen=True)
class DoubtfulLabels:
    """Misclassified examples of the diagnosis split whose labels are doubtful.

    Attributes:
        split: Name of the split.
        misclassified: Number of misclassified examples in the split.
        examples: Number of examples in the split.
        doubtful: Misclassified examples with doubtful labels, the most doubtful first.
    """

    split: str
    misclassified: int
    examples: int
    doubtful: tuple[DoubtfulLabel, ...]


@dataclass(frozen=True)
class Repair:
    """A repair and its verification.

    Attributes:
        scan: Damping regime of each epoch of the network's training; empty without a log.
        choice: The diagnosis.
        roles: Treatments by role, ``chosen`` and the names in `CONTROLS`, one for each seed. Roles with the same groups
            share treatments.
        cost: Cost of a step of the treatment.
        folder: The repair's folder; the repaired model, treated with the first seed, is at its top.
        plan: The plan.
        labels: Doubtful labels, if they were searched for.
    """

    scan: list[EpochScan]
    choice: Choice
    roles: dict[str, list[Treatment]]
    cost: Cost
    folder: Path
    plan: RepairPlan
    labels: DoubtfulLabels | None = None

    @property
    def verification(self) -> Verification | None:
        """Verification of the repaired model, which is the one treated with the first seed.

        None if that treatment diverged, in which case there is no repaired model.
        """
        return self.roles[CHOSEN][0].verification

    @property
    def budget(self) -> int | None:
        """Number of optimizer steps of every treatment that did not diverge; None if all of them did."""
        return next((one.steps for of_role in self.roles.values() for one in of_role if not one.diverged), None)

    @property
    def impossible(self) -> tuple[str, ...]:
        """Controls that were requested, but have no choice of groups beside the chosen ones."""
        return tuple(role for role in CONTROLS if self.plan.settings.get("controls") and role not in self.roles)

    def advantages(self) -> dict[str, Advantage]:
        """How much better the chosen groups did than each control with other groups, over paired seeds.

        Seeds for which either of the two diverged are left out.
        """
        chosen = {one.seed: one.verification.net for one in self.roles[CHOSEN] if one.verification}
        differences = {}
        for role, treatments in self.roles.items():
            if role == CHOSEN or self.is_chosen(treatments):
                continue
            nets = {one.seed: one.verification.net for one in treatments if one.verification}
            differences[role] = [chosen[seed] - nets[seed] for seed in chosen if seed in nets]
        return judge_advantages(differences)

    def num_trained(self, treatment: Treatment) -> int:
        """Number of parameters that a treatment trains."""
        if treatment.parameters is not None:
            return treatment.parameters
        groups = self.choice.attribution.groups
        return sum(groups[name].parameters for name in treatment.groups if name in groups)

    def is_chosen(self, treatments: list[Treatment]) -> bool:
        """Whether a control has the same groups as the diagnosis."""
        return {(one.groups, one.parameters) for one in treatments} == {(self.choice.groups, None)}


def read_repair(folder: Path) -> Repair:
    """Reads a finished repair from its folder, for its report.

    Earlier versions did not store the scan: it is computed from the checkpoint's log, if the checkpoint is still there.

    Raises:
        RepairError: If there is no repair, or it is unfinished or damaged.
    """
    plan = RepairPlan.read(folder)
    choice = read_choice(folder, plan)
    targets = targets_by_role(plan, choice)
    roles = {
        role: [
            read_treatment(folder / target.run_folder(seed), target, seed)
            for target, seed in zip(of_role, plan.seeds, strict=True)
        ]
        for role, of_role in targets.items()
    }
    scanned, seconds = plan.scan, plan.training_seconds
    if scanned is None and plan.checkpoint is not None and Path(plan.checkpoint).is_dir():
        scanned = tuple(scan(logged_training(Path(plan.checkpoint))))
        seconds = training_seconds(Path(plan.checkpoint))
    labels = read_labels(folder) if plan.settings.get("check_labels") else None
    plan = replace(plan, training_seconds=seconds)
    return Repair(list(scanned or ()), choice, roles, read_cost(folder, choice), folder, plan, labels)


def read_choice(folder: Path, plan: RepairPlan) -> Choice:
    """Reads the diagnosis in a repair's folder.

    Raises:
        RepairError: If it is damaged, or its groups are not those that the plan's rule chooses from its evidence.
    """
    file = folder / DIAGNOSIS_FILE
    again = "delete it and repeat the command, which makes the diagnosis again"
    choice = _read(file, Choice, again)
    if {*choice.attribution.groups, *choice.attribution.frozen} != set(plan.layers):
        raise RepairError(f"{file} is of other layer groups than {folder}: {again}.")
    requested, rule = plan.settings.get("groups", "auto"), plan.settings.get("select", "gradient")
    expected = [requested] if isinstance(requested, str) else requested
    if requested == "auto" and rule in SELECTIONS:
        number = plan.settings.get("num_groups")
        evidence = Evidence(choice.attribution, choice.diagnosis, lambda: choice.friction, number)
        expected = SELECTIONS[rule].choose(evidence).groups
    if choice.groups != in_order(plan.layers, expected):
        raise RepairError(f"{file} names other groups than its evidence: {again}.")
    return choice


def write_choice(folder: Path, choice: Choice) -> None:
    """Stores the diagnosis."""
    write_json(folder / DIAGNOSIS_FILE, replace_non_finite(_json(asdict(choice))))


def read_treatment(run: Path, target: Target, seed: int) -> Treatment:
    """Reads the result of a treatment.

    Raises:
        RepairError: If it is damaged, or belongs to another treatment.
    """
    file = run / RESULT_FILE
    again = "delete it and repeat the command, which makes the treatment again"
    treatment = _read(file, Treatment, again)
    if (treatment.groups, treatment.seed, treatment.parameters) != (target.groups, seed, target.parameters):
        raise RepairError(
            f"{file} is the result of another treatment ({treatment.title}, seed {treatment.seed}): {again}."
        )
    return treatment


def read_cost(folder: Path, choice: Choice) -> Cost:
    """Reads the measured cost of treating the chosen groups.

    Raises:
        RepairError: If the file is damaged, or of other groups.
    """
    file, again = folder / COST_FILE, "delete it and repeat the command, which measures again"
    cost = _read(file, Cost, again)
    if cost.groups not in ((), choice.groups):
        raise RepairError(f"{file} is the cost of other groups ({join_names(cost.groups)}): {again}.")
    return cost


def read_labels(folder: Path) -> DoubtfulLabels:
    """Reads the doubtful labels.

    Raises:
        RepairError: If the file is damaged.
    """
    return _read(folder / LABELS_FILE, DoubtfulLabels, "delete it and repeat the command, which looks for them again")


def write_record(file: Path, record: Any) -> None:
    """Stores a dataclass."""
    write_json(file, replace_non_finite(_json(asdict(record))))


def write_masks(folder: Path, masks: Mapping[str, torch.Tensor]) -> None:
    """Stores the masks of the single parameters to train, packed to bits."""
    packed = {name: torch.from_numpy(np.packbits(mask.flatten().numpy())) for name, mask in masks.items()}
    with atomic_write(folder / MASKS_FILE) as partial:
        save_file(packed, partial)


def read_masks(folder: Path, shapes: Mapping[str, torch.Size], count: int) -> dict[str, torch.Tensor]:
    """Reads the masks of the single parameters to train.

    Args:
        folder: The repair's folder.
        shapes: Shape of each trainable parameter, by name.
        count: Number of single parameters that the masks choose together.

    Returns:
        For each parameter a bool tensor of its shape.

    Raises:
        RepairError: If the file is damaged.
    """
    file = folder / MASKS_FILE
    try:
        packed = load_file(file)
        if packed.keys() != shapes.keys():
            raise ValueError("it names other parameters than the network has")
        masks = {
            name: torch.from_numpy(np.unpackbits(packed[name].numpy(), count=shape.numel()).astype(bool)).view(shape)
            for name, shape in shapes.items()
        }
        if (found := sum(int(mask.sum()) for mask in masks.values())) != count:
            raise ValueError(f"it chooses {found:,} parameters instead of {count:,}")
    except (OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise RepairError(
            f"{file} is damaged ({root_message(error)}): delete it and repeat the command, which chooses again."
        ) from None
    return masks


def _read(file: Path, record: type[Record], remedy: str) -> Record:
    try:
        return from_json(record, read_json(file))
    except (OSError, RecordError) as error:
        raise RepairError(f"{file} is damaged ({root_message(error)}): {remedy}.") from None


def _json(value: Any) -> Any:
    """A dataclass's values for JSON: lists instead of tuples."""
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else value
