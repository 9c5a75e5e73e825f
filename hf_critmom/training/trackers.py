"""Tracks an experiment with many runs: one project with a run for each, under the same names in every tracker.

The Trainer's callbacks take the names of projects and runs from different arguments and environment variables:

    tracker            project                                run
    TensorBoard        a folder, ``DIR/tensorboard``          a folder in it
    Trackio            ``args.project``                       ``args.run_name``
    Weights & Biases   those of the active run, else ``WANDB_PROJECT`` and ``args.run_name``

A process makes several runs, one after another, and neither Trackio nor Weights & Biases ends a run with its training:
later runs would be logged into the first. Weights & Biases reads its variables once per process, so its runs are
started here.
"""

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_critmom.storage.redaction import redact

TENSORBOARD_FOLDER = "tensorboard"
_SPACE = "https://huggingface.co/spaces/"


def project_name(args: TrainingArguments, folder: Path) -> str:
    """Project name of an experiment: the user's (``--project``, ``WANDB_PROJECT``), else its folder's name.

    Args:
        args: The training arguments.
        folder: The experiment's folder.
    """
    if args.project != TrainingArguments.__dataclass_fields__["project"].default:
        return str(args.project)
    return default_project(folder)


def default_project(folder: Path) -> str:
    """Project name of an experiment without ``--project``: ``WANDB_PROJECT``, else its folder's name.

    Args:
        folder: The experiment's folder.
    """
    return redact(os.environ.get("WANDB_PROJECT") or re.sub(r"[^\w.-]+", "-", folder.resolve().name))


@contextmanager
def tracked_run(args: TrainingArguments, folder: Path, run_name: str, begun: str = "") -> Iterator[None]:
    """Names and ends a run in the trackers of the Trainer that is built within the context.

    A run that continues an interrupted one continues its curves.

    Args:
        args: The training arguments of the experiment.
        folder: The experiment's folder.
        run_name: The run's name.
        begun: Distinguishes the experiment from an earlier one in the same folder, such as its start time.
    """
    board = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or folder / TENSORBOARD_FOLDER)
    trackers = args.report_to or ()
    failed = True
    try:
        if "wandb" in trackers and args.process_index == 0:
            identity = "\n".join([str(folder.resolve()), begun, run_name])
            importlib.import_module("wandb").init(
                project=project_name(args, folder),
                name=run_name,
                id=hashlib.sha256(identity.encode()).hexdigest()[:16],
                resume="allow",
            )
        with _environment({"TENSORBOARD_LOGGING_DIR": str(board / run_name)}):
            yield
        failed = False
    finally:
        _end_runs(trackers, failed=failed)


def name_space(model: Any, trackers: Collection[str]) -> None:
    """Tags a model with the Space that Trackio logs to, if any: the Hub embeds it as training metrics.

    Args:
        model: The model, whose ``model_tags`` the Trainer's card includes.
        trackers: Names of the Trainer's trackers.
    """
    if "trackio" not in trackers or "trackio" not in sys.modules:
        return
    space = sys.modules["trackio"].context_vars.current_space_id.get()
    if space:
        kept = [tag for tag in getattr(model, "model_tags", None) or [] if not str(tag).startswith("trackio")]
        model.model_tags = [*kept, "trackio", f"trackio:{_SPACE}{space}"]


def _end_runs(trackers: Collection[str], *, failed: bool) -> None:
    if "trackio" in trackers and "trackio" in sys.modules:
        trackio = sys.modules["trackio"]
        if trackio.context_vars.current_run.get() is not None:
            trackio.finish()
    if "wandb" in trackers and "wandb" in sys.modules:
        wandb = sys.modules["wandb"]
        if wandb.run is not None:
            wandb.finish(exit_code=int(failed))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
