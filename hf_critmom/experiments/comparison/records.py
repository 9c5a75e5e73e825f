"""What a comparison keeps on disk, as typed records: the one place where its files are read and checked.

Files are checked as strictly as the command line: a result belongs to the run in whose folder it lies, steps rise from
evaluation to evaluation, values are possible values of their metric.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.storage.typed import RecordError, from_json, read_json
from hf_critmom.tasks.corruptions import CORRUPTIONS, SEVERITIES
from hf_critmom.tasks.metrics import METRICS, MetricSpec

FINISHED, DIVERGED = "finished", "diverged"
CLEAN = "clean"
DRIFT_FILE = "drift.json"
LARGEST_SEED = 2**32 - 1
"""What `transformers.set_seed` takes, which seeds NumPy too."""
RESERVED_NAMES = (
    "arm",
    "seed",
    "status",
    "budget",
    "split",
    "step",
    "epoch",
    "seconds",
    "peak_learning_rate",
    "weight_decay",
)
"""Columns of the table of results that are no metrics; what a script logs by such a name is not recorded."""
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SplitRecord:
    """A split as the plan identifies it.

    Attributes:
        examples: Number of its examples.
        sha256: Fingerprint of its content.
        tokens: Number of its tokens, of text.
        bytes: Number of its bytes, of text.
    """

    examples: int
    sha256: str
    tokens: int | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples is {self.examples} instead of 1 or more")


@dataclass(frozen=True)
class TaskRecord:
    """A task as the plan identifies it.

    Attributes:
        name: What it is called.
        source: Where its data come from, for cards.
        metric: What targets are values of: a name in `METRICS`, or any that a script logs.
        splits: Its splits by name: train, validation and test.
        hub_task: The Hub's name of the kind of task.
        label_names: Names of the classes, of images.
        notes: Sentences about the data that a reader of the results must know.
        content: Everything that the plan holds of it, as JSON.
    """

    name: str
    source: str
    metric: str
    splits: Mapping[str, SplitRecord]
    hub_task: str = "image-classification"
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.is_script:
            if not isinstance(self.content.get("greater_is_better"), bool):
                raise ValueError("greater_is_better is neither true nor false")
            return
        if self.metric not in METRICS:
            raise ValueError(f"metric is {self.metric!r} instead of one of {', '.join(METRICS)}")
        if self.content.get("greater_is_better", self.greater_is_better) is not self.greater_is_better:
            raise ValueError(f"greater_is_better is not that of {self.metric}")
        if missing := [name for name in ("train", "validation", "test") if name not in self.splits]:
            raise ValueError(f"splits.{missing[0]} is missing")

    @property
    def greater_is_better(self) -> bool:
        """Whether targets are reached from below, as an accuracy's are, or from above, as a loss's."""
        return self.metric_spec.greater_is_better

    @property
    def is_script(self) -> bool:
        """Whether it is the task of the user's own script, which alone knows its data."""
        return "script" in self.content

    @property
    def metric_spec(self) -> MetricSpec:
        """The metric; one that a script logs may have any value."""
        if self.is_script:
            greater = bool(self.content.get("greater_is_better"))
            return MetricSpec(self.metric, greater, -math.inf, math.inf, "finite numbers")
        return METRICS[self.metric]

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of what a plan holds, or of `hf_critmom.tasks.Task.description`; kinds of tasks have more."""
        return {**{name: content[name] for name in cls.__dataclass_fields__ if name in content}, "content": content}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on the validation split.

    Attributes:
        step: Optimizer steps taken until then.
        epoch: Epochs trained until then.
        seconds: Seconds of training until then.
        values: Loss and metrics, and learning rate, momentum and damping ratio as last logged before; None: not finite.
    """

    step: int
    epoch: float
    seconds: float
    values: Mapping[str, float | None]

    def as_json(self) -> dict[str, Any]:
        """The evaluation as `RunResult.as_json` holds it, and as a row of the table of results."""
        return {"step": self.step, "epoch": self.epoch, "seconds": self.seconds, **self.values}

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of what a result holds: step, epoch and seconds, and the values beside them."""
        own = {name: content[name] for name in ("step", "epoch", "seconds") if name in content}
        return {**own, "values": {name: value for name, value in content.items() if name not in own}}


@dataclass(frozen=True)
class ExpectedRun:
    """What the result of a run has to agree with.

    Attributes:
        arm: The arm's name.
        seed: The seed.
        metric: Name of the metric that targets are values of.
        is_trial: Whether it is a trial, which must not know the test split.
        budget: Epochs; None: not known.
        learning_rate: Peak learning rate; None: not known.
        weight_decay: Weight decay; None: not known.
        is_script: Whether a script made it, whose metrics may have any value and need no loss beside them.
    """

    arm: str
    seed: int
    metric: str
    is_trial: bool = False
    budget: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    is_script: bool = False


@dataclass(frozen=True)
class MachineLoad:
    """How busy a machine was while a run was made: seconds of a run that had to share its cores say little.

    Attributes:
        mean: Mean over the evaluations of how many threads wanted to run in the minute before; None: not known.
        largest: The largest of these.
        cores: Cores that the run's process could use.
        workers: Processes of its launch that made runs at the same time.
        node: The machine's name.
        device: What the run was trained on.
        share: The share of the device that the run had to itself; below 1 there were other runs of its launch on it.
        retries: How often the run was lost with its process or machine before.
        data: Where batches came from: "loader", or "device" where the data lay in its memory.
    """

    mean: float | None = None
    largest: float | None = None
    cores: int | None = None
    workers: int | None = None
    node: str | None = None
    device: str | None = None
    share: float | None = None
    retries: int | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise ValueError(f"share is {self.share:g} instead of a number above 0 and up to 1")

    @property
    def disturbed(self) -> bool:
        """Whether the run shared its device with others, as far as is known: its seconds say little then."""
        return (self.share is not None and self.share < 1.0) or self.exceeds_cores

    @property
    def exceeds_cores(self) -> bool:
        """Whether more threads wanted to run than there were cores; half a thread is the system's own."""
        return None not in (self.mean, self.cores) and float(self.mean or 0.0) > float(self.cores or 0) + 0.5


@dataclass(frozen=True)
class RunResult:
    """The result of one run.

    Attributes:
        arm: The arm's name.
        seed: The seed.
        status: `FINISHED` or `DIVERGED`.
        steps: Optimizer steps taken.
        train_seconds: Seconds of training, without evaluations and saves.
        evaluations: Evaluations on the validation split, in the order of training.
        test: Loss and metrics on the test split by name; empty for a trial.
        versions: Versions of what computed, and the machine.
        budget: Requested epochs; None: steps were requested, or the result is an early one.
        learning_rate: Peak learning rate; None in early results.
        weight_decay: Weight decay; None in early results.
        trainer_seconds: Seconds that the Trainer took with training and testing.
        wall_seconds: Seconds that the run took with everything.
        load: How busy the machine was.
        threads: Threads that it computed with; None in early results.
        integrated_step: Mean over the steps of what one moves by per unit of a constant gradient; None: not known.
        shrinkage: Mean over the steps of the share by which weight decay shrinks the weights; None: not known.
        training_log: Records of the training log.
        curvature: Records of measured curvature and gradient noise, see `CurvatureCallback`; empty: not measured.
        ended_on: The split that ``test`` is of: "test", or "validation" where a script has no other.
        pairing: Fingerprints of the initial ``weights`` and of the first ``batches``, and the ``first_losses``; empty:
            not recorded, as of our own tasks, whose runs are pairs by construction.
    """

    arm: str
    seed: int
    status: str
    steps: int
    train_seconds: float
    evaluations: tuple[Evaluation, ...]
    test: Mapping[str, float | None]
    versions: Mapping[str, str]
    budget: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    trainer_seconds: float = 0.0
    wall_seconds: float = 0.0
    load: MachineLoad = MachineLoad()
    threads: int | None = None
    integrated_step: float | None = None
    shrinkage: float | None = None
    training_log: tuple[Mapping[str, float | None], ...] = ()
    curvature: tuple[Mapping[str, float | None], ...] = ()
    ended_on: str = "test"
    pairing: Mapping[str, Any] = field(default_factory=dict)

    _NOT_READ: ClassVar[tuple[str, ...]] = ("train_runtime",)

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of what a result holds; early ones have the mean load alone."""
        load = content.get("load")
        early = load is None or isinstance(load, int | float)
        return {**content, "load": {"mean": load} if early else load}

    def __post_init__(self) -> None:
        if self.status not in (FINISHED, DIVERGED):
            raise ValueError(f"status is {self.status!r} instead of {FINISHED} or {DIVERGED}")
        if self.ended_on not in ("test", "validation"):
            raise ValueError(f"ended_on is {self.ended_on!r} instead of test or validation")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed is {self.seed} instead of one between 0 and {LARGEST_SEED}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads} instead of 1 or more")
        for name in ("steps", "train_seconds", "trainer_seconds", "wall_seconds", "integrated_step", "shrinkage"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, which is negative")
        if "hardware" not in self.versions:
            raise ValueError("versions.hardware is missing")
        previous = Evaluation(-1, 0.0, 0.0, {})  # the first one may come before the first step
        for one in self.evaluations:
            if not previous.step < one.step <= self.steps:
                raise ValueError(f"its evaluations do not rise up to its last step, see step {one.step}")
            if one.epoch < previous.epoch or one.seconds < previous.seconds:
                raise ValueError(f"time runs backwards before its evaluation at step {one.step}")
            previous = one
        if previous.seconds > self.train_seconds:
            raise ValueError("its last evaluation comes after the end of training")
        if self.finished and not self.evaluations:
            raise ValueError("it finished without an evaluation")
        for record in self.curvature:
            if None in (record.get("curvature/top"), record.get("step")):
                raise ValueError("curvature holds a record without step or curvature")

    @property
    def finished(self) -> bool:
        """Whether the run ended without diverging."""
        return self.status == FINISHED

    def as_json(self) -> dict[str, Any]:
        """The result as ``result.json`` holds it."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "budget": self.budget,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "status": self.status,
            "steps": self.steps,
            "train_seconds": self.train_seconds,
            "trainer_seconds": self.trainer_seconds,
            "load": asdict(self.load),
            "threads": self.threads,
            "integrated_step": self.integrated_step,
            "shrinkage": self.shrinkage,
            "evaluations": [evaluation.as_json() for evaluation in self.evaluations],
            "test": dict(self.test),
            "training_log": [dict(record) for record in self.training_log],
            "curvature": [dict(record) for record in self.curvature],
            "versions": dict(self.versions),
            "wall_seconds": self.wall_seconds,
            **({"ended_on": self.ended_on, "pairing": dict(self.pairing)} if self.pairing else {}),
        }


@dataclass(frozen=True)
class DriftRecord:
    """Accuracies of one run's network on corrupted test images.

    Attributes:
        examples: Number of images.
        accuracy: Accuracy at each severity by corruption; `CLEAN` has a single one.
    """

    examples: int
    accuracy: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples is {self.examples} instead of 1 or more")
        for name, values in self.accuracy.items():
            if name not in (CLEAN, *CORRUPTIONS):
                raise ValueError(f"accuracy.{name} is not known")
            if len(values) != len(severities(name)) or not all(0.0 <= value <= 1.0 for value in values):
                raise ValueError(f"accuracy.{name} is not an accuracy at each severity")

    def as_json(self) -> dict[str, Any]:
        """The record as ``drift.json`` holds it."""
        return {"examples": self.examples, "accuracy": {name: list(values) for name, values in self.accuracy.items()}}


def severities(corruption: str) -> tuple[int, ...]:
    """The severities at which a corruption is measured; clean images have the severity 0 alone."""
    return (0,) if corruption == CLEAN else tuple(SEVERITIES)


def read_result(file: Path, expected: ExpectedRun) -> RunResult:
    """The result of one run.

    Args:
        file: Its ``result.json``.
        expected: What it has to agree with.

    Raises:
        ComparisonError: If it is damaged, or the result of another run.
    """
    try:
        result = from_json(RunResult, read_json(file))
        _check_result(result, expected)
    except (OSError, RecordError) as error:
        raise ComparisonError(
            f"{file} is corrupt ({root_message(error)}): delete it and repeat the comparison's command."
        ) from None
    return result


def read_drift_record(file: Path) -> DriftRecord:
    """What was measured of one run's drift.

    Raises:
        ComparisonError: If it is damaged.
    """
    try:
        return from_json(DriftRecord, read_json(file))
    except (OSError, RecordError) as error:
        raise ComparisonError(
            f"{file} is corrupt ({root_message(error)}): delete it and repeat hf-critmom drift."
        ) from None


def _check_result(result: RunResult, expected: ExpectedRun) -> None:
    """Checks that a result is that of the run in whose folder it lies."""
    for name in ("arm", "seed"):
        found, planned = getattr(result, name), getattr(expected, name)
        if found != planned:
            raise RecordError(f"it is a result of the {name} {found} instead of {planned}")
    for name in ("budget", "learning_rate", "weight_decay"):
        found, planned = getattr(result, name), getattr(expected, name)
        if None not in (found, planned) and not math.isclose(found, planned, rel_tol=_TOLERANCE):
            raise RecordError(f"it is a result of the {name.replace('_', ' ')} {found:g} instead of {planned:g}")
    for evaluation in result.evaluations:
        _check_values(evaluation.values, expected, f"its evaluation at step {evaluation.step}")
    if expected.is_trial != (not result.test):
        raise RecordError(f"it is a {'trial with' if expected.is_trial else 'run without'} values of the test split")
    if result.test:
        _check_values(result.test, expected, "its test")


def _check_values(values: Mapping[str, float | None], expected: ExpectedRun, where: str) -> None:
    if odd := [name for name in values if name in RESERVED_NAMES]:
        raise RecordError(f"{where} has a metric called {odd[0]}, which is something else")
    for name in (expected.metric,) if expected.is_script else ("loss", expected.metric):
        if name not in values:
            raise RecordError(f"{where} has no {name}")
    if expected.is_script:
        return
    for name, value in values.items():
        known: MetricSpec | None = METRICS.get(name)
        if known is not None and value is not None and not known.above <= value <= known.at_most:
            raise RecordError(f"{where} has {name} {value:g}, where there are {known.in_words}")
