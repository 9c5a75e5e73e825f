"""Critically damped momentum for Hugging Face Transformers.

Importing the package makes ``--optim critmom`` and its relatives known to Transformers, and the models of its tasks
to the Auto classes. It imports neither torch nor Transformers: both are extended at the moment they are imported, or
at once if they are there already, and the public names below are imported when they are first used.
"""

import importlib
import warnings
from types import ModuleType

import lazy_loader
from wrapt import register_post_import_hook

__version__ = "0.1.0"

# The public names and where they live stand in __init__.pyi, for readers of types as well.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _register(part: str) -> None:
    from hf_critmom.optim import registration

    try:
        getattr(registration, part)()
    except registration.RegistrationError as error:
        warnings.warn(str(error), stacklevel=2)


def _register_models(module: ModuleType) -> None:
    importlib.import_module("hf_critmom.tasks.resnet")


# The module of the handlers imports others that may just be importing that of the names, so each has its own hook.
register_post_import_hook(lambda module: _register("register_names"), "transformers.training_args")
register_post_import_hook(lambda module: _register("register_handlers"), "transformers.trainer_optimizer")
register_post_import_hook(_register_models, "transformers.models.auto.modeling_auto")
