"""Flags of a comparison, beside those of the data, the model and training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.tasks import DataArguments, ModelArguments
from hf_critmom.training.arguments import CommandTrainingArguments

DEFAULT_ARMS = ("constant", "matched", "critmom", "hybrid")
DEFAULT_SEEDS, FIRST_LOOK, DEFAULT_MAX_SEEDS = 5, 3, 10
LARGEST_NUMBER_OF_SEEDS = 1000
LARGEST_FACTOR = 1e6
DEFAULT_MARGIN = 0.1
LARGEST_EVALUATIONS_PER_EPOCH = 1000
GRID_FLAGS = ("learning_rate_grid", "step_grid", "weight_decay_grid")
"""Flags that give points of the tuning grid."""
CADENCE_FLAGS = frozenset({"eval_strategy", "eval_steps", "evaluations_per_epoch"})
"""Flags that say how often a run is evaluated."""


@dataclass
class ComparisonArguments:
    """Flags that say what is compared.

    None means: as in the comparison in the folder; for a new one as the help says.
    """

    _argument_group_name: ClassVar[str] = "comparison"

    arms: list[str] | None = field(
        default=None,
        metadata={
            "help": "Methods to compare: names of arms, a set of them (paper, fair, strong), or optimizers of others, "
            "such as timm:lion, optim:adafactor or torch.optim.RAdam, with options in brackets: timm:lion[lr=1e-4]. "
            f"Default: {' '.join(DEFAULT_ARMS)}."
        },
    )
    arms_file: str | None = field(
        default=None, metadata={"help": "A TOML or JSON file with further arms: a table per arm, see the README."}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "The arm that the others are compared with; default: the first one."}
    )
    claim: list[str] | None = field(
        default=None,
        metadata={
            "help": 'Claims to test, such as "critmom < adamw": critmom takes fewer steps than adamw; "critmom < all": '
            "than every other arm. Default: every arm against the baseline, and the paper's claims."
        },
    )
    margin: float | None = field(
        default=None,
        metadata={"help": f"Relative difference of times that counts as none; default: {DEFAULT_MARGIN}."},
    )
    num_seeds: int | None = field(
        default=None,
        metadata={
            "help": "Runs of every arm: --seed, --seed + 1, ... The arms share them in pairs. More seeds than a "
            f"comparison has are added to it. Default: {DEFAULT_SEEDS}."
        },
    )
    until_decided: bool = field(
        default=False,
        metadata={"help": "Add a seed to every arm until every claim is decided, or --max_seeds are used."},
    )
    max_seeds: int | None = field(
        default=None, metadata={"help": f"Most seeds that --until_decided uses; default: {DEFAULT_MAX_SEEDS}."}
    )
    targets: list[float] | None = field(
        default=None,
        metadata={"help": "Values of the validation metric whose first reaching is timed; default: the task's."},
    )
    learning_rate_grid: list[float] | None = field(
        default=None,
        metadata={
            "help": "Tune every arm as well: factors of its own learning rate to try, with one seed that no compared "
            "run has; the best by validation is then compared beside the untuned arm."
        },
    )
    step_grid: list[float] | None = field(
        default=None,
        metadata={
            "help": "The same as factors of each arm's own mean step, lr / (1 - momentum): under critical momentum, "
            "whose step grows with the root of the learning rate, a factor of 3 is 9 times the learning rate."
        },
    )
    weight_decay_grid: list[float] | None = field(
        default=None, metadata={"help": "The same for its own weight decay; with both, every pair is tried."}
    )
    measure_curvature: bool = field(
        default=False,
        metadata={
            "help": "Measure curvature and gradient noise at five points of each arm's run with the first seed, if it "
            "is still to be made; the report then says whether momentum can matter. Results stay the same."
        },
    )

    def __post_init__(self) -> None:
        for flag, factors, least in (
            ("learning_rate_grid", self.learning_rate_grid, "positive"),
            ("step_grid", self.step_grid, "positive"),
            ("weight_decay_grid", self.weight_decay_grid, "not negative"),
        ):
            for factor in factors or ():
                if not (0.0 <= factor <= LARGEST_FACTOR and (factor > 0.0 or least == "not negative")):
                    raise ComparisonError(
                        f"--{flag} takes factors that are {least} and at most {LARGEST_FACTOR:,.0f}, got {factor:g}."
                    )
            _check_folders(flag, factors or ())
        for flag, most in (
            ("num_seeds", LARGEST_NUMBER_OF_SEEDS),
            ("max_seeds", LARGEST_NUMBER_OF_SEEDS),
        ):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise ComparisonError(f"--{flag} must be at least 1, got {value}.")
            if value is not None and value > most:
                raise ComparisonError(f"--{flag} must be at most {most:,}, got {value:,}.")
        if self.learning_rate_grid and self.step_grid:
            raise ComparisonError("--learning_rate_grid and --step_grid both choose learning rates: give one of them.")
        if self.margin is not None and not 0.0 < self.margin < 10.0:
            raise ComparisonError(f"--margin must be above 0 and below 10, such as 0.1 for 10 %, got {self.margin:g}.")
        if self.max_seeds is not None and not self.until_decided:
            raise ComparisonError("--max_seeds is about --until_decided: give that too, or use --num_seeds.")
        if self.arms is not None and not self.arms:
            raise ComparisonError("--arms needs at least one arm.")


@dataclass
class ComparisonTrainingArguments(CommandTrainingArguments):
    """`TrainingArguments` with the defaults of a comparison; every one is a flag and is recorded with the results."""

    _argument_group_name: ClassVar[str] = "training (--help_all shows all TrainingArguments)"
    decided: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("adam_beta1", "adam_beta2", "adam_epsilon"), "every arm brings its own, see --arms"
    )

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the comparison; default: comparison-TASK in the current folder."}
    )
    num_train_epochs: list[float] = field(
        default_factory=lambda: [3.0], metadata={"help": "Budget in epochs; several are compared one by one."}
    )
    learning_rate: float = field(
        default=0.1, metadata={"help": "Peak learning rate of every arm that does not bring its own."}
    )
    weight_decay: float = field(
        default=5e-4, metadata={"help": "Weight decay of every arm that does not bring its own."}
    )
    eval_strategy: str | None = field(
        default=None,
        metadata={"help": "When the validation metric is measured: epoch, or steps with --eval_steps; default: epoch."},
    )
    evaluations_per_epoch: int | None = field(
        default=None,
        metadata={
            "help": "Evaluations in each epoch, at equal distances; default: 4, fewer where they would take more than "
            "15 %% of the time of training."
        },
    )
    logging_steps: float = field(default=0.01, metadata={"help": "Training log interval; below 1: a share of all."})
    save_strategy: str = field(
        default="no",
        metadata={"help": "When checkpoints are written, from which an interrupted run continues: no, epoch, steps."},
    )

    def __post_init__(self) -> None:
        default_optim = TrainingArguments.__dataclass_fields__["optim"].default
        if self.optim != default_optim or self.optim_args:
            raise ComparisonError("--optim and --optim_args are decided by each arm of a comparison: use --arms.")
        if self.data_seed is not None:
            raise ComparisonError("--data_seed is decided by each run's seed, which orders its data: use --seed.")
        epochs: list[float] | float = self.num_train_epochs
        self.budgets = sorted(epochs) if isinstance(epochs, list) else [epochs]
        self.num_train_epochs = self.budgets[-1]  # type: ignore[assignment]  # a number is what the Trainer reads
        if self.max_steps <= 0 and not self.budgets[0] > 0.0:
            raise ComparisonError(f"--num_train_epochs must be positive, got {self.budgets[0]:g}.")
        if len(set(self.budgets)) < len(self.budgets) or (self.max_steps > 0 and len(self.budgets) > 1):
            raise ComparisonError(
                "--num_train_epochs with several budgets takes each once, and no --max_steps, which would decide alone."
            )
        _check_folders("num_train_epochs", self.budgets)
        self._settle_evaluations()
        super().__post_init__()

    def _settle_evaluations(self) -> None:
        """Checks how often runs are evaluated; ``evaluations_per_epoch`` stays None where no flag says it."""
        strategy = getattr(self.eval_strategy, "value", self.eval_strategy)
        if strategy == "no":
            raise ComparisonError("--eval_strategy no leaves nothing to compare: use epoch or steps.")
        if self.evaluations_per_epoch is not None:
            if not 1 <= self.evaluations_per_epoch <= LARGEST_EVALUATIONS_PER_EPOCH:
                raise ComparisonError(
                    f"--evaluations_per_epoch must be between 1 and {LARGEST_EVALUATIONS_PER_EPOCH:,}, got "
                    f"{self.evaluations_per_epoch}."
                )
            if strategy == "steps":
                raise ComparisonError(
                    "--evaluations_per_epoch and --eval_strategy steps contradict each other: give one of them."
                )
        if strategy is None:
            strategy = "epoch" if self.eval_steps is None or self.evaluations_per_epoch is not None else "steps"
        elif strategy == "epoch" and self.evaluations_per_epoch is None:
            self.evaluations_per_epoch = 1
        self.eval_strategy = strategy

    @property
    def cadence_is_open(self) -> bool:
        """Whether no flag says how often to evaluate."""
        return self.eval_strategy == IntervalStrategy.EPOCH and self.evaluations_per_epoch is None


@dataclass(frozen=True)
class ComparisonRequest:
    """A comparison as the command line describes it.

    Attributes:
        comparison: What is compared.
        data: The data.
        model: The model.
        training: How it is trained.
        engine: Where its runs are made.
        command: The command line, for records.
        given: Names of the flags that were given; others may be as the comparison in the folder has them.
    """

    comparison: ComparisonArguments
    data: DataArguments
    model: ModelArguments
    training: ComparisonTrainingArguments
    engine: EngineArguments = field(default_factory=EngineArguments)
    command: str = ""
    given: frozenset[str] = frozenset()


def _check_folders(flag: str, values: list[float] | tuple[()]) -> None:
    """Refuses numbers that are equal in six digits, by which folders of runs are named."""
    shown = [f"{value:g}" for value in values]
    if len(set(shown)) < len(set(values)):
        raise ComparisonError(f"--{flag} holds numbers that are the same in six digits: {', '.join(shown)}.")
