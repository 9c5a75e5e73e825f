"""The plan of a repair: what its results depend on, stored before the first treatment and compared at every launch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_critmom.attribution.groups import Groups
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.scan import EpochScan
from hf_critmom.experiments.repair.selection import SELECTIONS
from hf_critmom.storage.plan import PlanFile, differences
from hf_critmom.storage.typed import RecordError, from_json
from hf_critmom.tasks.provenance import Overlap
from hf_critmom.tasks.records import TaskRecord

PLAN = PlanFile("repair.json", "repair", RepairError)

GRANULARITIES: dict[str, str] = {
    "layer": "layer groups",
    "parameter": "in addition, as a control, as many single parameters, those with the largest gradient on the same "
    "misclassified examples, while all others keep their values",
}
"""What is retrained."""

MOST_SEEDS = 1000

_EXTENT = ("num_seeds", "controls", "granularity", "check_labels")
"""Settings that may grow when a repair continues."""
_NOT_COMPARED = ("versions", "command", "checkpoint", "trained_on", "overlap", "scan", "training_seconds", "seeds")
"""Fields that results do not depend on; the checkpoint is identified by its weights, wherever it is stored."""


@dataclass(frozen=True)
class RepairSettings:
    """Settings of a repair.

    Attributes:
        groups: "auto", or names of the groups to treat.
        select: Rule by which "auto" chooses, a name in `SELECTIONS`.
        num_groups: Number of groups that "auto" chooses; None: as its rule says.
        layers: Grouping of the parameters, see `layer_groups`.
        controls: Whether the controls are treated as well. The random groups are drawn for each seed among all choices
            of as many groups except the chosen one.
        num_seeds: Number of seeds of each treatment, counted from the seed of the training arguments.
        granularity: A name in `GRANULARITIES`.
        check_labels: Whether doubtful labels are looked for among the misclassified examples.
    """

    groups: str | Sequence[str] = "auto"
    select: str = "gradient"
    num_groups: int | None = None
    layers: Groups = None
    controls: bool = False
    num_seeds: int = 1
    granularity: str = "layer"
    check_labels: bool = False

    def __post_init__(self) -> None:
        for name, known in (("select", SELECTIONS), ("granularity", GRANULARITIES)):
            value = getattr(self, name)
            if value not in known:
                called = {"select": "selection"}.get(name, name)
                raise RepairError(f"Unknown {called} {value!r}: choose one of {', '.join(known)}.")
        if not 1 <= self.num_seeds <= MOST_SEEDS:
            raise RepairError(f"num_seeds must be at least 1 and at most {MOST_SEEDS:,}, got {self.num_seeds}.")
        if self.num_groups is not None and self.num_groups < 1:
            raise RepairError(f"num_groups must be at least 1, got {self.num_groups}.")

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**asdict(self), "groups": self.groups if isinstance(self.groups, str) else list(self.groups)}


@dataclass(frozen=True)
class OptimizerRecord:
    """The treatments' optimizer.

    Attributes:
        optim: Name, as for ``--optim``.
        optim_args: Options, as for ``--optim_args``.
    """

    optim: str
    optim_args: str | None = None


@dataclass(frozen=True)
class RepairPlan:
    """A stored plan.

    Attributes:
        settings: The settings, as `RepairSettings.record` returns them.
        layers: Number of parameter tensors in each layer group.
        weights: Digest of the weights before the repair.
        seeds: Seeds of every treatment.
        optimizer: Name and options of the treatments' optimizer.
        training: Training arguments that differ from the defaults of Transformers.
        versions: Versions of the libraries, and the machine.
        command: The command line.
        checkpoint: The repaired checkpoint.
        dtype: dtype of its weights.
        task: The data; None if the caller did not describe it.
        diagnosis_split: Name of the split whose errors were diagnosed.
        trained_on: Fingerprint of the data that the network was trained on; None if the checkpoint does not record it.
        overlap: Result of comparing the splits; None in plans of earlier versions.
        split_fingerprints: Fingerprint of each split whose content can be determined; empty if the task holds them, and
            in plans of earlier versions.
        scan: Damping of the network's training by epoch; None in plans of earlier versions.
        training_seconds: Seconds of that training, if known.
        threads: Number of threads of each treatment; None in plans of earlier versions.
        record: Anything else that the caller of `repair_layers` recorded.
    """

    settings: dict[str, Any]
    layers: dict[str, int]
    weights: str
    seeds: tuple[int, ...]
    optimizer: OptimizerRecord
    training: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    checkpoint: str | None = None
    dtype: str | None = None
    task: TaskRecord | None = None
    diagnosis_split: str | None = None
    trained_on: str | None = None
    overlap: Overlap | None = None
    split_fingerprints: dict[str, str] = field(default_factory=dict)
    scan: tuple[EpochScan, ...] | None = None
    training_seconds: float | None = None
    threads: int | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)} instead of different numbers")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads are {self.threads} instead of 1 or more")
        if not self.layers or min(self.layers.values()) < 1:
            raise ValueError("layers are not those of a network")

    @classmethod
    def read(cls, folder: Path) -> "RepairPlan":
        """Reads the plan in a folder.

        Raises:
            RepairError: If there is none, or it is damaged.
        """
        stored = PLAN.read(folder)
        content = {name: value for name, value in stored.items() if name in cls.__dataclass_fields__}
        others = {name: value for name, value in stored.items() if name not in content}
        try:
            task = content.pop("task", None)
            plan = from_json(cls, {**content, "record": {**content.get("record", {}), **others}})
            return plan if task is None else _with_task(plan, task)
        except (RecordError, TypeError) as error:
            raise damaged_plan(folder, error) from None


def _with_task(plan: RepairPlan, description: Any) -> RepairPlan:
    values = {name: getattr(plan, name) for name in RepairPlan.__dataclass_fields__}
    return RepairPlan(**{**values, "task": TaskRecord.from_description(description)})


def damaged_plan(folder: Path, error: Exception) -> RepairError:
    """The error for a plan that cannot be used."""
    return RepairError(
        f"{folder / PLAN.name} is not the plan of a repair ({error}): restore it, or choose another --output_dir."
    )


def store_plan(plan: dict[str, Any], folder: Path, legacy_weights: str, *, write: bool) -> None:
    """Stores the plan of a repair, or checks it against the stored one, which may grow by seeds and controls.

    Args:
        plan: The plan, as JSON values.
        folder: The repair's folder.
        legacy_weights: Digest of the weights as earlier versions computed it.
        write: Whether this process is the one that writes.

    Raises:
        RepairError: If the folder holds a different repair or something else, or cannot be written.
    """

    def reconcile(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
        if not begun(folder):
            return current
        settings = stored.get("settings")
        if not isinstance(settings, dict):
            raise damaged_plan(folder, RecordError("it has no settings"))
        settings = {"granularity": "layer", "check_labels": False, **settings}
        known = {**stored, "settings": settings}
        if known.get("weights") == legacy_weights:
            known["weights"] = current["weights"]
        if "dtype" in current:  # earlier versions did not record it, but another dtype changes the digest
            known.setdefault("dtype", current["dtype"])
        known.setdefault("threads", current["threads"])
        known.setdefault("split_fingerprints", current["split_fingerprints"])
        if different := differences("repair", _decisive(known), _decisive(current)):
            raise RepairError(
                f"{folder} holds a different repair ({'; '.join(different)}; stored first): repeat its command to "
                "continue it, or choose another --output_dir."
            )
        grown = _grown(folder, known, current)
        return stored if grown == known and "overlap" in stored else {**current, **grown}

    PLAN.load_or_create(folder, plan, reconcile, write=write)


def begun(folder: Path) -> bool:
    """Whether anything has been computed for the plan in a folder."""
    return (folder / "diagnosis.json").exists() or any(folder.glob("runs/*/seed-*"))


def stored_threads(folder: Path) -> int | None:
    """Number of threads of each treatment of the repair in a folder; None if there is none, or it does not say.

    Raises:
        RepairError: If the plan is damaged.
    """
    return RepairPlan.read(folder).threads if PLAN.exists(folder) and begun(folder) else None


def find_repair(path: Path) -> dict[str, Any] | None:
    """The plan of the repair that made a checkpoint, which lies at the top of its folder or in one of its runs.

    Raises:
        RepairError: If the plan is damaged.
    """
    run = path.parent if path.name.startswith("checkpoint-") else path
    candidates = [run]
    if run.name.startswith("seed-") and len(run.parents) > 2 and run.parents[1].name == "runs":
        candidates.append(run.parents[2])
    return next((PLAN.read(folder) for folder in candidates if PLAN.exists(folder)), None)


def _decisive(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a plan that results depend on."""
    kept = {name: value for name, value in plan.items() if name not in _NOT_COMPARED}
    settings = {name: value for name, value in kept["settings"].items() if name not in _EXTENT}
    seeds = plan.get("seeds")
    return {**kept, "settings": settings, "first_seed": seeds[0] if isinstance(seeds, list) and seeds else None}


def _grown(folder: Path, stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """The stored plan, extended by what the current one adds."""
    before, now = stored["settings"], current["settings"]
    try:
        settings = {
            **before,
            "num_seeds": max(before["num_seeds"], now["num_seeds"]),
            "controls": before["controls"] or now["controls"],
            "granularity": "parameter" if "parameter" in (before["granularity"], now["granularity"]) else "layer",
            "check_labels": before["check_labels"] or now["check_labels"],
        }
    except (KeyError, TypeError) as error:
        raise damaged_plan(folder, RecordError(f"its settings are damaged at {error}")) from None
    return {**stored, "settings": settings, "seeds": max(stored["seeds"], current["seeds"], key=len)}
