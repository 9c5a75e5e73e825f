"""``hf-critmom run``: an unmodified training script with the optimizers registered."""

import runpy
import sys
from pathlib import Path

from hf_critmom.commands import PROGRAM
from hf_critmom.errors import InputError


def main(argv: list[str]) -> int:
    """Runs a script or module, which sees the arguments, name and import path that it would see under plain python."""
    import hf_critmom  # noqa: F401  # registers the optimizer names

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
        print(f"usage: {PROGRAM} run SCRIPT [ARGS...] | {PROGRAM} run -m MODULE [ARGS...]", file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    return 0
