"""Flags of the ``repair`` command, besides those of the data."""

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments

from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import GRANULARITIES, RepairSettings
from hf_critmom.experiments.repair.selection import CONTROLS, SELECTIONS
from hf_critmom.training.arguments import CommandTrainingArguments

ALIASES = {"--select": "--select_by"}
"""Earlier spellings of flags, which still work."""


@dataclass
class RepairArguments:
    """Flags that choose what is repaired, and how."""

    _argument_group_name: ClassVar[str] = "repair"

    groups: list[str] = field(
        default_factory=lambda: ["auto"],
        metadata={"help": "Layer groups to retrain; auto: those that the diagnosis chooses."},
    )
    select_by: str = field(
        default="gradient",
        metadata={
            "metavar": "|".join(SELECTIONS),
            "help": "Rule by which auto chooses groups. "
            + "; ".join(f"{name}: {entry.help}" for name, entry in SELECTIONS.items())
            + ".",
        },
    )
    num_groups: int | None = field(
        default=None, metadata={"help": "Number of groups that auto chooses; default: as its rule says."}
    )
    controls: bool = field(
        default=False,
        metadata={
            "help": f"Treat the controls as well, at the same budget: {', '.join(CONTROLS)}. The random groups are "
            "drawn for each seed among all choices of as many groups except the chosen one."
        },
    )
    granularity: str = field(
        default="layer",
        metadata={
            "metavar": "|".join(GRANULARITIES),
            "help": "What is retrained. " + "; ".join(f"{name}: {text}" for name, text in GRANULARITIES.items()) + ".",
        },
    )
    num_seeds: int = field(
        default=1,
        metadata={"help": "Number of seeds of each treatment, counted from --seed; they order the training data."},
    )
    check_labels: bool = field(
        default=False,
        metadata={
            "help": "List misclassified examples whose label is doubtful (confident learning; needs "
            "pip install 'cleanlab>=2.9')."
        },
    )

    def settings(self) -> RepairSettings:
        """The flags as `repair_layers` takes them.

        Raises:
            RepairError: If a flag is not valid.
        """
        if "auto" in self.groups and len(self.groups) > 1:
            raise RepairError(f"--groups is either auto or names of layer groups, got {' '.join(self.groups)}.")
        return RepairSettings(
            groups="auto" if self.groups == ["auto"] else self.groups,
            select=self.select_by,
            num_groups=self.num_groups,
            controls=self.controls,
            num_seeds=self.num_seeds,
            granularity=self.granularity,
            check_labels=self.check_labels,
        )


def check_treatment_arguments(args: TrainingArguments) -> None:
    """Checks the training arguments that a treatment would change or could not obey.

    Raises:
        RepairError: At the first of them.
    """
    if args.data_seed is not None:
        raise RepairError("--data_seed is set by each treatment's seed, which orders its data: use --seed.")
    if args.eval_strategy != "no":
        raise RepairError(
            f"--eval_strategy {getattr(args.eval_strategy, 'value', args.eval_strategy)}: a treatment is verified "
            "once, on the test split at its end, so leave it at no."
        )
    if args.max_steps <= 0 and not args.num_train_epochs > 0.0:
        raise RepairError(f"--num_train_epochs must be positive, got {args.num_train_epochs:g}.")
    if args.push_to_hub:
        raise RepairError(
            "--push_to_hub would push every treatment by itself: leave it out, and push the repaired model."
        )


@dataclass
class RepairTrainingArguments(CommandTrainingArguments):
    """`TrainingArguments` with the defaults of a treatment; every field is a flag."""

    _argument_group_name: ClassVar[str] = "treatment (--help_all shows all TrainingArguments)"

    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the repaired model; default: repair-CHECKPOINT in the current folder."},
    )
    optim: str = field(default="critmom", metadata={"help": "Optimizer of the treatment."})
    learning_rate: float = field(default=0.01, metadata={"help": "Peak learning rate of the treatment."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay of the treatment."})
    seed: int = field(default=42, metadata={"help": "First seed of each treatment, see --num_seeds."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Budget of each treatment in epochs."})
    logging_steps: float = field(
        default=0.05, metadata={"help": "Steps between training logs; below 1: a share of all."}
    )
    save_strategy: str = field(
        default="no",
        metadata={"help": "When a treatment saves checkpoints to resume from: no, epoch or steps."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_treatment_arguments(self)
