"""``hf-critmom drift``: test a comparison's networks on corrupted images."""

import dataclasses
import shlex
from pathlib import Path

from hf_critmom.commands.parser import Parser, quieten_libraries
from hf_critmom.commands.report import print_report


def main(argv: list[str]) -> int:
    """Tests the networks of a comparison on corrupted images and prints its report."""
    from accelerate import PartialState
    from rich.console import Console

    from hf_critmom.commands.compare import parse_comparison
    from hf_critmom.experiments.comparison.drift import measure_drift
    from hf_critmom.experiments.comparison.plan import Plan
    from hf_critmom.tasks import CORRUPTIONS, DataArguments, ModelArguments, load_task
    from hf_critmom.tasks.stored_arguments import restore_arguments

    parser = Parser("drift", "Test a comparison's networks on corrupted images.")
    parser.add_argument("folder", type=Path, help="folder of the comparison, with its models")
    parser.add_argument("--corruptions", nargs="+", choices=CORRUPTIONS, default=list(CORRUPTIONS))
    parser.add_argument("--max_eval_samples", type=int, help="test with so many images, drawn at random")
    parser.add_argument("--task", help="where the data is, if not where the comparison's command says")
    args = parser.parse_args(argv)
    plan = Plan.read(args.folder)
    if plan.arguments:
        data = restore_arguments(DataArguments, plan.arguments["data"], args.folder)
        model = restore_arguments(ModelArguments, plan.arguments["model"], args.folder)
    else:  # an earlier version's plan
        request = parse_comparison(shlex.split(plan.command)[2:])
        data, model = request.data, request.model
    quieten_libraries()
    if args.task is not None:
        data = dataclasses.replace(data, task=args.task)
    console = Console(stderr=True, highlight=False, quiet=not PartialState().is_main_process)
    measure_drift(
        args.folder,
        load_task(data, model),
        corruptions=args.corruptions,
        max_samples=args.max_eval_samples,
        progress=console.print,
    )
    if PartialState().is_main_process:
        print_report(args.folder)
    return 0
