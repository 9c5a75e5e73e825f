"""The program: ``hf-critmom``, and ``python -m hf_critmom``."""

import sys
from typing import NoReturn

from hf_critmom import commands


def main() -> NoReturn:
    """Ends the process with the exit status of the subcommand, or of the script that ``run`` has run."""
    try:
        status = commands.main()
    except SystemExit as end:  # of a script that ends itself
        if not end.code:
            _leave_process_group()
        raise
    if not status:
        _leave_process_group()
    sys.exit(status)


def _leave_process_group() -> None:
    """Ends the threads of torch's process group, which may abort if the interpreter ends before them.

    After a failure they are left as they are: the group might wait for a process that will never answer.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
