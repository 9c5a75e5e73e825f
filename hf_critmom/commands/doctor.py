"""``hf-critmom doctor``: examine the log of a finished or running training, without training anything."""

from pathlib import Path

from hf_critmom.commands.output import print_json
from hf_critmom.commands.parser import Parser


def build_parser() -> Parser:
    """The flags of ``doctor``."""
    parser = Parser("doctor", "Examine the log of a training run: steps, momentum, clipping, damping, divergence.")
    parser.add_argument("run", type=Path, help="output folder of a Trainer, or a checkpoint in it; never written to")
    parser.add_argument(
        "--targets",
        type=float,
        nargs="+",
        default=(),
        metavar="VALUE",
        help="report when the metric first reached these values",
    )
    parser.add_argument(
        "--metric", help="metric of the targets; default: that of the best model, else accuracy, else loss"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def main(argv: list[str]) -> int:
    """Examines a training run, and prints the findings."""
    args = build_parser().parse_args(argv)

    from rich.console import Console

    from hf_critmom.commands.comparison_runs import recorded_training
    from hf_critmom.experiments.doctor import (
        EvaluationTargets,
        examine,
        findings_as_json,
        findings_table,
        read_training,
    )

    log = recorded_training(args.run) or read_training(args.run)
    findings = examine(log, EvaluationTargets(tuple(args.targets), args.metric))
    if args.json:
        print_json(findings_as_json(log, findings))
    else:
        Console().print(findings_table(log, findings), highlight=False)
    return 0
