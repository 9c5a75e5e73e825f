"""Flags of a comparison, beside those of the data, the model and training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments

from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.training.arguments import CommandTrainingArguments


@dataclass
class ComparisonArguments:
    """Flags that say what is compared."""

    _argument_group_name: ClassVar[str] = "comparison"

    arms: list[str] = field(
        default_factory=lambda: ["constant", "matched", "critmom", "hybrid"],
        metadata={"help": "The methods to compare, or a set of them: paper, fair."},
    )
    arms_file: str | None = field(
        default=None, metadata={"help": "A TOML or JSON file with further arms: a table per arm, see the README."}
    )
    num_seeds: int = field(
        default=3, metadata={"help": "Runs of every arm: --seed, --seed + 1, ... The arms share them in pairs."}
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
    weight_decay_grid: list[float] | None = field(
        default=None, metadata={"help": "The same for its own weight decay; with both, every pair is tried."}
    )

    workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that divide the runs; default: one per core that may be used, on an accelerator one. "
            "Results do not depend on it."
        },
    )
    threads_per_worker: int = field(
        default=1, metadata={"help": "CPU threads that each run computes with; another number gives other roundings."}
    )

    def __post_init__(self) -> None:
        for flag, number in (("workers", self.workers), ("threads_per_worker", self.threads_per_worker)):
            if number is not None and number < 1:
                raise ComparisonError(f"--{flag} must be at least 1, got {number}.")
        for flag, factors, least in (
            ("learning_rate_grid", self.learning_rate_grid, "positive"),
            ("weight_decay_grid", self.weight_decay_grid, "not negative"),
        ):
            for factor in factors or ():
                if not (math.isfinite(factor) and (factor > 0.0 or (factor == 0.0 and least == "not negative"))):
                    raise ComparisonError(f"--{flag} takes factors that are finite and {least}, got {factor:g}.")
        if self.num_seeds < 1:
            raise ComparisonError(f"--num_seeds must be at least 1, got {self.num_seeds}.")


@dataclass
class ComparisonTrainingArguments(CommandTrainingArguments):
    """`TrainingArguments` with the defaults of a comparison; every one is a flag and is recorded with the results."""

    _argument_group_name: ClassVar[str] = "training (--help_all shows all TrainingArguments)"
    decided: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("adam_beta1", "adam_beta2", "adam_epsilon"), "every arm brings its own, see --arms_file"
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
    eval_strategy: str = field(default="epoch", metadata={"help": "When the validation metric is measured."})
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
        asked: list[float] | float = self.num_train_epochs
        self.budgets = sorted(asked) if isinstance(asked, list) else [asked]
        self.num_train_epochs = self.budgets[-1]  # type: ignore[assignment]  # a number is what the Trainer reads
        if self.max_steps <= 0 and not self.budgets[0] > 0.0:
            raise ComparisonError(f"--num_train_epochs must be positive, got {self.budgets[0]:g}.")
        if len(set(self.budgets)) < len(self.budgets) or (self.max_steps > 0 and len(self.budgets) > 1):
            raise ComparisonError(
                "--num_train_epochs with several budgets takes each once, and no --max_steps, which would decide alone."
            )
        if self.eval_strategy in ("no", None):
            raise ComparisonError("--eval_strategy no leaves nothing to compare: use epoch or steps.")
        super().__post_init__()
