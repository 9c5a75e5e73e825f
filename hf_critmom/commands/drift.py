"""``hf-critmom drift``: test a comparison's networks on corrupted images."""

from pathlib import Path

from hf_critmom.commands.parser import Parser, silence_libraries
from hf_critmom.commands.report import print_report


def parser() -> Parser:
    """The flags of ``drift``."""
    from hf_critmom.tasks import CORRUPTIONS

    found = Parser("drift", "Test a comparison's networks on corrupted images.")
    found.add_argument("folder", type=Path, help="folder of the comparison, with its models")
    found.add_argument("--workers", type=int, metavar="N", help="processes that measure; default: one for each core")
    found.add_argument(
        "--corruptions",
        nargs="+",
        choices=CORRUPTIONS,
        default=list(CORRUPTIONS),
        metavar="NAME",
        help="corruptions to measure, each at five severities: "
        + "; ".join(f"{name} ({corruption.help})" for name, corruption in CORRUPTIONS.items()),
    )
    found.add_argument("--max_eval_samples", type=int, metavar="N", help="test with N images, drawn at random")
    found.add_argument("--task", metavar="TEXT", help="where the data is, if not where the comparison found it")
    found.add_argument(
        "--trust_remote_code", action="store_true", help="run Python code that comes with the model's image processor"
    )
    return found


def main(argv: list[str]) -> int:
    """Tests the networks of a comparison on corrupted images and prints its report."""
    import torch
    from accelerate import PartialState
    from rich.console import Console

    from hf_critmom.experiments.comparison.drift import load_compared_task, measure_drift
    from hf_critmom.experiments.comparison.plan import Plan
    from hf_critmom.tasks import CheckpointArguments

    args = parser().parse_args(argv)
    plan = Plan.read(args.folder)
    torch.set_num_threads(1)  # workers are forked: no pool of threads may exist before
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
