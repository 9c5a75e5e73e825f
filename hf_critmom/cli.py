"""The command line: ``hf-critmom`` and ``python -m hf_critmom``, one small function per subcommand."""

import dataclasses
import os
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import datasets
from accelerate import PartialState
from huggingface_hub.utils import disable_progress_bars
from rich.console import Console
from transformers import HfArgumentParser
from transformers.utils import logging

from hf_critmom.comparison import (
    Comparison,
    ComparisonArguments,
    ComparisonTrainingArguments,
    run_comparison,
    run_of,
    write_report,
)
from hf_critmom.comparison.drift import measure_drift
from hf_critmom.comparison.plan import Plan
from hf_critmom.diagnosis.arguments import AttributionArguments
from hf_critmom.diagnosis.repair import repair_layers
from hf_critmom.diagnosis.repair_arguments import RepairArguments, RepairTrainingArguments
from hf_critmom.diagnosis.repair_report import write_report as write_repair_report
from hf_critmom.diagnosis.report import write_attribution_report
from hf_critmom.diagnosis.runner import AttributionRequest, Subject, run_attribution
from hf_critmom.diagnosis.scan import logged_training, training_seconds
from hf_critmom.errors import InputError, root_message
from hf_critmom.hub import REPO_TYPES, Pushed, Repository, Upload, push_comparison
from hf_critmom.tasks import (
    CORRUPTIONS,
    DataArguments,
    ImageTask,
    ModelArguments,
    flag_defaults,
    load_checkpoint,
    load_task,
    load_task_of,
    task_name,
)

PROGRAM = "hf-critmom"


class _Parser(HfArgumentParser):
    """A parser that answers words it cannot use with one sentence rather than with the usage of every flag."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: see {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        arguments: The words behind the program's name; default: those of this process.

    Returns:
        The exit status: 0, or 2 for input that cannot be used, with one sentence on standard error.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        print(f"{PROGRAM}: error: unknown command {command!r}: choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](rest)
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes on a machine one says it
            print(f"{PROGRAM} {command}: error: {error}", file=sys.stderr)
        return 2


def run(words: list[str]) -> int:
    """run SCRIPT [ARGS...], run -m MODULE [ARGS...]: run an unmodified training script with the optimizers registered

    The script sees the arguments, name and import path that it would see under plain ``python``.
    """
    if words[:1] == ["-m"] and len(words) > 1:
        sys.argv = words[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words and not words[0].startswith("-"):
        script = Path(words[0])
        if not script.exists():
            raise InputError(f"There is no script {script}: expected the path of a Python training script.")
        sys.argv = words
        sys.path[0] = str(script.resolve().parent)
        runpy.run_path(str(script.absolute()), run_name="__main__")
    else:
        print(f"usage: {PROGRAM} run SCRIPT [ARGS...] | {PROGRAM} run -m MODULE [ARGS...]", file=sys.stderr)
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    return 0


def compare(words: list[str]) -> int:
    """compare [--task NAME_OR_DATASET] [--arms ...] [...]: compare methods on a task, or continue a comparison"""
    asked = parse_comparison(words)
    _quieten_libraries()
    folder = run_comparison(asked)
    if asked.training.process_index == 0:
        _print_report(folder)
    return 0


def report(words: list[str]) -> int:
    """report DIR: rebuild the report of a comparison from its results"""
    parser = _Parser(prog=f"{PROGRAM} report", description="Rebuild the report of a comparison.")
    parser.add_argument("folder", type=Path, help="folder of the comparison")
    _print_report(parser.parse_args(words).folder)
    return 0


def drift(words: list[str]) -> int:
    """drift DIR [--corruptions ...] [--max_eval_samples N]: test a comparison's networks on corrupted images"""
    parser = _Parser(prog=f"{PROGRAM} drift", description="Test a comparison's networks on corrupted images.")
    parser.add_argument("folder", type=Path, help="folder of the comparison, with its models")
    parser.add_argument("--corruptions", nargs="+", choices=CORRUPTIONS, default=list(CORRUPTIONS))
    parser.add_argument("--max_eval_samples", type=int, help="test with so many images, drawn at random")
    parser.add_argument("--task", help="where the data is, if not where the comparison's command says")
    asked = parser.parse_args(words)
    of_comparison = parse_comparison(shlex.split(Plan.read(asked.folder).command)[2:])
    _quieten_libraries()
    data = of_comparison.data if asked.task is None else dataclasses.replace(of_comparison.data, task=asked.task)
    console = Console(stderr=True, highlight=False, quiet=not PartialState().is_main_process)
    measure_drift(
        asked.folder,
        load_task(data, of_comparison.model),
        corruptions=asked.corruptions,
        max_samples=asked.max_eval_samples,
        progress=console.print,
    )
    if PartialState().is_main_process:
        _print_report(asked.folder)
    return 0


def push(words: list[str]) -> int:
    """push DIR REPO_ID [--private] [--dry_run] [...]: bring a comparison and one of its models to the Hub"""
    parser = _Parser(prog=f"{PROGRAM} push", description="Bring a comparison to the Hub.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="folder of the comparison; it is only read")
    parser.add_argument("repo_id", help="repository to push to, NAMESPACE/NAME; it is created if need be")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="only list what would be pushed")
    parser.add_argument("--repo_type", "--repo-type", choices=REPO_TYPES, default="model", help="kind of repository")
    parser.add_argument("--revision", help="branch to push to; default: the main one")
    parser.add_argument("--arm", help="push this arm's model; default: the best by final validation")
    parser.add_argument("--seed", type=int, help="push this seed's model; default: the best by final validation")
    parser.add_argument("--dataset_id", help="data set of the Hub that the test result is on, for .eval_results")
    parser.add_argument("--task_id", default="default", help="its task there")
    parser.add_argument("--message", "--commit_message", help="summary of the commit")
    parser.add_argument("--token", help="access token; default: HF_TOKEN, or what hf auth login has stored")
    asked = vars(parser.parse_args(words))
    repository = Repository(asked.pop("repo_id"), asked.pop("repo_type"), asked.pop("revision"))
    if not sys.stderr.isatty():
        disable_progress_bars()
    upload, pushed = push_comparison(asked.pop("folder"), repository, **asked)
    _print_push(upload, pushed)
    return 0


def attribute(words: list[str]) -> int:
    """attribute CHECKPOINT [CHECKPOINT ...] [--task ...] [...]: find the layers that the remaining mistakes lie in"""
    asked = parse_attribution(words)
    _quieten_libraries()
    folder = run_attribution(asked)
    if PartialState().is_main_process:
        console = Console()
        for shown in write_attribution_report(folder):
            console.print(shown, highlight=False)
        console.print(f"Report: {folder / 'README.md'}", highlight=False, soft_wrap=True)
    return 0


def repair(words: list[str]) -> int:
    """repair CHECKPOINT [--task ...] [--groups auto|NAMES] [--controls]: retrain the layers to blame, and verify"""
    checkpoint, asked, data, training = parse_repair(words)
    _quieten_libraries()
    console = Console(stderr=True, highlight=False, quiet=training.process_index != 0)
    folder = Path(checkpoint)
    if folder.is_dir() and Path(str(training.output_dir)).resolve() == folder.resolve():
        raise InputError(f"--output_dir {training.output_dir} is the checkpoint itself, which is never overwritten.")
    model, task = load_checkpoint(checkpoint, load_task_of(checkpoint, data))
    found = repair_layers(
        model,
        args=training,
        train_dataset=task.train,
        diagnosis_dataset=task.validation,
        test_dataset=task.test,
        settings=asked.settings(),
        data_collator=task.collator,
        processing_class=task.processor,
        callbacks=task.callbacks(),
        log=logged_training(folder),
        record={"checkpoint": checkpoint, "task": task.description(), "diagnosis_split": "validation"},
        command=shlex.join([PROGRAM, "repair", *words]),
        progress=console.print,
    )
    if training.process_index == 0:
        shown = write_repair_report(
            found,
            label_names=task.label_names if isinstance(task, ImageTask) else (),
            hub_task=task.description().get("hub_task", "image-classification"),
            training_seconds=training_seconds(folder),
        )
        Console().print(shown)
        Console().print(f"Repaired model and report: {found.folder}", highlight=False, soft_wrap=True)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "compare": compare,
    "report": report,
    "attribute": attribute,
    "repair": repair,
    "drift": drift,
    "push": push,
}


def parse_comparison(words: list[str]) -> Comparison:
    """Turns the flags of ``compare`` into arguments; what no flag says comes from the task's own defaults.

    Raises:
        InputError: If a flag's value cannot be used.
    """
    dataclass_types = (ComparisonArguments, DataArguments, ModelArguments, ComparisonTrainingArguments)
    # Abbreviated flags would slip past the first, partial parse that finds the task.
    parser = _Parser(dataclass_types, prog=f"{PROGRAM} compare", allow_abbrev=False)
    chooser = _Parser((DataArguments, ModelArguments), prog=f"{PROGRAM} compare", add_help=False, allow_abbrev=False)
    told = [word for word in words if word not in ("-h", "--help")]
    data, model, _ = chooser.parse_args_into_dataclasses(told, return_remaining_strings=True)
    parser.set_defaults(output_dir=f"comparison-{task_name(data)}", **flag_defaults(data, model))
    comparison, data, model, training = _parsed(parser, words)
    return Comparison(comparison, data, model, training, command=shlex.join([PROGRAM, "compare", *words]))


def parse_repair(words: list[str]) -> tuple[str, RepairArguments, DataArguments, RepairTrainingArguments]:
    """Turns the words of ``repair`` into the checkpoint and arguments.

    Raises:
        InputError: If a flag's value cannot be used.
    """
    dataclass_types = (RepairArguments, DataArguments, RepairTrainingArguments)
    parser = _Parser(dataclass_types, prog=f"{PROGRAM} repair", allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the checkpoint, or its name on the Hub")
    checkpoint = parser.parse_known_args(words)[0].checkpoint
    name = Path(checkpoint).absolute().name if Path(checkpoint).exists() else checkpoint.rpartition("/")[2]
    parser.set_defaults(output_dir=f"repair-{name}")
    asked, data, training, _ = _parsed(parser, words)
    return checkpoint, asked, data, training


def _parsed(parser: _Parser, words: list[str]) -> tuple[Any, ...]:
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # TrainingArguments' own checks
        parser.error(root_message(error))
    if unknown:
        parser.error(f"unknown arguments {shlex.join(unknown)}")
    return tuple(parsed)


def parse_attribution(words: list[str]) -> AttributionRequest:
    """Turns the words of ``attribute`` into arguments.

    Raises:
        InputError: If a flag's value cannot be used, or a checkpoint is named twice.
    """
    parser = _Parser((AttributionArguments, DataArguments), prog=f"{PROGRAM} attribute", allow_abbrev=False)
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="folder of a checkpoint, or name on the Hub"
    )
    arguments, data, named = _parsed(parser, words)
    arguments.output_dir = arguments.output_dir or f"attribution-{task_name(data)}"
    labels = _labels(named.checkpoints)
    subjects = [_subject(path, label) for path, label in zip(named.checkpoints, labels, strict=True)]
    if len({subject.label for subject in subjects}) < len(subjects):  # runs of the same name from two comparisons
        pairs = zip(subjects, labels, strict=True)
        subjects = [dataclasses.replace(subject, label=label) for subject, label in pairs]
    return AttributionRequest(subjects, arguments, data, command=shlex.join([PROGRAM, "attribute", *words]))


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


def _quieten_libraries() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is in the error that it raises
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _print_report(folder: Path) -> None:
    console = Console()
    console.print(write_report(folder))
    console.print(f"Report: {folder / 'README.md'}", highlight=False, soft_wrap=True)


def _print_push(upload: Upload, pushed: Pushed | None) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    sizes = upload.sizes()
    files = f"{len(sizes)} files, {sum(sizes.values()):,} bytes"
    if pushed is None:
        console.print(f"Would push {files}, to {upload.repository}:")
        for path, size in sizes.items():
            console.print(f"{size:>13,}  {path}")
    for note in [*upload.notes, *(pushed.notes if pushed else ())]:
        console.print(note)
    if pushed is not None:
        console.print(f"Pushed: {files}." if pushed.changed else f"Nothing new: {upload.repository} has all {files}.")
        console.print(pushed.url)


def _usage() -> str:
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Critically damped momentum for Hugging Face Transformers.", ""]
    lines += [f"  {PROGRAM} {(command.__doc__ or '').splitlines()[0]}" for command in COMMANDS.values()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help tells more."])
