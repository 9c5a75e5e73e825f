"""Flags of a comparison in a script, besides those that define what is compared."""

import math
import os
import shlex
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.comparison.arguments import MAX_EVALUATIONS_PER_EPOCH, ComparisonArguments
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.records import MAX_SEED, RESERVED_NAMES
from hf_critmom.experiments.comparison.script.command_line import Script
from hf_critmom.tasks.metrics import is_greater_better


@dataclass
class ScriptArguments:
    """Flags of a comparison in a user's script.

    None stands for the value of the comparison in the folder, or in a new comparison for the default in the help.
    """

    _argument_group_name: ClassVar[str] = "script (its own arguments stand after --)"

    launcher: str | None = field(
        default=None,
        metadata={
            "help": "Launcher of the script's processes, which must accept -m MODULE, such as 'torchrun "
            "--nproc_per_node 2' or 'accelerate launch'; default: python."
        },
    )
    metric: str = field(
        default="eval_loss",
        metadata={"help": "Metric of the targets, by the name with which evaluations log it, such as eval_accuracy."},
    )
    greater_is_better: bool | None = field(
        default=None,
        metadata={
            "help": "Whether larger values of the metric are better; default: yes, unless a word of its name is that "
            "of a loss or an error, such as nll or WER."
        },
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the comparison; default: comparison-SCRIPT in the current folder."}
    )
    evaluations_per_epoch: int | None = field(
        default=None,
        metadata={
            "help": "Evaluations per epoch; default: those of the script's --eval_strategy and --eval_steps, else 4 "
            "and at least 12 per run, or fewer if they would take more than 15 %% of the training time."
        },
    )
    seed: int = field(default=42, metadata={"help": "First seed of each arm, see --num_seeds."})

    def __post_init__(self) -> None:
        number = self.evaluations_per_epoch
        if number is not None and not 1 <= number <= MAX_EVALUATIONS_PER_EPOCH:
            raise ComparisonError(
                f"--evaluations_per_epoch must be between 1 and {MAX_EVALUATIONS_PER_EPOCH:,}, got {number}."
            )
        _check_seed(self.seed)
        if self.metric in ("", "eval_"):
            raise ComparisonError("--metric is empty: give a metric by the name with which evaluations log it.")
        if not self.metric.startswith("eval_"):
            self.metric = f"eval_{self.metric}"
        if self.metric.removeprefix("eval_") in RESERVED_NAMES:
            raise ComparisonError(
                f"--metric {self.metric} has the name of another column in the table of results: let the script log it "
                "by another name."
            )


@dataclass
class ScriptEngineArguments(EngineArguments):
    """Flags of the engine, with the defaults of a comparison in a script."""

    workers: int | None = field(
        default=None,
        metadata={
            "help": "Number of runs at the same time; default: 1, because the memory that a script needs is not known."
        },
    )
    threads_per_worker: int | None = field(
        default=None,
        metadata={
            "help": "Number of threads of each process of a run, on which the last digits of its results depend; "
            "default: the number of usable cores divided by --workers."
        },
    )


@dataclass(frozen=True)
class ScriptRequest:
    """A comparison in a script as the command line describes it.

    Attributes:
        comparison: Flags that define what is compared.
        flags: Flags of a comparison in a script.
        script: The script; `check` adds its launcher.
        engine: Flags of the engine that makes the runs.
        command: The command line, for records.
        given: Names of the flags that were given before ``--``.
    """

    comparison: ComparisonArguments
    flags: ScriptArguments
    script: Script
    engine: EngineArguments = field(default_factory=EngineArguments)
    command: str = ""
    given: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """The comparison's folder."""
        return Path(self.flags.output_dir or f"comparison-{self.script.name}")

    @property
    def metric(self) -> str:
        """The metric without its prefix."""
        return self.flags.metric.removeprefix("eval_")

    @property
    def greater_is_better(self) -> bool:
        """Whether larger values of the metric are better."""
        if self.flags.greater_is_better is not None:
            return self.flags.greater_is_better
        return is_greater_better(self.metric)

    def check(self) -> "ScriptRequest":
        """Checks what can be checked without running the script; returns the request with its launcher and seed.

        Raises:
            ComparisonError: If the request cannot be met.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ComparisonError(
                "hf-critmom compare --script starts the script's processes itself: call it without a launcher, and "
                "give the launcher with --launcher."
            )
        try:
            launcher = tuple(shlex.split(self.flags.launcher or ""))
        except ValueError as error:
            raise ComparisonError(
                f"--launcher {self.flags.launcher} cannot be parsed ({error}): quote it as for a shell."
            ) from None
        if launcher and shutil.which(launcher[0]) is None:
            raise ComparisonError(f"--launcher names {launcher[0]}, which is not installed here: install it.")
        if self.comparison.measure_curvature:
            raise ComparisonError("--measure_curvature works only without --script, which loads its data by itself.")
        if odd := [target for target in self.comparison.targets or () if not math.isfinite(target)]:
            raise ComparisonError(f"--targets must be finite numbers, got {odd[0]:g}.")
        script = replace(self.script, launcher=launcher)
        script.check()
        for flag in ("seed", "data_seed"):
            if script.value(flag) is not None and "seed" in self.given:
                raise ComparisonError(
                    f"--seed is given for the comparison, and --{flag} for the script: give only the one before --."
                )
        flags = self.flags
        if (seed := script.value("seed")) is not None:
            flags = replace(flags, seed=_check_seed(seed))
        return replace(self, script=script, flags=flags)


def _check_seed(seed: object) -> int:
    """The seed as an integer.

    Raises:
        ComparisonError: If it is not a seed.
    """
    text = "" if isinstance(seed, bool) else str(seed).strip()
    if not text.isdecimal() or not 0 <= int(text) <= MAX_SEED:
        raise ComparisonError(f"--seed must be between 0 and {MAX_SEED}, got {seed}.")
    return int(text)
