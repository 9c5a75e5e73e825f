"""What a comparison stores of its task, its runs and their drift, as typed records that are checked when they are read.

Files are checked as strictly as the command line: a result must belong to the run in whose folder it lies, steps must
rise from evaluation to evaluation, and values must be possible for their metric.
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
MAX_SEED = 2**32 - 1
"""Largest seed that `transformers.set_seed` accepts, because it seeds NumPy too."""
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
"""Columns of the table of results that are no metrics; a metric that a script logs by such a name is not recorded."""
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SplitRecord:
    """A split as the plan identifies it.

    Attributes:
        examples: Number of examples.
        sha256: Fingerprint of the content.
        tokens: Number of tokens of a text; None for images.
        bytes: Number of bytes of a text; None for images.
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
        name: Name of the task.
        source: Where the data comes from, for cards.
        metric: Metric whose values the targets are: a name in `METRICS`, or one that a script logs.
        splits: Splits by name: train, validation and test.
        hub_task: The Hub's name for this kind of task.
        label_names: Names of the classes, if it classifies images.
        notes: Sentences about the data that readers of the results must know.
        content: Everything that the plan stores about the task, as JSON.
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
        """Whether larger values are better, as of an accuracy, or smaller ones, as of a loss."""
        return self.metric_spec.greater_is_better

    @property
    def is_script(self) -> bool:
        """Whether it is the task of the user's own script, which loads its data by itself."""
        return "script" in self.content

    @property
    def metric_spec(self) -> MetricSpec:
        """The metric; one that a script logs may have any finite value."""
        if self.is_script:
            greater = bool(self.content.get("greater_is_better"))
            return MetricSpec(self.metric, greater, -math.inf, math.inf, "finite numbers")
        return METRICS[self.metric]

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a stored task, or of `hf_critmom.tasks.Task.description`; ``content`` keeps all others."""
        return {**{name: content[name] for name in cls.__dataclass_fields__ if name in content}, "content": content}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on the validation split.

    Attributes:
        step: Optimizer steps taken until then.
        epoch: Epochs trained until then.
        seconds: Seconds of training until then.
        values: Loss and metrics, and learning rate, momentum and damping ratio as last logged before; None stands for
            a value that is not finite.
    """

    step: int
    epoch: float
    seconds: float
    values: Mapping[str, float | None]

    def as_json(self) -> dict[str, Any]:
        """The evaluation as stored in a result, and as a row of the table of results."""
        return {"step": self.step, "epoch": self.epoch, "seconds": self.seconds, **self.values}

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a stored evaluation, whose values lie beside step, epoch and seconds."""
        own = {name: content[name] for name in ("step", "epoch", "seconds") if name in content}
        return {**own, "values": {name: value for name, value in content.items() if name not in own}}


@dataclass(frozen=True)
class ExpectedRun:
    """What the result of a run must agree with.

    Attributes:
        arm: The arm's name.
        seed: The seed.
        metric: Name of the metric whose values the targets are.
        is_trial: Whether the run is a trial, which must not read the test split.
        budget: Budget in epochs; None if it is not known.
        learning_rate: Peak learning rate; None if it is not known.
        weight_decay: Weight decay; None if it is not known.
        is_script: Whether the run is a script's, whose metrics may have any value and need no loss beside them.
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
    """How busy the machine was during a run: seconds of a run that shared its cores or device are not comparable.

    Attributes:
        mean: Mean over the evaluations of the load average of the minute before; None if it is not known.
        largest: Largest of these load averages.
        cores: Number of cores that the run's process could use.
        workers: Number of processes of the launch that made runs at the same time.
        node: Name of the machine.
        device: Name of the device on which the run was trained.
        share: Share of the device that the run had; below 1 if other runs of the launch were on it.
        retries: Number of times that the run was lost with its process or machine before.
        data: Where batches came from: "loader", or "device" if the data was in the device's memory.
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
        """Whether the run is known to have shared its device, or cores, with others, so that its seconds say little."""
        return (self.share is not None and self.share < 1.0) or self.exceeds_cores

    @property
    def exceeds_cores(self) -> bool:
        """Whether the load average exceeded the number of cores; 0.5 is allowed for the operating system."""
        return self.mean is not None and self.cores is not None and self.mean > self.cores + 0.5


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
        versions: Versions of the libraries, and the hardware.
        budget: Requested epochs; None if steps were requested, and in early results.
        learning_rate: Peak learning rate; None in early results.
        weight_decay: Weight decay; None in early results.
        trainer_seconds: Seconds that the Trainer took for training and testing.
        wall_seconds: Seconds of the whole run.
        load: How busy the machine was.
        threads: Number of threads; None in early results.
        integrated_step: Mean integrated step: how far a step moves per unit of a constant gradient
            (`hf_critmom.damping.integrated_steps`); None if it is not known.
        shrinkage: Mean share by which weight decay shrinks the weights in a step; None if it is not known.
        training_log: Records of the training log.
        curvature: Records of measured curvature and gradient noise, see `CurvatureCallback`; empty if not measured.
        ended_on: Split of the values in ``test``: "test", or "validation" if a script has no test split.
        pairing: Fingerprints of the initial ``weights`` and the first ``batches``, and the ``first_losses``; empty for
            our own tasks, whose runs are paired by construction.
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
        """The fields of a stored result; early ones stored only the mean of the load."""
        load = content.get("load")
        early = load is None or isinstance(load, int | float)
        return {**content, "load": {"mean": load} if early else load}

    def __post_init__(self) -> None:
        if self.status not in (FINISHED, DIVERGED):
            raise ValueError(f"status is {self.status!r} instead of {FINISHED} or {DIVERGED}")
        if self.ended_on not in ("test", "validation"):
            raise ValueError(f"ended_on is {self.ended_on!r} instead of test or validation")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed} instead of a number between 0 and {MAX_SEED}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads} instead of 1 or more")
        for name in ("steps", "train_seconds", "trainer_seconds", "wall_seconds", "integrated_step", "shrinkage"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, which is negative")
        if "hardware" not in self.versions:
            raise ValueError("versions.hardware is missing")
        previous = Evaluation(-1, 0.0, 0.0, {})  # the first evaluation may come before the first step
        for one in self.evaluations:
            if not previous.step < one.step <= self.steps:
                raise ValueError(f"evaluations do not rise up to the last step, see step {one.step}")
            if one.epoch < previous.epoch or one.seconds < previous.seconds:
                raise ValueError(f"time runs backwards before the evaluation at step {one.step}")
            previous = one
        if previous.seconds > self.train_seconds:
            raise ValueError("the last evaluation comes after the end of training")
        if self.finished and not self.evaluations:
            raise ValueError("it finished without an evaluation")
        for record in self.curvature:
            if None in (record.get("curvature/top"), record.get("step")):
                raise ValueError("curvature holds a record without step or curvature/top")

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
        accuracy: Accuracies at each severity, by corruption; a single one for `CLEAN`.
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
                raise ValueError(f"accuracy.{name} does not hold an accuracy for each severity")

    def as_json(self) -> dict[str, Any]:
        """The record as ``drift.json`` holds it."""
        return {"examples": self.examples, "accuracy": {name: list(values) for name, values in self.accuracy.items()}}


def severities(corruption: str) -> tuple[int, ...]:
    """The severities at which a corruption is measured; only 0 for clean images."""
    return (0,) if corruption == CLEAN else tuple(SEVERITIES)


def read_result(file: Path, expected: ExpectedRun) -> RunResult:
    """Reads the result of one run.

    Args:
        file: The run's ``result.json``.
        expected: What the result must agree with.

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
    """Reads the drift of one run.

    Raises:
        ComparisonError: If the file is damaged.
    """
    try:
        return from_json(DriftRecord, read_json(file))
    except (OSError, RecordError) as error:
        raise ComparisonError(
            f"{file} is corrupt ({root_message(error)}): delete it and repeat hf-critmom drift."
        ) from None


def _check_result(result: RunResult, expected: ExpectedRun) -> None:
    """Checks that a result belongs to the run in whose folder it lies."""
    for name in ("arm", "seed"):
        found, planned = getattr(result, name), getattr(expected, name)
        if found != planned:
            raise RecordError(f"it is a result of the {name} {found} instead of {planned}")
    for name in ("budget", "learning_rate", "weight_decay"):
        found, planned = getattr(result, name), getattr(expected, name)
        if None not in (found, planned) and not math.isclose(found, planned, rel_tol=_TOLERANCE):
            raise RecordError(f"it is a result of the {name.replace('_', ' ')} {found:g} instead of {planned:g}")
    for evaluation in result.evaluations:
        _check_values(evaluation.values, expected, f"the evaluation at step {evaluation.step}")
    if expected.is_trial != (not result.test):
        raise RecordError(f"it is a {'trial with' if expected.is_trial else 'run without'} values on the test split")
    if result.test:
        _check_values(result.test, expected, "test")


def _check_values(values: Mapping[str, float | None], expected: ExpectedRun, where: str) -> None:
    if odd := [name for name in values if name in RESERVED_NAMES]:
        raise RecordError(f"{where} has a metric called {odd[0]}, which is the name of another column")
    for name in (expected.metric,) if expected.is_script else ("loss", expected.metric):
        if name not in values:
            raise RecordError(f"{where} has no {name}")
    if expected.is_script:
        return
    for name, value in values.items():
        known: MetricSpec | None = METRICS.get(name)
        if known is not None and value is not None and not known.above <= value <= known.at_most:
            raise RecordError(f"{where} has {name} {value:g}, where there are {known.in_words}")
