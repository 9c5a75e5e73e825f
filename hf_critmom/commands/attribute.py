"""``hf-critmom attribute``: find the layers that the remaining mistakes lie in."""

from accelerate import PartialState
from rich.console import Console

from hf_critmom.commands import PROGRAM
from hf_critmom.commands.checkpoints import checkpoint_specs
from hf_critmom.commands.parser import dataclass_parser, parse_dataclasses, quieten_libraries, rename_flags
from hf_critmom.experiments.diagnosis.arguments import ALIASES, AttributionArguments
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.plan import AttributionRequest
from hf_critmom.experiments.diagnosis.report import write_attribution_report
from hf_critmom.experiments.diagnosis.runner import run_attribution
from hf_critmom.storage.commands import recorded_command
from hf_critmom.storage.files import explain_write_errors
from hf_critmom.tasks import CheckpointArguments, DataArguments, task_name


def main(argv: list[str]) -> int:
    """Studies what is not yet studied of an attribution, and prints its report."""
    request = parse_attribution(argv)
    quieten_libraries()
    folder = run_attribution(request)
    if PartialState().is_main_process:
        console = Console()
        with explain_write_errors(folder, DiagnosisError, "what was found stays"):
            report = write_attribution_report(folder)
        for shown in report:
            console.print(shown, highlight=False)
        console.print(f"Report: {folder / 'README.md'}", highlight=False, markup=False, soft_wrap=True)
    return 0


def parse_attribution(argv: list[str]) -> AttributionRequest:
    """Turns the flags of ``attribute`` into a request.

    Raises:
        InputError: If a flag's value cannot be used, or a checkpoint is named twice.
    """
    parser = dataclass_parser(
        "attribute",
        (AttributionArguments, DataArguments, CheckpointArguments),
        usage="CHECKPOINT [CHECKPOINT ...] [--task NAME_OR_DATASET] [flags]",
        description="Find the layer groups in which the gradients on misclassified examples are largest.",
    )
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="folder of a checkpoint, or name on the Hub"
    )
    arguments, data, loading, named = parse_dataclasses(parser, rename_flags(argv, ALIASES))
    arguments.output_dir = arguments.output_dir or f"attribution-{task_name(data)}"
    command = recorded_command(f"{PROGRAM} attribute", argv)
    return AttributionRequest(checkpoint_specs(named.checkpoints), arguments, data, loading, command)
