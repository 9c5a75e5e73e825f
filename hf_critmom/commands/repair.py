"""``hf-critmom repair``: retrain the layers to blame for a network's errors, and verify what that did."""

from pathlib import Path

from rich.console import Console

from hf_critmom.commands import PROGRAM
from hf_critmom.commands.parser import dataclass_parser, parse_dataclasses, quieten_libraries
from hf_critmom.errors import InputError
from hf_critmom.experiments.repair.arguments import RepairArguments, RepairTrainingArguments
from hf_critmom.experiments.repair.report import write_report
from hf_critmom.experiments.repair.runner import repair_layers
from hf_critmom.experiments.repair.scan import logged_training, training_seconds
from hf_critmom.storage.commands import recorded_command, recorded_path
from hf_critmom.tasks import CheckpointArguments, DataArguments, ImageTask, load_checkpoint, load_task_of


def main(argv: list[str]) -> int:
    """Repairs a checkpoint, or continues its repair, and prints the report."""
    checkpoint, asked, data, loading, training = parse_repair(argv)
    quieten_libraries()
    console = Console(stderr=True, highlight=False, quiet=training.process_index != 0)
    folder = Path(checkpoint)
    if folder.is_dir() and Path(str(training.output_dir)).resolve() == folder.resolve():
        raise InputError(f"--output_dir {training.output_dir} is the checkpoint itself, which is never overwritten.")
    model, task = load_checkpoint(checkpoint, load_task_of(checkpoint, data, loading), loading)
    found = repair_layers(
        model,
        args=training,
        train_dataset=task.train,
        diagnosis_dataset=task.validation,
        test_dataset=task.test,
        settings=asked.settings(),
        data_collator=task.collator,
        processing_class=task.processor,
        callbacks=task.callbacks(),
        log=logged_training(folder),
        record={
            "checkpoint": recorded_path(checkpoint),
            "dtype": str(model.dtype).removeprefix("torch."),
            "task": task.description(),
            "diagnosis_split": "validation",
        },
        command=recorded_command(f"{PROGRAM} repair", argv),
        progress=console.print,
    )
    if training.process_index == 0:
        shown = write_report(
            found,
            label_names=task.label_names if isinstance(task, ImageTask) else (),
            hub_task=task.description().get("hub_task", "image-classification"),
            training_seconds=training_seconds(folder),
        )
        Console().print(shown)
        Console().print(f"Repaired model and report: {found.folder}", highlight=False, soft_wrap=True)
    return 0


def parse_repair(
    argv: list[str],
) -> tuple[str, RepairArguments, DataArguments, CheckpointArguments, RepairTrainingArguments]:
    """Turns the flags of ``repair`` into the checkpoint and arguments.

    Raises:
        InputError: If a flag's value cannot be used.
    """
    dataclass_types = (RepairArguments, DataArguments, CheckpointArguments, RepairTrainingArguments)
    parser = dataclass_parser(
        "repair",
        dataclass_types,
        usage="CHECKPOINT [--groups auto|NAMES] [--controls] [flags]",
        description="Retrain the layer groups that a network's errors are blamed on, and verify what that did.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the checkpoint, or its name on the Hub")
    checkpoint = parser.parse_known_args(argv)[0].checkpoint
    name = Path(checkpoint).absolute().name if Path(checkpoint).exists() else checkpoint.rpartition("/")[2]
    parser.set_defaults(output_dir=f"repair-{name}")
    asked, data, loading, training, _ = parse_dataclasses(parser, argv)
    return checkpoint, asked, data, loading, training
