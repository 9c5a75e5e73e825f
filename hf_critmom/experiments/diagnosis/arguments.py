"""Flags of the ``attribute`` command, besides those of the data."""

from dataclasses import dataclass, field
from typing import ClassVar

from hf_critmom.attribution.passes import TOP_ROWS
from hf_critmom.attribution.predictions import SELECTIONS
from hf_critmom.attribution.problems import TOP
from hf_critmom.experiments.diagnosis.errors import DiagnosisError

ALIASES = {"--groups": "--layer_groups"}
"""Earlier spellings of flags, which still work."""


@dataclass
class AttributionArguments:
    """Flags that choose what is attributed, and how."""

    _argument_group_name: ClassVar[str] = "attribution"

    split: str = field(
        default="validation",
        metadata={"metavar": "validation|test|train", "help": "Split to study; train is not augmented."},
    )
    select: str = field(
        default="misclassified",
        metadata={"metavar": "|".join(SELECTIONS), "help": "Examples on which the gradient is taken."},
    )
    num_top_rows: int = field(
        default=TOP_ROWS, metadata={"help": "Number of examples of largest loss that --select top_loss takes."}
    )
    layer_groups: list[str] | None = field(
        default=None,
        metadata={
            "help": "Layer groups, each a regular expression over parameter names or NAME=EXPRESSION; default: the "
            "stages or blocks of the network."
        },
    )
    num_top_groups: int = field(
        default=TOP, metadata={"help": "Number of groups with the largest share that count as a network's top groups."}
    )
    check_labels: bool = field(
        default=False,
        metadata={
            "help": "List misclassified examples whose label is doubtful (confident learning; needs "
            "pip install 'cleanlab>=2.9')."
        },
    )
    corruption: str | None = field(
        default=None,
        metadata={
            "help": "Corruption of the images, NAME:SEVERITY, from a CIFAR-10-C-style subset; without a severity, all "
            "five are compared with the clean images."
        },
    )
    initial: bool = field(default=True, metadata={"help": "Compare with the untrained network, on the same examples."})
    seed: int = field(
        default=0, metadata={"help": "Seed for drawing control examples, for noise and for the bootstrap."}
    )
    per_device_eval_batch_size: int = field(default=500, metadata={"help": "Batch size of predictions."})
    gradient_batch_size: int | None = field(
        default=None, metadata={"help": "Batch size of backward passes; default: 32, less for few examples."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the results; default: attribution-TASK in the current folder."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU even if there is an accelerator."})

    def __post_init__(self) -> None:
        for flag in ("num_top_groups", "num_top_rows", "per_device_eval_batch_size", "gradient_batch_size"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise DiagnosisError(f"--{flag} must be at least 1, got {value}.")
        if not 0 <= self.seed < 2**32:
            raise DiagnosisError(f"--seed must be between 0 and {2**32 - 1}, got {self.seed}.")
        if self.check_labels and self.split == "train":
            raise DiagnosisError(
                "--check_labels needs examples that the network was not trained on, and --split train has none: "
                "choose validation or test."
            )
        if self.select not in SELECTIONS:
            raise DiagnosisError(f"Unknown --select {self.select!r}: choose one of {', '.join(SELECTIONS)}.")
