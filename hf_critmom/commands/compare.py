"""``hf-critmom compare``: compare optimizers on a task, or continue a comparison."""

from hf_critmom.commands import PROGRAM
from hf_critmom.commands.parser import dataclass_parser, given_flags, parse_dataclasses, silence_libraries
from hf_critmom.commands.report import print_report
from hf_critmom.engines.arguments import EngineArguments
from hf_critmom.experiments.comparison import (
    ComparisonArguments,
    ComparisonRequest,
    ComparisonTrainingArguments,
    run_comparison,
)
from hf_critmom.experiments.comparison.arguments import CADENCE_FLAGS
from hf_critmom.experiments.comparison.script.arguments import ScriptArguments, ScriptEngineArguments, ScriptRequest
from hf_critmom.experiments.comparison.script.command_line import Script, split_script
from hf_critmom.storage.recorded_commands import recorded_command
from hf_critmom.tasks import DataArguments, ModelArguments, flag_defaults, task_name


def main(argv: list[str]) -> int:
    """Executes the unfinished runs of a comparison, and prints its report."""
    request = parse_comparison(argv)
    silence_libraries()
    if isinstance(request, ScriptRequest):
        from hf_critmom.experiments.comparison.script.runner import run_script_comparison

        print_report(run_script_comparison(request))
        return 0
    folder = run_comparison(request)
    if request.training.process_index == 0:
        print_report(folder)
    return 0


def parse_comparison(argv: list[str]) -> ComparisonRequest | ScriptRequest:
    """Turns the flags of ``compare`` into a request; flags that are not given have the task's defaults.

    Raises:
        InputError: If a flag's value is invalid.
    """
    flags, script = split_script(argv)
    if script is not None:
        return _parse_script(flags, script, argv)
    dataclass_types = (
        ComparisonArguments,
        DataArguments,
        ModelArguments,
        ComparisonTrainingArguments,
        EngineArguments,
    )
    # Abbreviated flags would slip past the first, partial parse that finds the task.
    parser = dataclass_parser(
        "compare",
        dataclass_types,
        usage="[--task NAME_OR_DATASET | --script SCRIPT] [flags]\n       [-- ARGS OF THE SCRIPT]",
        description="Compare optimizers on a task, or continue a comparison: the same command runs what is missing. "
        "With --script SCRIPT or --script -m MODULE it runs a training script of your own: see --script SCRIPT --help.",
    )
    task_parser = dataclass_parser("compare", (DataArguments, ModelArguments), add_help=False)
    flags = [arg for arg in argv if arg not in ("-h", "--help")]
    data, model, _ = task_parser.parse_args_into_dataclasses(flags, return_remaining_strings=True)
    given = given_flags(flags)
    defaults = flag_defaults(data, model)
    # An evaluation interval from the command line replaces the task's default one.
    replaced = CADENCE_FLAGS - {"evaluations_per_epoch"} if "evaluations_per_epoch" in given else set()
    replaced |= {"evaluations_per_epoch"} if given & {"eval_strategy", "eval_steps"} else set()
    defaults = {name: value for name, value in defaults.items() if name not in replaced}
    parser.set_defaults(output_dir=f"comparison-{task_name(data)}", **defaults)
    comparison, data, model, training, engine = parse_dataclasses(parser, argv)
    command = recorded_command(f"{PROGRAM} compare", argv)
    return ComparisonRequest(comparison, data, model, training, engine, command, given)


def _parse_script(flags: list[str], script: Script, argv: list[str]) -> ScriptRequest:
    """Parses the flags for a comparison in a script; the script parses its own arguments."""
    parser = dataclass_parser(
        "compare",
        (ComparisonArguments, ScriptArguments, ScriptEngineArguments),
        usage="--script SCRIPT | --script -m MODULE [--arms ARM ...] [flags] -- ARGS OF THE SCRIPT",
        description="Compare optimizers in an unmodified training script that takes its TrainingArguments from the "
        "command line, or continue a comparison: the same command runs what is missing.",
    )
    comparison, own, engine = parse_dataclasses(parser, flags)
    return ScriptRequest(
        comparison, own, script, engine, recorded_command(f"{PROGRAM} compare", argv), given_flags(flags)
    )
