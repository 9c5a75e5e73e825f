"""Makes the optimizers' names known to Transformers, which has no plug-in point for that.

``TrainingArguments`` accepts what is a member of the enum ``OptimizerNames``, ``HfArgumentParser`` takes its choices
from there, and the Trainer looks the name up in a table of handlers. `register` adds to both. These are private
pieces: where a future Transformers has changed them, `register` says so in one sentence and names the way out,
`critmom_optimizer`, which needs none of them.
"""

from enum import EnumMeta
from typing import Any

import transformers

from hf_critmom.optim.factory import OPTIMIZERS, adam_arguments, named_optimizer, warn_of_lone_processes


class RegistrationError(RuntimeError):
    """The installed Transformers lacks what registration needs."""


def register() -> None:
    """Registers every name in `OPTIMIZERS` with Transformers; calling it again changes nothing.

    Raises:
        RegistrationError: If the installed Transformers cannot be extended this way.
    """
    register_names()
    register_handlers()


def register_names() -> None:
    """Adds the names to the enum of optimizer names; ``transformers.training_args`` must be imported.

    Raises:
        RegistrationError: If the installed Transformers cannot be extended this way.
    """
    names = _names()
    for name in OPTIMIZERS:
        member = _add_member(names, name)
        # Where hf_critmom is not yet imported, unpickling imports it; where it is not installed, the error names it.
        member.__reduce_ex__ = lambda protocol, name=name: (optimizer_name, (name,))


def register_handlers() -> None:
    """Adds the handlers by which the Trainer builds our optimizers.

    Raises:
        RegistrationError: If the installed Transformers cannot be extended this way.
    """
    names, handlers = _names(), _handlers()
    for name in OPTIMIZERS:
        handlers[_add_member(names, name)] = _handler


def optimizer_name(value: str) -> Any:
    """The registered enum member of a name; pickled training arguments call this, so they register on loading."""
    register()
    return _names()(value)


def _names() -> Any:
    """The enum of optimizer names, after checking that it is what we expect."""
    try:
        from transformers import training_args

        names: Any = training_args.OptimizerNames
        intact = (
            isinstance(names, EnumMeta)
            and str in names.__mro__
            and isinstance(names._member_map_, dict)
            and isinstance(names._member_names_, list)
            and isinstance(names._value2member_map_, dict)
        )
    except (ImportError, AttributeError, TypeError):
        intact = False
    if not intact:
        raise RegistrationError(_changed())
    return names


def _handlers() -> dict[Any, Any]:
    """The Trainer's table of handlers, after checking that it is what we expect."""
    try:
        from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS as handlers

        intact = isinstance(handlers, dict) and _names()("sgd") in handlers
    except (ImportError, AttributeError, TypeError, ValueError):
        intact = False
    if not intact:
        raise RegistrationError(_changed())
    return handlers


def _changed() -> str:
    return (
        f"Transformers {transformers.__version__} names its optimizers in a way unknown to hf-critmom, "
        f"so --optim {next(iter(OPTIMIZERS))} is not available: pass "
        "Trainer(optimizer_cls_and_kwargs=hf_critmom.critmom_optimizer(args)) instead, or update hf-critmom."
    )


def _add_member(names: Any, value: str) -> Any:
    """Adds a member to a finished string enum, or returns the one that is there."""
    if value in names._value2member_map_:
        return names._value2member_map_[value]
    name = value.upper()
    member = str.__new__(names, value)
    member._name_ = name
    member._value_ = value
    type.__setattr__(names, name, member)
    names._member_names_.append(name)
    names._member_map_[name] = member
    names._value2member_map_[value] = member
    return member


def _handler(context: Any) -> tuple[Any, dict[str, Any]]:
    """The Trainer's handler: builds the optimizer that ``args.optim`` names from ``args`` and ``optim_args``."""
    args, name = context.args, context.args.optim.value
    warn_of_lone_processes(args)
    cls, kwargs = named_optimizer(name, lr=args.learning_rate, options=context.optim_args)
    return cls, {**kwargs, **adam_arguments(name, args)}
