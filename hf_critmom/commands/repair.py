"""``hf-critmom repair``: retrain chosen layers of a network, and verify the result on the test split."""

from functools import partial
from pathlib import Path

from rich.console import Console

from hf_critmom.commands import PROGRAM
from hf_critmom.commands.checkpoint_records import find_record
from hf_critmom.commands.parser import (
    dataclass_parser,
    given_flags,
    parse_dataclasses,
    rename_flags,
    silence_libraries,
)
from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.errors import InputError
from hf_critmom.experiments.repair.arguments import ALIASES, RepairArguments, RepairTrainingArguments
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.report import write_repair_report
from hf_critmom.experiments.repair.request import RepairRequest, run_repair
from hf_critmom.reporting.text import printable
from hf_critmom.storage.files import explain_write_errors
from hf_critmom.storage.recorded_commands import recorded_command
from hf_critmom.tasks import CheckpointArguments, DataArguments


def main(argv: list[str]) -> int:
    """Repairs a checkpoint, or continues its repair, and prints the report."""
    request = parse_repair(argv)
    silence_libraries()
    console = Console(stderr=True, highlight=False, markup=False, quiet=request.training.process_index != 0)
    repair = run_repair(request, progress=partial(console.print, soft_wrap=True))
    if request.training.process_index == 0:
        with explain_write_errors(repair.folder, RepairError, "finished runs are kept, and are not repeated"):
            report = write_repair_report(repair)
        Console().print(report)
        content = "Repaired model and report" if repair.verification else "Report"
        Console().print(printable(f"{content}: {repair.folder}"), highlight=False, markup=False, soft_wrap=True)
    return 0


def parse_repair(argv: list[str]) -> RepairRequest:
    """Turns the flags of ``repair`` into a request.

    Raises:
        InputError: If a flag's value is invalid, or the plan of the experiment that trained the checkpoint is damaged.
    """
    dataclass_types = (RepairArguments, DataArguments, CheckpointArguments, RepairTrainingArguments, EngineArguments)
    parser = dataclass_parser(
        "repair",
        dataclass_types,
        usage="CHECKPOINT [--groups auto|NAMES] [--controls] [flags]",
        description="Retrain chosen layer groups of a network, and verify the result on the test split.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the checkpoint, or its name on the Hub")
    arguments = rename_flags(argv, ALIASES)
    checkpoint = parser.parse_known_args(arguments)[0].checkpoint
    name = Path(checkpoint).absolute().name if Path(checkpoint).exists() else checkpoint.rpartition("/")[2]
    parser.set_defaults(output_dir=f"repair-{name}")
    repair, data, loading, training, engine, _ = parse_dataclasses(parser, arguments)
    folder = Path(checkpoint)
    if folder.is_dir() and Path(str(training.output_dir)).resolve() == folder.resolve():
        raise InputError(f"--output_dir {training.output_dir} is the checkpoint's own folder: choose another one.")
    trained_on = find_record(checkpoint).trained_on
    command = recorded_command(f"{PROGRAM} repair", argv)
    on_cpu = training.use_cpu and "use_cpu" in given_flags(arguments)
    settings = repair.settings()
    return RepairRequest(checkpoint, trained_on, settings, data, loading, training, command, engine, on_cpu)
