"""``hf-critmom drift``: test the networks of a comparison on corrupted images."""

from pathlib import Path

from hf_critmom.commands.parser import Parser, silence_libraries
from hf_critmom.commands.report import print_report


def build_parser() -> Parser:
    """The flags of ``drift``."""
    from hf_critmom.tasks import CORRUPTIONS

    parser = Parser("drift", "Test the networks of a comparison on corrupted images.")
    parser.add_argument("folder", type=Path, help="folder of the comparison, with the models of its runs")
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes; default: one per usable core")
    parser.add_argument(
        "--corruptions",
        nargs="+",
        choices=CORRUPTIONS,
        default=list(CORRUPTIONS),
        metavar="NAME",
        help="corruptions to measure, each at five severities: "
        + "; ".join(f"{name} ({corruption.help})" for name, corruption in CORRUPTIONS.items()),
    )
    parser.add_argument("--max_eval_samples", type=int, metavar="N", help="test on N random images")
    parser.add_argument("--task", metavar="TEXT", help="new location of the data, if it was moved after the comparison")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run Python code that comes with the model's image processor"
    )
    return parser


def main(argv: list[str]) -> int:
    """Tests the networks of a comparison on corrupted images, and prints its report."""
    import torch
    from accelerate import PartialState
    from rich.console import Console

    from hf_critmom.experiments.comparison.drift import load_compared_task, measure_drift
    from hf_critmom.experiments.comparison.plan import Plan
    from hf_critmom.tasks import CheckpointArguments

    args = build_parser().parse_args(argv)
    plan = Plan.read(args.folder)
    torch.set_num_threads(1)  # workers are forked, and no thread pool may exist before that
    silence_libraries()
    task = load_compared_task(args.folder, plan, task=args.task, trust_remote_code=args.trust_remote_code)
    console = Console(stderr=True, highlight=False, quiet=not PartialState().is_main_process)
    measure_drift(
        args.folder,
        task,
        corruptions=args.corruptions,
        max_samples=args.max_eval_samples,
        loading=CheckpointArguments(trust_remote_code=args.trust_remote_code),
        progress=console.print,
        workers=args.workers,
    )
    if PartialState().is_main_process:
        print_report(args.folder)
    return 0
