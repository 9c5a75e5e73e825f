"""``hf-critmom run``: run an unmodified training script with the optimizer names registered."""

import runpy
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from hf_critmom.commands import program
from hf_critmom.errors import InputError

NO_DAMPING_LOG, RECORDED = "--no_damping_log", "--recorded"
NAMES = ("critmom", "critmom_hybrid", "critmom_adamw", "critmom_qhm", "critmom_matched", "critmom_compensated", "ikfad")
"""The names of the optimizers, written out because the help must not import torch."""


def main(argv: list[str]) -> int:
    """Runs a script or module with the same arguments, ``__name__`` and import path as under plain ``python``.

    Every Trainer that it creates logs its damping state, unless `NO_DAMPING_LOG` precedes the script. A comparison
    starts the runs of a script with `RECORDED` and a file of instructions before the script.
    """
    from hf_critmom.training.watching import watched_trainers

    own = [argument for argument in argv[:1] if argument == NO_DAMPING_LOG]
    argv = argv[len(own) :]
    recorded, argv = (argv[1], argv[2:]) if argv[:1] == [RECORDED] and len(argv) > 1 else ("", argv)
    with _recording(recorded) as prepare, watched_trainers(log_damping=not own, prepare=prepare):
        if argv[:1] == ["-m"] and len(argv) > 1:
            sys.argv = argv[1:]
            sys.path[0] = str(Path.cwd())
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        elif argv and not argv[0].startswith("-"):
            script = Path(argv[0])
            if not script.exists():
                raise InputError(f"There is no script {script}: expected the path of a Python training script.")
            if script.is_dir() and not (script / "__main__.py").exists():
                raise InputError(f"{script} is a folder: expected the path of a Python training script.")
            sys.argv = argv
            sys.path[0] = str(script.resolve().parent)
            runpy.run_path(str(script.absolute()), run_name="__main__")
        else:
            helped = argv[:1] in (["-h"], ["--help"])
            print(_help() if helped else _usage(), file=sys.stdout if helped else sys.stderr)
            return 0 if helped else 2
    return 0


def _usage() -> str:
    own = f"{program()} run [{NO_DAMPING_LOG}]"
    return f"usage: {own} SCRIPT [ARGS...]\n       {own} -m MODULE [ARGS...]"


def _help() -> str:
    names = textwrap.fill(f"{', '.join(NAMES)}.", 80, initial_indent="  ", subsequent_indent="  ")
    return f"""{_usage()}

Run an unmodified training script with the optimizer names registered.

The script's --optim then takes these names, too:
{names}
Set --learning_rate as well: the Trainer's default is one for AdamW. Options of
an optimizer are given as --optim_args "NAME=VALUE,...".

options:
  {NO_DAMPING_LOG}    do not log momentum, damping ratio and regime of each Trainer"""


def _recording(instructions: str) -> AbstractContextManager[Callable[[Any], None]]:
    """A context that records the Trainer of a run that a comparison started, and does nothing for other runs."""
    if not instructions:
        return nullcontext(lambda trainer: None)
    from hf_critmom.experiments.comparison.script.recording import recorded_run

    return recorded_run(instructions)
