"""Flags of a comparison in a script, beside those that say what is compared."""

import math
import os
import shlex
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.comparison.arguments import LARGEST_EVALUATIONS_PER_EPOCH, ComparisonArguments
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.records import LARGEST_SEED, RESERVED_NAMES
from hf_critmom.experiments.comparison.script.command_line import Script

DEFAULT_SCRIPT_ARMS = ("adamw", "critmom_adamw")
_LESS_IS_BETTER = ("loss", "perplexity", "error", "wer", "cer", "mae", "mse", "rmse", "bits_per_byte", "entropy")


@dataclass
class ScriptArguments:
    """Flags of a comparison in a script of one's own.

    What is None is as the comparison in the folder has it, and for a new one as the help says.
    """

    _argument_group_name: ClassVar[str] = "script (its own arguments stand after --)"

    launcher: str | None = field(
        default=None,
        metadata={
            "help": "What starts the script's processes and takes -m MODULE, such as 'torchrun --nproc_per_node 2' or "
            "'accelerate launch'; default: python."
        },
    )
    metric: str = field(
        default="eval_loss",
        metadata={"help": "What targets are values of, as the script's evaluations log it, such as eval_accuracy."},
    )
    greater_is_better: bool | None = field(
        default=None,
        metadata={"help": "Whether larger values of the metric are better; default: unless it is a loss or an error."},
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the comparison; default: comparison-SCRIPT in the current folder."}
    )
    evaluations_per_epoch: int | None = field(
        default=None,
        metadata={
            "help": "Evaluations in each epoch; default: as --eval_strategy and --eval_steps of the script say, else "
            "4 and at least 12 in a run, fewer where they would take more than 15 %% of the time of training."
        },
    )
    seed: int = field(default=42, metadata={"help": "The first seed."})

    def __post_init__(self) -> None:
        number = self.evaluations_per_epoch
        if number is not None and not 1 <= number <= LARGEST_EVALUATIONS_PER_EPOCH:
            raise ComparisonError(
                f"--evaluations_per_epoch must be between 1 and {LARGEST_EVALUATIONS_PER_EPOCH:,}, got {number}."
            )
        _check_seed(self.seed)
        if self.metric in ("", "eval_"):
            raise ComparisonError("--metric is empty: give a metric as the script's evaluations log it.")
        if not self.metric.startswith("eval_"):
            self.metric = f"eval_{self.metric}"
        if self.metric.removeprefix("eval_") in RESERVED_NAMES:
            raise ComparisonError(
                f"--metric {self.metric} is a column of the table of results that is no metric: let the script log it "
                "by another name."
            )


@dataclass(frozen=True)
class ScriptRequest:
    """A comparison in a script as the command line describes it.

    Attributes:
        comparison: What is compared.
        flags: Flags about the script.
        script: The script, with its launcher.
        engine: Where its runs are made.
        command: The command line, for records.
        given: Names of the flags that were given.
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
        """Whether targets are reached from below."""
        if self.flags.greater_is_better is not None:
            return self.flags.greater_is_better
        return not self.metric.endswith(_LESS_IS_BETTER)

    def check(self) -> "ScriptRequest":
        """The request with its launcher, after what can be known without running the script was checked.

        Raises:
            ComparisonError: If it cannot be followed.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ComparisonError(
                "hf-critmom compare --script starts the script's processes itself: call it without a launcher, and "
                "give that with --launcher."
            )
        try:
            launcher = tuple(shlex.split(self.flags.launcher or ""))
        except ValueError as error:
            raise ComparisonError(f"--launcher {self.flags.launcher} cannot be read ({error}).") from None
        if launcher and shutil.which(launcher[0]) is None:
            raise ComparisonError(f"--launcher names {launcher[0]}, which is not installed here.")
        if self.comparison.measure_curvature:
            raise ComparisonError("--measure_curvature is for our own tasks: a script's data are known to it alone.")
        if odd := [target for target in self.comparison.targets or () if not math.isfinite(target)]:
            raise ComparisonError(f"--targets are finite numbers, got {odd[0]:g}.")
        script = replace(self.script, launcher=launcher)
        script.check()
        for flag in ("seed", "data_seed"):
            if script.value(flag) is not None and "seed" in self.given:
                raise ComparisonError(f"--{flag} is given for the comparison and for the script: give it before --.")
        flags = self.flags
        if (seed := script.value("seed")) is not None:
            flags = replace(flags, seed=_check_seed(seed))
        return replace(self, script=script, flags=flags)


def _check_seed(seed: object) -> int:
    """A seed.

    Raises:
        ComparisonError: If it is none.
    """
    text = "" if isinstance(seed, bool) else str(seed).strip()
    if not text.isdecimal() or not 0 <= int(text) <= LARGEST_SEED:
        raise ComparisonError(f"--seed must be between 0 and {LARGEST_SEED}, got {seed}.")
    return int(text)
