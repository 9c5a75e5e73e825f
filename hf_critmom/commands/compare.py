"""``hf-critmom compare``: compare methods on a task, or continue a comparison."""

from hf_critmom.commands import PROGRAM
from hf_critmom.commands.parser import dataclass_parser, parse_dataclasses, quieten_libraries
from hf_critmom.commands.report import print_report
from hf_critmom.experiments.comparison import (
    ComparisonArguments,
    ComparisonRequest,
    ComparisonTrainingArguments,
    run_comparison,
)
from hf_critmom.experiments.comparison.arguments import CADENCE_FLAGS
from hf_critmom.storage.commands import recorded_command
from hf_critmom.tasks import DataArguments, ModelArguments, flag_defaults, task_name


def main(argv: list[str]) -> int:
    """Runs what is not yet finished of a comparison, and prints its report."""
    request = parse_comparison(argv)
    quieten_libraries()
    folder = run_comparison(request)
    if request.training.process_index == 0:
        print_report(folder)
    return 0


def parse_comparison(argv: list[str]) -> ComparisonRequest:
    """Turns the flags of ``compare`` into arguments; what no flag says comes from the task's own defaults.

    Raises:
        InputError: If a flag's value cannot be used.
    """
    dataclass_types = (ComparisonArguments, DataArguments, ModelArguments, ComparisonTrainingArguments)
    # Abbreviated flags would slip past the first, partial parse that finds the task.
    parser = dataclass_parser(
        "compare",
        dataclass_types,
        usage="[--task NAME_OR_DATASET] [--arms ARM ...] [flags]",
        description="Compare optimizers on a task, or continue a comparison: the same command runs what is missing.",
    )
    task_parser = dataclass_parser("compare", (DataArguments, ModelArguments), add_help=False)
    flags = [arg for arg in argv if arg not in ("-h", "--help")]
    data, model, _ = task_parser.parse_args_into_dataclasses(flags, return_remaining_strings=True)
    given = frozenset(flag.lstrip("-").partition("=")[0].replace("-", "_") for flag in flags if flag.startswith("--"))
    defaults = flag_defaults(data, model)
    # A task's own way of saying how often to evaluate gives way to the other one.
    replaced = CADENCE_FLAGS - {"evaluations_per_epoch"} if "evaluations_per_epoch" in given else set()
    replaced |= {"evaluations_per_epoch"} if given & {"eval_strategy", "eval_steps"} else set()
    defaults = {name: value for name, value in defaults.items() if name not in replaced}
    parser.set_defaults(output_dir=f"comparison-{task_name(data)}", **defaults)
    comparison, data, model, training = parse_dataclasses(parser, argv)
    command = recorded_command(f"{PROGRAM} compare", argv)
    return ComparisonRequest(comparison, data, model, training, command, given)
