"""``python -m hf_critmom`` is ``hf-critmom``."""

import sys

from hf_critmom.cli import main

if __name__ == "__main__":
    sys.exit(main())
