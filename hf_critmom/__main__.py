"""``python -m hf_critmom``, the same program as ``hf-critmom``."""

import sys

from hf_critmom.commands import main

if __name__ == "__main__":
    status = main()
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # at exit its threads may be torn down too early, which aborts
    sys.exit(status)
