"""The programs in ``scripts/`` as modules, for their tests."""

import importlib.util
import sys
from pathlib import Path
from typing import Any


def load_script(name: str) -> Any:
    """The module of ``scripts/NAME.py``, which finds the modules beside it as it does when it is run."""
    scripts = Path(__file__).parents[2] / "scripts"
    if str(scripts) not in sys.path:
        sys.path.append(str(scripts))
    spec = importlib.util.spec_from_file_location(name, scripts / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
