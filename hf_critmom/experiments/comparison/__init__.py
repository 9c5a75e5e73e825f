"""Comparisons of optimizers: arms, runner, statistics, figures and report.

Public names are imported on first use, because the processes of a script's runs need only some of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
