"""``hf-critmom doctor``: what the log of a training tells about its optimizer, with nothing trained again."""

import json
from pathlib import Path

from hf_critmom.commands.parser import Parser


def parser() -> Parser:
    """The flags of ``doctor``."""
    found = Parser("doctor", "Examine the log of a training: steps, momentum, clipping, damping, divergence, cadence.")
    found.add_argument("run", type=Path, help="output folder of a Trainer, or a checkpoint in it; it is only read")
    found.add_argument(
        "--targets", type=float, nargs="+", default=(), metavar="VALUE", help="values whose first reaching is timed"
    )
    found.add_argument("--metric", help="what targets are values of; default: accuracy where it was logged, else loss")
    found.add_argument("--json", action="store_true", help="print the findings as JSON, for programs")
    return found


def main(argv: list[str]) -> int:
    """Examines a training and prints what was found."""
    args = parser().parse_args(argv)

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
        print(json.dumps(findings_as_json(log, findings), indent=2, allow_nan=False))
    else:
        Console().print(findings_table(log, findings), highlight=False)
    return 0
