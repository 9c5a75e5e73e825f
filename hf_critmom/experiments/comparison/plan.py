"""The plan of a comparison: written before the first run, compared with what is asked for at every later command."""

import dataclasses
import itertools
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.storage.files import create_or_open_folder, write_json
from hf_critmom.storage.locks import locked
from hf_critmom.storage.plan import differences
from hf_critmom.tasks import completed_record

PLAN_FILE = "comparison.json"


@dataclass(frozen=True)
class Trial:
    """A point of the tuning grid.

    Attributes:
        learning_rate: Factor of the arm's own learning rate.
        weight_decay: Factor of its own weight decay.
    """

    learning_rate: float = 1.0
    weight_decay: float = 1.0


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        arm: The arm's name.
        seed: Its seed.
        epochs: Its budget where the comparison has several; None: the one that all runs have.
        trial: The point of the grid that it tries; None: it is compared, not a trial.
    """

    arm: str
    seed: int
    epochs: float | None = None
    trial: Trial | None = None

    @property
    def folder(self) -> Path:
        """Its folder, within the comparison's."""
        budget = [] if self.epochs is None else [f"epochs-{self.epochs:g}"]
        if self.trial is None:
            return Path("runs", self.arm, *budget, f"seed-{self.seed}")
        point = f"lr-{self.trial.learning_rate:g}-wd-{self.trial.weight_decay:g}"
        return Path("runs", self.arm, *budget, "tuning", point)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        budget = "" if self.epochs is None else f", {self.epochs:g} epochs"
        if self.trial is None:
            return f"{self.arm}{budget}, seed {self.seed}"
        factors = f"lr x {self.trial.learning_rate:g}, weight decay x {self.trial.weight_decay:g}"
        return f"{self.arm}{budget}, trial of {factors}"


@dataclass(frozen=True)
class Plan:
    """Everything that the results of a comparison depend on.

    Attributes:
        task: The task's description, with fingerprints of its splits.
        model: The model's flags, and its number of parameters.
        arms: Every arm by name, as `hf_critmom.experiments.comparison.arms.Arm.record` gives it.
        seeds: Seeds of the runs of every arm.
        targets: Metric values whose first reaching is timed, judged at every evaluation on the validation split.
        training: Training arguments that differ from the defaults of Transformers, and the total batch size.
        versions: Versions of what computes; a difference is said, not refused.
        command: The command line that made the plan.
        tuning: The grid: factors of learning rate and weight decay, and the seed of the trials; empty: no tuning.
        arguments: Flags of the data and of the model, as `store_arguments` keeps them: what other commands load the
            task from. Paths are relative to the comparison's folder; they are not published.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    seeds: list[int]
    targets: list[float]
    training: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    tuning: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def budgets(self) -> list[float | None]:
        """Epochs of the runs where there are several budgets; else only None, for the one of the training arguments."""
        epochs = self.training.get("num_train_epochs")
        return list(epochs) if isinstance(epochs, list) else [None]

    def runs(self) -> list["Run"]:
        """Every run that is compared, in the order in which they are made; tuned variants come after their trials."""
        return [Run(arm, seed, epochs) for seed in self.seeds for epochs in self.budgets for arm in self.arms]

    def trials(self) -> list["Run"]:
        """Every run that only chooses learning rate and weight decay."""
        if not self.tuning:
            return []
        grid = itertools.product(self.tuning["learning_rate"], self.tuning["weight_decay"])
        trials = [Trial(*factors) for factors in grid]
        return [
            Run(arm, self.tuning["seed"], epochs, trial)
            for epochs in self.budgets
            for arm in self.arms
            for trial in trials
        ]

    def differences(self, other: "Plan") -> list[str]:
        """What results depend on and the two plans disagree about, as "name: mine, theirs"."""
        found = []
        for part in fields(self):
            if part.name not in ("versions", "command", "arguments"):
                mine, theirs = (_decisive(part.name, getattr(plan, part.name)) for plan in (self, other))
                found += differences(part.name, mine, theirs)
        return found

    def write(self, folder: Path) -> None:
        """Stores the plan in a folder."""
        write_json(folder / PLAN_FILE, {part.name: getattr(self, part.name) for part in fields(self)})

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """Reads the plan of a folder.

        Raises:
            ComparisonError: If there is none, or it is not one.
        """
        try:
            stored = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
            return cls(**stored)
        except (FileNotFoundError, NotADirectoryError):
            raise ComparisonError(f"{folder} holds no comparison: expected a folder with a {PLAN_FILE}.") from None
        except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
            raise ComparisonError(
                f"{folder / PLAN_FILE} is not the plan of a comparison ({root_message(error)}): choose "
                "another --output_dir."
            ) from None


def settle_plan(plan: Plan, folder: Path, *, write: bool) -> Plan:
    """The plan that governs a folder: the stored one if it is the same as this, else this, which is then stored.

    Raises:
        ComparisonError: If the folder holds a different plan or other files, or cannot be written.
    """
    stored = _stored(plan, folder)
    if stored is not None:
        return stored
    create_or_open_folder(folder, "comparison", PLAN_FILE, ComparisonError, write=write)
    if write:
        with locked(folder, "plan"):  # two launches may begin at the same moment
            stored = _stored(plan, folder)
            if stored is not None:
                return stored
            plan.write(folder)
    return plan


def _stored(plan: Plan, folder: Path) -> Plan | None:
    """The plan that a folder holds; None if it holds none."""
    if not (folder / PLAN_FILE).exists():
        return None
    stored = Plan.read(folder)
    stored = dataclasses.replace(stored, model=completed_record(stored.model, plan.model))
    if different := stored.differences(plan):
        raise ComparisonError(
            f"{folder} holds a comparison with a different plan ({'; '.join(different)}; stored first): "
            "repeat the stored command to continue it, or choose another --output_dir."
        )
    return stored


def _decisive(name: str, value: Any) -> Any:
    """A part of a plan without what only says how arms are shown."""
    if name != "arms":
        return value
    shown = ("help", "color")
    return {arm: {key: item for key, item in record.items() if key not in shown} for arm, record in value.items()}
