"""The plan of a comparison: written before the first run, and compared with the request of every later command."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainingArguments

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.arguments import DEFAULT_MARGIN
from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX, Arm
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.records import MAX_SEED, TaskRecord
from hf_critmom.experiments.comparison.statistics.steps import step_factor
from hf_critmom.storage.plan import PlanFile, differences
from hf_critmom.storage.typed import RecordError, from_json
from hf_critmom.tasks import DataArguments, ModelArguments, completed_record

PLAN_FILE = "comparison.json"
PLAN_FILE_FORMAT = PlanFile(PLAN_FILE, "comparison", ComparisonError)


@dataclass(frozen=True)
class Trial:
    """A point of the tuning grid.

    Attributes:
        learning_rate: Factor of the arm's own learning rate.
        weight_decay: Factor of its own weight decay.
    """

    learning_rate: float = 1.0
    weight_decay: float = 1.0

    @property
    def folder(self) -> str:
        """Name of the folder of its run, within that of its arm."""
        return f"lr-{self.learning_rate:g}-wd-{self.weight_decay:g}"


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        arm: The arm's name.
        seed: The seed.
        epochs: The budget; None if the comparison has only one.
        trial: The point of the tuning grid that a trial tries; None for a compared run.
        chosen: The point of the grid that a tuned variant's run uses; None if the grid cannot grow.
        repeated: Whether it is a trial with another seed than the first of the trials, which then names its folder.
    """

    arm: str
    seed: int
    epochs: float | None = None
    trial: Trial | None = None
    chosen: Trial | None = None
    repeated: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the run, within that of the comparison."""
        budget = [] if self.epochs is None else [f"epochs-{self.epochs:g}"]
        if self.trial is not None:
            seed = f"-seed-{self.seed}" if self.repeated else ""
            return Path("runs", self.arm, *budget, "tuning", f"{self.trial.folder}{seed}")
        point = [] if self.chosen is None else [self.chosen.folder]
        return Path("runs", self.arm, *budget, *point, f"seed-{self.seed}")

    @property
    def name(self) -> str:
        """Name of the run in trackers, such as "critmom-seed-42"."""
        return "-".join(self.folder.parts[1:])

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        budget = "" if self.epochs is None else f", {self.epochs:g} epochs"
        if self.trial is None:
            return f"{self.arm}{budget}, seed {self.seed}"
        factors = f"lr x {self.trial.learning_rate:g}, weight decay x {self.trial.weight_decay:g}"
        return f"{self.arm}{budget}, trial of {factors}{f', seed {self.seed}' if self.repeated else ''}"


@dataclass(frozen=True)
class Tuning:
    """The tuning grid of every arm.

    Attributes:
        learning_rate: Factors of the arm's own learning rate or mean step.
        weight_decay: Factors of its own weight decay.
        seed: Seed of the first trial of each point, which no compared run has.
        unit: What the factors in ``learning_rate`` multiply: "learning_rate" or "step".
        chosen_by: Criterion of the best trial: "time" to the planned targets, or, in early plans, the "last"
            evaluation.
        can_grow: Whether points can be added to the grid. Then runs of a tuned variant lie in a folder named after
            their point, so that they are kept when a larger grid chooses another one. Grids of early plans cannot grow.
        more_seeds: Seeds of further trials of each point, which no compared run has either.
    """

    learning_rate: tuple[float, ...]
    weight_decay: tuple[float, ...]
    seed: int
    unit: str = "learning_rate"
    chosen_by: str = "last"
    can_grow: bool = False
    more_seeds: tuple[int, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the trials of each point."""
        return (self.seed, *self.more_seeds)

    @property
    def factors(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The factors that make the points of the grid."""
        return self.learning_rate, self.weight_decay

    def __post_init__(self) -> None:
        for name, factors, least in (
            ("learning_rate", self.learning_rate, "positive"),
            ("weight_decay", self.weight_decay, "not negative"),
        ):
            if any(factor < 0.0 or (factor == 0.0 and least == "positive") for factor in factors):
                raise ValueError(f"{name} holds factors that are not all {least}")
            _check_distinct(name, factors)
        _check_seeds(self.seeds)
        if self.unit not in ("learning_rate", "step") or self.chosen_by not in ("time", "last"):
            raise ValueError(f"unit {self.unit!r} or chosen_by {self.chosen_by!r} is not known")

    def trials(self, arm: Arm, learning_rate: float) -> list[Trial]:
        """The points of an arm's grid.

        Args:
            arm: The arm.
            learning_rate: The arm's own learning rate.
        """
        factors = self.learning_rate
        if self.unit == "step":
            factors = tuple(step_factor(arm.optimizer, arm.options, learning_rate, factor) for factor in factors)
        return [Trial(*point) for point in itertools.product(factors, self.weight_decay)]

    def can_add(self, requested: "Tuning") -> bool:
        """Whether a requested grid differs only in its points and further seeds, and these can be added."""
        grown = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "more_seeds")}
        return self.can_grow and replace(requested, **grown) == self

    def joined_with(self, requested: "Tuning") -> "Tuning":
        """The grid with the points and seeds of a requested one added."""
        return replace(
            self,
            learning_rate=_merge_factors(self.learning_rate, requested.learning_rate),
            weight_decay=_merge_factors(self.weight_decay, requested.weight_decay),
            more_seeds=tuple(dict.fromkeys((*self.more_seeds, *requested.more_seeds))),
        )


@dataclass(frozen=True)
class LookPlan:
    """When the verdicts of a comparison are looked at, by number of seeds.

    Attributes:
        first: Number of seeds at the first planned look.
        last: Number of seeds at the last planned look; that of the first look in a comparison of fixed size.
    """

    first: int
    last: int

    _NOT_READ: ClassVar[tuple[str, ...]] = ("made",)  # early plans, which were looked at less often

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"first is {self.first} and last {self.last}, where 1 <= first <= last")


@dataclass(frozen=True)
class Extension:
    """What a command added to a comparison; the first entry of a history is the first command.

    Attributes:
        date: Time of the command in UTC, as ISO 8601; empty if it was not recorded.
        command: The command line.
        arms: Names of the added arms.
        seeds: The added seeds.
        targets: The added targets.
        finished: Number of runs that were finished before.
        tuning: Whether points were added to the tuning grid.
        tried: Names of the arms whose trials were asked for by an addition to the grid, or later by this command.
        trial_seeds: Seeds that were added to the trials; of a grid that was added, all but the first.
        seeds_for: Names of the arms to which the seeds were added, and of tuned variants that gained others than their
            arms; empty if it was every arm with its variant.
    """

    date: str
    command: str
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    targets: tuple[float, ...] = ()
    finished: int = 0
    tuning: bool = False
    tried: tuple[str, ...] = ()
    trial_seeds: tuple[int, ...] = ()
    seeds_for: tuple[str, ...] = ()

    @property
    def adds_trials(self) -> bool:
        """Whether points or seeds were added to the tuning grid."""
        return self.tuning or bool(self.trial_seeds)


@dataclass(frozen=True)
class Plan:
    """Everything that the results of a comparison depend on.

    Task, model, training, threads and margin are its conditions, which cannot change. Arms, seeds, targets, claims and
    the tuning grid are its extent, which can grow.

    Attributes:
        task: The task, with fingerprints of its splits.
        model: The model's flags, and its number of parameters.
        arms: The arms by name.
        seeds: The seeds with which the arms are run.
        targets: Values of the validation metric, the time to each of which is measured.
        training: Training arguments that differ from the defaults of Transformers, the total batch size, and the
            evaluations per epoch if there are several.
        versions: Versions of the libraries, and the hardware; a difference is reported, not refused.
        command: The latest command line that covered the whole extent; those of the parts of a merged comparison,
            joined by ``&&``.
        tuning: The tuning grid; None without tuning.
        arguments: Flags of the data and the model, as `store_arguments` keeps them, from which other commands load the
            task. Paths are relative to the comparison's folder; they are not published.
        threads: Number of threads of each run; None in early plans, which may state it with the hardware.
        baseline: The arm that the others are compared with; None in early plans.
        margin: Relative difference of times that still counts as none.
        claims: The user's claims, such as "critmom < adamw".
        later_claims: Those of `claims` that were added when their arms had results, which could have been their reason:
            they weigh no more than other pairs of arms.
        exploratory_targets: Targets that were added after the first result, which enter no headline.
        looks: When the verdicts are looked at; None in requests and early plans: once, with all seeds.
        history: How the comparison grew, beginning with its first command.
        left_out: Seeds with which an arm is not run, because they were added to others only, by name of the arm. Its
            tuned variant leaves out the same ones, unless it has an entry of its own, which may be empty.

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
    threads: int | None = None
    baseline: str | None = None
    margin: float = DEFAULT_MARGIN
    claims: tuple[str, ...] = ()
    exploratory_targets: tuple[float, ...] = ()
    looks: LookPlan | None = None
    history: tuple[Extension, ...] = ()
    later_claims: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("arms", "seeds", "targets"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        if odd := [name for name, arm in self.arms.items() if name != arm.name or name.endswith(TUNED_SUFFIX)]:
            raise ValueError(f"arms holds one with the impossible name {odd[0]!r}")
        _check_seeds(self.seeds)
        if not {*self.left_out} <= {*with_tuned(self.arms)}:
            raise ValueError("left_out holds one that is not among the arms")
        if not {*itertools.chain(*self.left_out.values())} <= {*self.seeds}:
            raise ValueError("left_out holds one that is not among the seeds")
        for arm, seeds in self.left_out.items():
            if seeds or arm in self.arms:
                _check_distinct(f"left_out of {arm}", seeds)
            if len(seeds) == len(self.seeds):
                raise ValueError(f"left_out of {arm} holds every seed")
        metric = self.task.metric_spec
        every_target = [*self.targets, *self.exploratory_targets]
        if impossible := [target for target in every_target if not metric.above < target <= metric.at_most]:
            raise ValueError(f"targets holds {impossible[0]:g}, where there are {metric.in_words}")
        _check_distinct("targets", self.targets)
        if set(self.targets) & set(self.exploratory_targets):
            raise ValueError("exploratory_targets holds planned targets")
        if not {*self.later_claims} <= {*self.claims}:
            raise ValueError("later_claims holds one that is not among the claims")
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(f"baseline is {self.baseline!r}, which is not among the arms")
        if not 0.0 < self.margin < 10.0:
            raise ValueError(f"margin is {self.margin:g} instead of a number above 0 and below 10")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads} instead of 1 or more")
        if self.tuning is not None and (shared := sorted({*self.tuning.seeds} & {*self.seeds})):
            raise ValueError(f"{shared[0]} is a seed of the trials and one of the compared runs")
        if not any(isinstance(self.model.get(name), str) for name in ("model", "model_name_or_path")):
            raise ValueError("model has no model or model_name_or_path")
        _check_training(self.training)

    def training_argument(self, name: str) -> Any:
        """A training argument: the recorded value, else the default of Transformers."""
        return self.training.get(name, TrainingArguments.__dataclass_fields__[name].default)

    @property
    def budgets(self) -> list[float | None]:
        """The budgets in epochs; with a single budget only None, which stands for that of the training arguments."""
        epochs = self.training.get("num_train_epochs")
        return list(epochs) if isinstance(epochs, list) else [None]

    @property
    def baseline_arm(self) -> str:
        """The arm that the others are compared with: in early plans, which do not name it, constant momentum."""
        return self.baseline or ("constant" if "constant" in self.arms else next(iter(self.arms)))

    @property
    def planned_looks(self) -> LookPlan:
        """When the verdicts are looked at: in requests and early plans, which do not say it, once, with all seeds."""
        return self.looks or LookPlan(len(self.seeds), len(self.seeds))

    @property
    def recorded_threads(self) -> int | None:
        """Number of threads of each run; early plans state it with the hardware, for CPUs only."""
        if self.threads is not None:
            return self.threads
        pattern = r"(\d+) CPU cores \(.*?(?:, (\d+) threads? per process)?\)"
        found = re.fullmatch(pattern, self.versions.get("hardware", ""))
        return None if found is None else int(found[2] or found[1])

    def runs(self) -> list[Run]:
        """Every compared run in the order in which they are made, except those of tuned variants."""
        return [
            Run(arm, seed, epochs)
            for seed in self.seeds
            for epochs in self.budgets
            for arm in self.arms
            if seed not in self.seeds_left_out(arm)
        ]

    def seeds_left_out(self, name: str) -> tuple[int, ...]:
        """The seeds with which an arm, or a tuned variant by its name, is not run."""
        return self.left_out.get(name, self.left_out.get(name.removesuffix(TUNED_SUFFIX), ()))

    def seeds_of(self, arms: Iterable[str]) -> tuple[int, ...]:
        """The seeds with which at least one of some arms and tuned variants is run, in the order of the plan."""
        left_out = set(self.seeds).intersection(*(self.seeds_left_out(arm) for arm in arms))
        return tuple(seed for seed in self.seeds if seed not in left_out)

    def first_seeds_of(self, arms: Iterable[str]) -> tuple[int, ...]:
        """The first seeds, up to one that an arm or tuned variant lacks: by them the claims about these are judged."""
        lacking = self.seeds_lacking(arms)
        return tuple(itertools.takewhile(lambda seed: seed not in lacking, self.seeds))

    def seeds_lacking(self, arms: Iterable[str]) -> set[int]:
        """The seeds with which at least one of some arms and tuned variants is not run."""
        return {seed for arm in arms for seed in self.seeds_left_out(arm)}

    def trials(self) -> list[Run]:
        """Every trial, whose only use is the choice of learning rate and weight decay."""
        if self.tuning is None:
            return []
        return [
            Run(arm, seed, epochs, trial, repeated=seed != self.tuning.seed)
            for seed in self.tuning.seeds
            for epochs in self.budgets
            for arm, described in self.arms.items()
            for trial in self.tuning.trials(described, self.settings(described)[0])
        ]

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """Seeds of the trials; empty without tuning."""
        return () if self.tuning is None else self.tuning.seeds

    def settings(self, arm: Arm, trial: Trial | None = None) -> tuple[float, float]:
        """Peak learning rate and weight decay of an arm: its own, else the comparison's, times the trial's factors."""
        learning_rate = self.training_argument("learning_rate") if arm.learning_rate is None else arm.learning_rate
        weight_decay = self.training_argument("weight_decay") if arm.weight_decay is None else arm.weight_decay
        trial = trial or Trial()
        return learning_rate * trial.learning_rate, weight_decay * trial.weight_decay

    def budget(self, run: Run) -> float | None:
        """The epochs that a run trains for; None if ``max_steps`` is set instead."""
        if self.training_argument("max_steps") > 0:
            return None
        return self.training_argument("num_train_epochs") if run.epochs is None else run.epochs

    def differences(self, other: "Plan") -> list[str]:
        """The conditions, and arms of the same name, in which two plans differ: "name: this plan's and the other's".

        What an early plan did not record about its task or threads does not count as a difference.
        """
        stored, requested = self._conditions(), other._conditions()
        stored["model"] = completed_record(stored["model"], requested["model"])
        requested["task"] = {name: value for name, value in requested["task"].items() if name in stored["task"]}
        if None in (stored["threads"], requested["threads"]):
            stored["threads"] = requested["threads"]
        for plan, content in ((self, stored), (other, requested)):
            common = [name for name in self.arms if name in other.arms]
            content["arms"] = {name: _decisive(plan.arms[name].record()) for name in common}
        return [line for name in stored for line in differences(name, stored[name], requested[name])]

    def _conditions(self) -> dict[str, Any]:
        """The conditions of the comparison, as JSON."""
        content = self.as_json()
        task = {name: value for name, value in content["task"].items() if name not in ("name", "source", "notes")}
        names = ("model", "training", "tuning", "margin")
        return {"task": task, **{name: content[name] for name in names}, "threads": self.recorded_threads}

    def as_json(self) -> dict[str, Any]:
        """The plan as ``comparison.json`` holds it."""
        return {
            "task": dict(self.task.content),
            "model": dict(self.model),
            "arms": {name: arm.record() for name, arm in self.arms.items()},
            "seeds": list(self.seeds),
            **({"left_out": {arm: list(seeds) for arm, seeds in self.left_out.items()}} if self.left_out else {}),
            "targets": list(self.targets),
            "training": dict(self.training),
            "versions": dict(self.versions),
            "command": self.command,
            "tuning": {} if self.tuning is None else _as_json(self.tuning, "can_grow", "more_seeds"),
            "arguments": {name: dict(stored) for name, stored in self.arguments.items()},
            "threads": self.threads,
            "baseline": self.baseline,
            "margin": self.margin,
            "claims": list(self.claims),
            **({"later_claims": list(self.later_claims)} if self.later_claims else {}),
            "exploratory_targets": list(self.exploratory_targets),
            "looks": None if self.looks is None else _as_json(self.looks),
            "history": [
                _as_json(extension, "tuning", "tried", "trial_seeds", "seeds_for") for extension in self.history
            ],
        }

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a stored plan, for `hf_critmom.storage.typed.from_json`."""
        fields_of_plan = dict(content)
        if isinstance(arms := content.get("arms"), dict):
            fields_of_plan["arms"] = {
                name: {"name": name, **record} if isinstance(record, dict) else record for name, record in arms.items()
            }
        if content.get("tuning") == {}:
            fields_of_plan["tuning"] = None
        return fields_of_plan

    def write(self, folder: Path) -> None:
        """Stores the plan in a folder."""
        PLAN_FILE_FORMAT.write(folder, self.as_json())

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """Reads the plan of a folder.

        Raises:
            ComparisonError: If there is none, or it is damaged.
        """
        return cls.parse(folder, PLAN_FILE_FORMAT.read(folder))

    @classmethod
    def parse(cls, folder: Path, content: dict[str, Any]) -> "Plan":
        """The plan from the content of a folder's ``comparison.json``.

        Raises:
            ComparisonError: If it is damaged.
        """
        try:
            plan = from_json(cls, content)
            for name, arguments_type in (("data", DataArguments), ("model", ModelArguments)):
                known = arguments_type.__dataclass_fields__.keys() & plan.arguments.get(name, {}).keys()
                from_json(arguments_type, {flag: plan.arguments[name][flag] for flag in known}, f"arguments.{name}")
        except RecordError as error:
            raise ComparisonError(
                f"{folder / PLAN_FILE} is not the plan of a comparison ({root_message(error)}): restore it, or choose "
                "another --output_dir."
            ) from None
        return plan


def with_tuned(arms: Iterable[str]) -> list[str]:
    """Names of arms, each followed by that of its tuned variant."""
    return [name for arm in arms for name in (arm, f"{arm}{TUNED_SUFFIX}")]


def left_out_by_name(left_out: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """`Plan.left_out` from the seeds that every arm and tuned variant leaves out, where each is named or follows.

    Args:
        left_out: The seeds by name, an arm's before those of its tuned variant.
    """
    named = {}
    for name, seeds in left_out.items():
        arm = name.removesuffix(TUNED_SUFFIX)
        followed = left_out.get(arm, ()) if name != arm else ()
        if {*seeds} != {*followed}:
            named[name] = tuple(seeds)
    return named


def _decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's record without how it is shown in reports."""
    return {name: value for name, value in record.items() if name not in ("help", "color")}


def _check_training(training: Mapping[str, Any]) -> None:
    """Checks the training arguments that enter computations; the others are only compared and shown."""
    known = {name: training[name] for name in _Training.__dataclass_fields__ if name in training}
    from_json(_Training, known, "training")


@dataclass(frozen=True)
class _Training:
    """Types of the training arguments that enter computations."""

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


def _as_json(record: Any, *added: str) -> dict[str, Any]:
    """A dataclass as JSON.

    Args:
        record: The dataclass.
        added: Fields that earlier versions did not store; they are left out at their defaults.
    """
    defaults = {part.name: part.default for part in fields(record)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(record).items()
        if name not in added or value != defaults[name]
    }


def _merge_factors(own: Sequence[float], others: Sequence[float]) -> tuple[float, ...]:
    """The factors of both; factors that are equal in six digits, with which folders are named, are the same."""
    return tuple(sorted({f"{factor:g}": factor for factor in (*others, *own)}.values()))


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} is empty or holds a value twice")


def _check_seeds(seeds: Sequence[int]) -> None:
    if odd := [seed for seed in seeds if not 0 <= seed <= MAX_SEED]:
        raise ValueError(f"{odd[0]} is not a seed between 0 and {MAX_SEED}")
    _check_distinct("seeds", seeds)
