"""Comparisons of methods on a task: arms, runner, statistics, figures and report.

The public names are imported when they are first used: the processes of a script's runs need a part of it only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
