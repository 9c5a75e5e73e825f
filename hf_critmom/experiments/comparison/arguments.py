"""Flags of a comparison, besides those of the data and the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.tasks import DataArguments, ModelArguments
from hf_critmom.training.arguments import CommandTrainingArguments

DEFAULT_ARMS, DEFAULT_SCRIPT_ARMS = ("constant", "matched", "critmom", "hybrid"), ("adamw", "critmom_adamw")
DEFAULT_SEEDS, FIRST_LOOK, DEFAULT_MAX_SEEDS = 5, 3, 10
MAX_NUM_SEEDS = 1000
MAX_FACTOR = 1e6
DEFAULT_MARGIN = 0.1
MAX_EVALUATIONS_PER_EPOCH = 1000
GRID_FLAGS = ("learning_rate_grid", "step_grid", "weight_decay_grid")
"""Flags that give points of the tuning grid."""
CADENCE_FLAGS = frozenset({"eval_strategy", "eval_steps", "evaluations_per_epoch"})
"""Flags that set how often a run is evaluated."""


@dataclass
class ComparisonArguments:
    """Flags that define what is compared.

    None stands for the value of the comparison in the folder, or in a new comparison for the default in the help.
    """

    _argument_group_name: ClassVar[str] = "comparison"

    arms: list[str] | None = field(
        default=None,
        metadata={
            "help": "Methods to compare: names of arms, a set of them (paper, fair, strong), or third-party optimizers "
            "such as timm:lion, optim:adafactor or torch.optim.RAdam, with options in brackets: timm:lion[lr=1e-4]. "
            f"Default: {' '.join(DEFAULT_ARMS)}; with --script {' '.join(DEFAULT_SCRIPT_ARMS)}."
        },
    )
    arms_file: str | None = field(
        default=None, metadata={"help": "TOML or JSON file with further arms: a table per arm, see the README."}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "Arm that the others are compared with; default: the first one."}
    )
    claim: list[str] | None = field(
        default=None,
        metadata={
            "help": 'Claims to test: "critmom < adamw" claims that critmom takes fewer steps than adamw, "critmom < '
            'all" that it takes fewer than every other arm. Always tested: every arm against the baseline, and the '
            "paper's claims."
        },
    )
    margin: float | None = field(
        default=None,
        metadata={
            "help": "Largest relative difference in steps to target that counts as no difference; default: "
            f"{DEFAULT_MARGIN}."
        },
    )
    num_seeds: int | None = field(
        default=None,
        metadata={
            "help": "Number of seeds of each arm of --arms: --seed, --seed + 1, ..., the same for all, so that runs "
            f"are paired. Missing seeds of these arms are added. Default: {DEFAULT_SEEDS}."
        },
    )
    until_decided: bool = field(
        default=False,
        metadata={
            "help": "Add seeds to the arms of undecided claims until each is decided or --max_seeds is reached; with "
            "--arms, only for claims about these arms."
        },
    )
    max_seeds: int | None = field(
        default=None, metadata={"help": f"Maximum number of seeds of --until_decided; default: {DEFAULT_MAX_SEEDS}."}
    )
    targets: list[float] | None = field(
        default=None,
        metadata={
            "help": "Values of the validation metric, the time to each of which is measured; default: those of digits, "
            "cifar10 and text, and for other data, or with --script, those that a pilot run sets."
        },
    )
    pilot: bool = field(
        default=False,
        metadata={
            "help": "Set the targets by a pilot run of the baseline, with a seed that no compared run has: its values "
            "at 50, 75 and 90 %% of its improvement after the first evaluation. The default where nothing else sets "
            "them."
        },
    )
    learning_rate_grid: list[float] | None = field(
        default=None,
        metadata={
            "help": "Tune every arm as well: factors of its own learning rate to try, with one seed that no compared "
            "run has. The factor that reaches the targets fastest makes a tuned variant, which is compared too."
        },
    )
    step_grid: list[float] | None = field(
        default=None,
        metadata={
            "help": "The same with factors of each arm's own mean step, lr / (1 - momentum): under critical momentum, "
            "whose step grows with the square root of the learning rate, a factor of 3 is 9 times the learning rate."
        },
    )
    weight_decay_grid: list[float] | None = field(
        default=None,
        metadata={"help": "The same with factors of its weight decay; with both grids, every pair is tried."},
    )
    trial_seeds: int | None = field(
        default=None,
        metadata={
            "help": "Number of seeds with which each point of a grid is tried; the mean over them decides. Missing "
            "seeds are added. Default: 1."
        },
    )
    measure_curvature: bool = field(
        default=False,
        metadata={
            "help": "Measure curvature and gradient noise at five points of each arm's run with the first seed, unless "
            "that run is finished; the report then says whether momentum can matter. Results stay the same. Not "
            "available with --script."
        },
    )

    def __post_init__(self) -> None:
        if self.pilot and self.targets:
            raise ComparisonError("--pilot sets the targets itself: leave out --pilot or --targets.")
        for flag, factors, least in (
            ("learning_rate_grid", self.learning_rate_grid, "positive"),
            ("step_grid", self.step_grid, "positive"),
            ("weight_decay_grid", self.weight_decay_grid, "not negative"),
        ):
            for factor in factors or ():
                if not (0.0 <= factor <= MAX_FACTOR and (factor > 0.0 or least == "not negative")):
                    raise ComparisonError(
                        f"--{flag} takes factors that are {least} and at most {MAX_FACTOR:,.0f}, got {factor:g}."
                    )
            _check_distinct_names(flag, factors or ())
        for flag, most in (
            ("num_seeds", MAX_NUM_SEEDS),
            ("max_seeds", MAX_NUM_SEEDS),
            ("trial_seeds", MAX_NUM_SEEDS),
        ):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise ComparisonError(f"--{flag} must be at least 1, got {value}.")
            if value is not None and value > most:
                raise ComparisonError(f"--{flag} must be at most {most:,}, got {value:,}.")
        if self.learning_rate_grid and self.step_grid:
            raise ComparisonError("--learning_rate_grid and --step_grid both tune the learning rate: give one of them.")
        if self.margin is not None and not 0.0 < self.margin < 10.0:
            raise ComparisonError(f"--margin must be above 0 and below 10, such as 0.1 for 10 %, got {self.margin:g}.")
        if self.max_seeds is not None and not self.until_decided:
            raise ComparisonError("--max_seeds applies only to --until_decided: give that too, or use --num_seeds.")
        if self.arms is not None and not self.arms:
            raise ComparisonError("--arms needs at least one arm.")


@dataclass
class ComparisonTrainingArguments(CommandTrainingArguments):
    """`TrainingArguments` with the defaults of a comparison; each is a flag, and is recorded with the results."""

    _argument_group_name: ClassVar[str] = "training (--help_all shows all TrainingArguments)"
    decided: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("adam_beta1", "adam_beta2", "adam_epsilon"), "every arm has its own, see --arms"
    )

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the comparison; default: comparison-TASK in the current folder."}
    )
    num_train_epochs: list[float] = field(
        default_factory=lambda: [3.0], metadata={"help": "Budget in epochs; several budgets are compared one by one."}
    )
    learning_rate: float = field(
        default=0.1, metadata={"help": "Peak learning rate of every arm that does not have its own."}
    )
    weight_decay: float = field(
        default=5e-4, metadata={"help": "Weight decay of every arm that does not have its own."}
    )
    seed: int = field(default=42, metadata={"help": "First seed of each arm, see --num_seeds."})
    eval_strategy: str | None = field(
        default=None,
        metadata={"help": "When the validation metric is measured: epoch, or steps with --eval_steps; default: epoch."},
    )
    evaluations_per_epoch: int | None = field(
        default=None,
        metadata={
            "help": "Evaluations per epoch, evenly spaced; default: 4, or fewer if they would take more than 15 %% of "
            "the training time."
        },
    )
    logging_steps: float = field(
        default=0.01, metadata={"help": "Steps between training logs; below 1: a share of all steps."}
    )
    save_strategy: str = field(
        default="no",
        metadata={"help": "When checkpoints are written, from which an interrupted run resumes: no, epoch or steps."},
    )

    def __post_init__(self) -> None:
        default_optim = TrainingArguments.__dataclass_fields__["optim"].default
        if self.optim != default_optim or self.optim_args:
            raise ComparisonError("--optim and --optim_args are set by each arm of a comparison: use --arms.")
        if self.data_seed is not None:
            raise ComparisonError("--data_seed is set by each run's seed, which orders its data: use --seed.")
        epochs: list[float] | float = self.num_train_epochs
        self.budgets = sorted(epochs) if isinstance(epochs, list) else [epochs]
        self.num_train_epochs = self.budgets[-1]  # type: ignore[assignment]  # a number is what the Trainer reads
        if self.max_steps <= 0 and not self.budgets[0] > 0.0:
            raise ComparisonError(f"--num_train_epochs must be positive, got {self.budgets[0]:g}.")
        if len(set(self.budgets)) < len(self.budgets) or (self.max_steps > 0 and len(self.budgets) > 1):
            raise ComparisonError(
                "--num_train_epochs takes each budget once, and with several budgets no --max_steps, which would "
                "override them."
            )
        _check_distinct_names("num_train_epochs", self.budgets)
        self._resolve_cadence()
        super().__post_init__()

    def _resolve_cadence(self) -> None:
        """Checks the flags that set how often runs are evaluated; without one, ``evaluations_per_epoch`` stays None."""
        strategy = getattr(self.eval_strategy, "value", self.eval_strategy)
        if strategy == "no":
            raise ComparisonError("--eval_strategy no leaves nothing to compare: use epoch or steps.")
        if self.evaluations_per_epoch is not None:
            if not 1 <= self.evaluations_per_epoch <= MAX_EVALUATIONS_PER_EPOCH:
                raise ComparisonError(
                    f"--evaluations_per_epoch must be between 1 and {MAX_EVALUATIONS_PER_EPOCH:,}, got "
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
    def cadence_is_unset(self) -> bool:
        """Whether no flag sets how often to evaluate."""
        return self.eval_strategy == IntervalStrategy.EPOCH and self.evaluations_per_epoch is None


@dataclass(frozen=True)
class ComparisonRequest:
    """A comparison as the command line describes it.

    Attributes:
        comparison: Flags that define what is compared.
        data: Flags of the data.
        model: Flags of the model.
        training: Training arguments.
        engine: Flags of the engine that makes the runs.
        command: The command line, for records.
        given: Names of the flags that were given; the values of others may come from the comparison in the folder.
    """

    comparison: ComparisonArguments
    data: DataArguments
    model: ModelArguments
    training: ComparisonTrainingArguments
    engine: EngineArguments = field(default_factory=EngineArguments)
    command: str = ""
    given: frozenset[str] = frozenset()


def _check_distinct_names(flag: str, values: list[float] | tuple[()]) -> None:
    """Refuses numbers that are equal in six digits, with which folders of runs are named."""
    shown = [f"{value:g}" for value in values]
    if len(set(shown)) < len(set(values)):
        raise ComparisonError(
            f"--{flag} has numbers that are equal in six digits, {', '.join(shown)}: give each of them once."
        )
