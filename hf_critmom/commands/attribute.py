"""``hf-critmom attribute``: find the layers that the remaining mistakes lie in."""

import dataclasses
import shlex
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from hf_critmom.commands import PROGRAM
from hf_critmom.commands.parser import dataclass_parser, parse_dataclasses, quieten_libraries
from hf_critmom.errors import InputError
from hf_critmom.experiments.comparison import run_of
from hf_critmom.experiments.diagnosis.arguments import AttributionArguments
from hf_critmom.experiments.diagnosis.report import write_attribution_report
from hf_critmom.experiments.diagnosis.runner import AttributionRequest, Subject, run_attribution
from hf_critmom.storage.commands import recorded_command
from hf_critmom.tasks import CheckpointArguments, DataArguments, task_name


def main(argv: list[str]) -> int:
    """Studies what is not yet studied of an attribution, and prints its report."""
    request = parse_attribution(argv)
    quieten_libraries()
    folder = run_attribution(request)
    if PartialState().is_main_process:
        console = Console()
        for shown in write_attribution_report(folder):
            console.print(shown, highlight=False)
        console.print(f"Report: {folder / 'README.md'}", highlight=False, soft_wrap=True)
    return 0


def parse_attribution(argv: list[str]) -> AttributionRequest:
    """Turns the flags of ``attribute`` into arguments.

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
    arguments, data, loading, named = parse_dataclasses(parser, argv)
    arguments.output_dir = arguments.output_dir or f"attribution-{task_name(data)}"
    labels = _labels(named.checkpoints)
    subjects = [_subject(path, label) for path, label in zip(named.checkpoints, labels, strict=True)]
    if len({subject.label for subject in subjects}) < len(subjects):  # runs of the same name from two comparisons
        pairs = zip(subjects, labels, strict=True)
        subjects = [dataclasses.replace(subject, label=label) for subject, label in pairs]
    return AttributionRequest(
        subjects, arguments, data, loading, command=recorded_command(f"{PROGRAM} attribute", argv)
    )


def _labels(paths: list[str]) -> list[str]:
    """The shortest ends of paths that tell them apart."""
    parts = [Path(path).absolute().parts if Path(path).exists() else Path(path).parts for path in paths]
    if len(set(parts)) < len(parts):
        raise InputError(f"A checkpoint is named twice among {shlex.join(paths)}: name each once.")
    lengths = [1] * len(paths)
    while len(set(ends := [part[-length:] for part, length in zip(parts, lengths, strict=True)])) < len(ends):
        lengths = [length + (ends.count(end) > 1) for length, end in zip(lengths, ends, strict=True)]
    return ["/".join(end) for end in ends]


def _subject(path: str, label: str) -> Subject:
    if (run := run_of(path)) is None:
        return Subject(path, label)
    plan, arm, seed = run
    of_a_step = f", {Path(path).name}" if Path(path).name.startswith("checkpoint-") else ""
    trained_on = plan.task.get("splits", {}).get("train", {}).get("sha256")
    return Subject(path, f"{arm}, seed {seed}{of_a_step}", arm, seed, trained_on, plan.command)
