"""``hf-critmom run``: run an unmodified training script with the optimizer names registered."""

import runpy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from hf_critmom.commands import PROGRAM
from hf_critmom.errors import InputError

NO_DAMPING_LOG, RECORDED = "--no_damping_log", "--recorded"


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
            print(
                f"usage: {PROGRAM} run SCRIPT [ARGS...] | {PROGRAM} run -m MODULE [ARGS...]; with {NO_DAMPING_LOG} "
                "before SCRIPT or -m, the damping state is not logged",
                file=sys.stderr,
            )
            return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    return 0


def _recording(instructions: str) -> AbstractContextManager[Callable[[Any], None]]:
    """A context that records the Trainer of a run that a comparison started, and does nothing for other runs."""
    if not instructions:
        return nullcontext(lambda trainer: None)
    from hf_critmom.experiments.comparison.script.recording import recorded_run

    return recorded_run(instructions)
