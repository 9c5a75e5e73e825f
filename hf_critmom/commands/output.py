"""How the commands print results for programs."""

import json
from collections.abc import Mapping
from typing import Any

from hf_critmom.storage.files import replace_non_finite


def print_json(results: Mapping[str, Any]) -> None:
    """Prints results as JSON; it has no NaN or infinity, in whose place stands null."""
    print(json.dumps(replace_non_finite(dict(results)), indent=2, allow_nan=False))
