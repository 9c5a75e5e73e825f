"""``python -m hf_critmom``, the same program as ``hf-critmom``."""

import sys

import torch

from hf_critmom.cli import main

if __name__ == "__main__":
    status = main()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # at exit its threads may be torn down too early, which aborts
    sys.exit(status)
