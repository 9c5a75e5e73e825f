"""The plan of a comparison: written before the first run, compared with the request of every later command."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.arms import TUNED_SUFFIX, Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.records import LARGEST_SEED, TaskRecord
from hf_critmom.storage.plan import PlanFile, differences
from hf_critmom.storage.typed import RecordError, from_json
from hf_critmom.tasks import DataArguments, ModelArguments, completed_record
from hf_critmom.tasks.metrics import METRICS

PLAN_FILE = "comparison.json"
_FILE = PlanFile(PLAN_FILE, "comparison", ComparisonError)


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
class Tuning:
    """The tuning grid of every arm.

    Attributes:
        learning_rate: Factors of the arm's own learning rate.
        weight_decay: Factors of its own weight decay.
        seed: Seed of the trials, which no compared run has.
    """

    learning_rate: tuple[float, ...]
    weight_decay: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        for name, factors, least in (
            ("learning_rate", self.learning_rate, "positive"),
            ("weight_decay", self.weight_decay, "not negative"),
        ):
            if any(factor < 0.0 or (factor == 0.0 and least == "positive") for factor in factors):
                raise ValueError(f"{name} holds factors that are not all {least}")
            _check_distinct(name, factors)
        _check_seeds([self.seed])

    def trials(self) -> list[Trial]:
        """The points of the grid."""
        return [Trial(*factors) for factors in itertools.product(self.learning_rate, self.weight_decay)]

    def as_json(self) -> dict[str, Any]:
        """The grid as the plan holds it."""
        return {
            "learning_rate": list(self.learning_rate),
            "weight_decay": list(self.weight_decay),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Plan:
    """Everything that the results of a comparison depend on.

    Attributes:
        task: The task, with fingerprints of its splits.
        model: The model's flags, and its number of parameters.
        arms: Every arm by name.
        seeds: Seeds of the runs of every arm.
        targets: Metric values whose first reaching is timed, judged at every evaluation on the validation split.
        training: Training arguments that differ from the defaults of Transformers, and the total batch size.
        versions: Versions of what computes; a difference is said, not refused.
        command: The command line that made the plan.
        tuning: The tuning grid; None: no tuning.
        arguments: Flags of the data and of the model, as `store_arguments` keeps them: what other commands load the
            task from. Paths are relative to the comparison's folder; they are not published.

    Raises:
        ValueError: If a value is impossible; the message is part of a sentence.
    """

    task: TaskRecord
    model: Mapping[str, Any]
    arms: Mapping[str, Arm]
    seeds: tuple[int, ...]
    targets: tuple[float, ...]
    training: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    tuning: Tuning | None = None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("arms", "seeds", "targets"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        if odd := [name for name, arm in self.arms.items() if name != arm.name or name.endswith(TUNED_SUFFIX)]:
            raise ValueError(f"arms holds one that cannot be called {odd[0]!r}")
        _check_seeds(self.seeds)
        metric = METRICS[self.task.metric]
        if impossible := [target for target in self.targets if not metric.above < target <= metric.at_most]:
            raise ValueError(f"targets holds {impossible[0]:g}, where there are {metric.in_words}")
        _check_distinct("targets", self.targets)
        if not any(isinstance(self.model.get(name), str) for name in ("model", "model_name_or_path")):
            raise ValueError("model names none")
        _check_training(self.training)

    def training_argument(self, name: str) -> Any:
        """A training argument: as recorded, else the default of Transformers."""
        return self.training.get(name, TrainingArguments.__dataclass_fields__[name].default)

    @property
    def budgets(self) -> list[float | None]:
        """Epochs of the runs where there are several budgets; else only None, for the one of the training arguments."""
        epochs = self.training.get("num_train_epochs")
        return list(epochs) if isinstance(epochs, list) else [None]

    def runs(self) -> list[Run]:
        """Every run that is compared, in the order in which they are made; tuned variants come after their trials."""
        return [Run(arm, seed, epochs) for seed in self.seeds for epochs in self.budgets for arm in self.arms]

    def trials(self) -> list[Run]:
        """Every run that only chooses learning rate and weight decay."""
        if self.tuning is None:
            return []
        return [
            Run(arm, self.tuning.seed, epochs, trial)
            for epochs in self.budgets
            for arm in self.arms
            for trial in self.tuning.trials()
        ]

    def settings(self, arm: Arm, trial: Trial | None = None) -> tuple[float, float]:
        """Peak learning rate and weight decay of an arm: its own, else the comparison's, times a trial's factors."""
        learning_rate = self.training_argument("learning_rate") if arm.learning_rate is None else arm.learning_rate
        weight_decay = self.training_argument("weight_decay") if arm.weight_decay is None else arm.weight_decay
        trial = trial or Trial()
        return learning_rate * trial.learning_rate, weight_decay * trial.weight_decay

    def budget(self, run: Run) -> float | None:
        """The epochs that a run was asked to train for; None where a number of steps was."""
        if self.training_argument("max_steps") > 0:
            return None
        return self.training_argument("num_train_epochs") if run.epochs is None else run.epochs

    def differences(self, other: "Plan") -> list[str]:
        """What results depend on and the two plans disagree about, as "name: this plan's and the other's"."""
        undecisive = ("versions", "command", "arguments")
        stored, requested = (
            {name: value for name, value in plan.as_json().items() if name not in undecisive} for plan in (self, other)
        )
        for content in (stored, requested):
            content["arms"] = {arm: _decisive(record) for arm, record in content["arms"].items()}
        return [line for name in stored for line in differences(name, stored[name], requested[name])]

    def as_json(self) -> dict[str, Any]:
        """The plan as ``comparison.json`` holds it."""
        return {
            "task": dict(self.task.content),
            "model": dict(self.model),
            "arms": {name: arm.record() for name, arm in self.arms.items()},
            "seeds": list(self.seeds),
            "targets": list(self.targets),
            "training": dict(self.training),
            "versions": dict(self.versions),
            "command": self.command,
            "tuning": {} if self.tuning is None else self.tuning.as_json(),
            "arguments": {name: dict(stored) for name, stored in self.arguments.items()},
        }

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of what ``comparison.json`` holds, for `hf_critmom.storage.typed.from_json`."""
        rearranged = dict(content)
        if isinstance(arms := content.get("arms"), dict):
            rearranged["arms"] = {name: named(name, record) for name, record in arms.items()}
        if content.get("tuning") == {}:
            rearranged["tuning"] = None
        return rearranged

    def write(self, folder: Path) -> None:
        """Stores the plan in a folder."""
        _FILE.write(folder, self.as_json())

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """Reads the plan of a folder.

        Raises:
            ComparisonError: If there is none, or it is damaged.
        """
        return _parsed(folder, _FILE.read(folder))


def load_or_create_plan(plan: Plan, folder: Path, *, write: bool) -> Plan:
    """The plan that governs a folder: the stored one if it is the same as this, else this, which is then stored.

    Args:
        plan: The requested plan.
        folder: The comparison's folder.
        write: Whether this process is the one that writes.

    Raises:
        ComparisonError: If the folder holds a different plan or other files, or cannot be written.
    """

    def reconcile(content: dict[str, Any], requested: dict[str, Any]) -> dict[str, Any]:
        stored = _parsed(folder, content)
        stored = dataclasses.replace(stored, model=completed_record(dict(stored.model), dict(plan.model)))
        if different := stored.differences(plan):
            raise ComparisonError(
                f"{folder} holds a comparison with a different plan ({'; '.join(different)}; stored first): "
                "repeat the stored command to continue it, or choose another --output_dir."
            )
        return content

    return _parsed(folder, _FILE.load_or_create(folder, plan.as_json(), reconcile, write=write))


def named(name: str, record: Any) -> Any:
    """An arm's record in a plan, with the name that it has there."""
    return {"name": name, **record} if isinstance(record, dict) else record


def _parsed(folder: Path, content: dict[str, Any]) -> Plan:
    try:
        plan = from_json(Plan, content)
        for name, arguments_type in (("data", DataArguments), ("model", ModelArguments)):
            known = arguments_type.__dataclass_fields__.keys() & plan.arguments.get(name, {}).keys()
            from_json(arguments_type, {flag: plan.arguments[name][flag] for flag in known}, f"arguments.{name}")
    except RecordError as error:
        raise ComparisonError(
            f"{folder / PLAN_FILE} is not the plan of a comparison ({root_message(error)}): restore it, or choose "
            "another --output_dir."
        ) from None
    return plan


def _decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's record without what only says how it is shown."""
    return {name: value for name, value in record.items() if name not in ("help", "color")}


def _check_training(training: Mapping[str, Any]) -> None:
    """Checks those training arguments that are computed with; the others are only compared and shown."""
    known = {name: training[name] for name in _Training.__dataclass_fields__ if name in training}
    from_json(_Training, known, "training")


@dataclass(frozen=True)
class _Training:
    """Types of those training arguments that are computed with."""

    learning_rate: float = 1.0
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    max_steps: int = -1
    num_train_epochs: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        epochs = self.num_train_epochs if isinstance(self.num_train_epochs, tuple) else (self.num_train_epochs,)
        if not (self.learning_rate > 0.0 and epochs and min(epochs) > 0.0):
            raise ValueError("learning_rate and num_train_epochs are not positive")
        if min(self.weight_decay, self.max_grad_norm) < 0.0:
            raise ValueError("weight_decay or max_grad_norm is negative")
        _check_distinct("num_train_epochs", [f"{one:g}" for one in epochs])  # budgets name folders in six digits


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} holds values that are not all different")


def _check_seeds(seeds: Sequence[int]) -> None:
    if odd := [seed for seed in seeds if not 0 <= seed <= LARGEST_SEED]:
        raise ValueError(f"{odd[0]} is not a seed between 0 and {LARGEST_SEED}")
    _check_distinct("seeds", seeds)
