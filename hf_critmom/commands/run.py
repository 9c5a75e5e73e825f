"""``hf-critmom run``: an unmodified training script with the optimizers registered."""

import runpy
import sys
from pathlib import Path

from hf_critmom.commands import PROGRAM
from hf_critmom.errors import InputError

NO_DAMPING_LOG = "--no_damping_log"


def main(argv: list[str]) -> int:
    """Runs a script or module, which sees the arguments, name and import path that it would see under plain python.

    Every Trainer that it builds logs its damping state, unless `NO_DAMPING_LOG` stands before the script.
    """
    from hf_critmom.training.watching import watched_trainers

    own = [argument for argument in argv[:1] if argument == NO_DAMPING_LOG]
    argv = argv[len(own) :]
    with watched_trainers(log_damping=not own):
        if argv[:1] == ["-m"] and len(argv) > 1:
            sys.argv = argv[1:]
            sys.path[0] = str(Path.cwd())
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        elif argv and not argv[0].startswith("-"):
            script = Path(argv[0])
            if not script.exists():
                raise InputError(f"There is no script {script}: expected the path of a Python training script.")
            sys.argv = argv
            sys.path[0] = str(script.resolve().parent)
            runpy.run_path(str(script.absolute()), run_name="__main__")
        else:
            print(
                f"usage: {PROGRAM} run SCRIPT [ARGS...] | {PROGRAM} run -m MODULE [ARGS...]; {NO_DAMPING_LOG} before "
                "SCRIPT or -m keeps the damping state out of the log",
                file=sys.stderr,
            )
            return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    return 0
