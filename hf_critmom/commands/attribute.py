"""``hf-critmom attribute``: show in which layers the gradient on misclassified examples is concentrated."""

from accelerate import PartialState

from hf_critmom.commands import PROGRAM
from hf_critmom.commands.checkpoint_records import checkpoint_specs
from hf_critmom.commands.output import print_json
from hf_critmom.commands.parser import dataclass_parser, parse_dataclasses, rename_flags, silence_libraries
from hf_critmom.commands.report import print_report
from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.diagnosis.arguments import ALIASES, AttributionArguments
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.plan import AttributionRequest
from hf_critmom.experiments.diagnosis.report import write_attribution_report
from hf_critmom.experiments.diagnosis.runner import run_attribution
from hf_critmom.experiments.diagnosis.summary import attribution_as_json
from hf_critmom.storage.files import explain_write_errors
from hf_critmom.storage.recorded_commands import recorded_command
from hf_critmom.tasks import CheckpointArguments, DataArguments, task_name


def main(argv: list[str]) -> int:
    """Runs the unfinished studies of an attribution, and prints its report."""
    request, as_json = parse_attribution(argv)
    silence_libraries()
    folder = run_attribution(request)
    if PartialState().is_main_process:
        with explain_write_errors(folder, DiagnosisError, "finished studies are kept"):
            if as_json:
                write_attribution_report(folder)
                print_json(attribution_as_json(folder))
            else:
                print_report(folder)
    return 0


def parse_attribution(argv: list[str]) -> tuple[AttributionRequest, bool]:
    """Turns the flags of ``attribute`` into a request.

    Returns:
        The request, and whether the results are to be printed as JSON.

    Raises:
        InputError: If a flag's value is invalid, or a checkpoint is named twice.
    """
    parser = dataclass_parser(
        "attribute",
        (AttributionArguments, DataArguments, CheckpointArguments, EngineArguments),
        usage="CHECKPOINT [CHECKPOINT ...] [--task NAME_OR_DATASET] [flags]",
        description="Show in which layer groups the gradient on misclassified examples is concentrated.",
    )
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="folder of a checkpoint, or its name on the Hub"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments, data, loading, engine, named = parse_dataclasses(parser, rename_flags(argv, ALIASES))
    arguments.output_dir = arguments.output_dir or f"attribution-{task_name(data)}"
    command = recorded_command(f"{PROGRAM} attribute", argv)
    request = AttributionRequest(checkpoint_specs(named.checkpoints), arguments, data, loading, engine, command)
    return request, named.json
