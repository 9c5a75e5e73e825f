"""Makes the optimizers' names known to Transformers, which has no plug-in point for that.

``TrainingArguments`` accepts what is a member of the enum ``OptimizerNames``, ``HfArgumentParser`` takes its choices
from there, and the Trainer looks the name up in a table of handlers. `register` adds to both, and makes the Trainer say
what is wrong with ``--optim_args``. These are private pieces (see `hf_critmom.upstream`): where a future Transformers
has changed them, `register` says so in one sentence and names the way out, `critmom_optimizer`, which needs none of
them.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import transformers

from hf_critmom.optim.factory import OPTIMIZERS, adam_arguments, named_optimizer, warn_of_separate_processes
from hf_critmom.optim.options import parse_optim_args
from hf_critmom.upstream import UpstreamChangedError, optim_args_parser, optimizer_handlers, optimizer_names

Build = Callable[[Any], tuple[Any, dict[str, Any]]]
"""Builds an optimizer's class and keyword arguments from the Trainer's context: arguments, model and options."""
_FURTHER: dict[str, Build] = {}


class RegistrationError(RuntimeError):
    """The installed Transformers lacks what registration needs."""


def register() -> None:
    """Registers every name in `OPTIMIZERS` with Transformers; calling it again changes nothing.

    Raises:
        RegistrationError: If the installed Transformers cannot be extended this way.
    """
    register_names()
    register_handlers()


def register_optimizer(name: str, build: Build) -> None:
    """Makes a further name known to ``--optim``, in this process.

    Args:
        name: The name.
        build: Builds what the Trainer constructs the optimizer from.

    Raises:
        RegistrationError: If the installed Transformers cannot be extended this way.
    """
    _FURTHER[name] = build
    register()


def register_names() -> None:
    """Adds the names to the enum of optimizer names; ``transformers.training_args`` must be imported.

    Raises:
        RegistrationError: If the installed Transformers cannot be extended this way.
    """
    names = _names()
    for name in (*OPTIMIZERS, *_FURTHER):
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
    for name, build in _FURTHER.items():
        handlers[_add_member(names, name)] = build
    try:
        parse = optim_args_parser()
        if not hasattr(parse, "explains"):
            optim_args_parser(replacement=_explaining(parse))
    except UpstreamChangedError as error:  # the names work all the same
        warnings.warn(str(error), stacklevel=2)


def optimizer_name(value: str) -> Any:
    """The registered enum member of a name; pickled training arguments call this, so they register on loading."""
    register()
    return _names()(value)


def _names() -> Any:
    """The enum of optimizer names."""
    try:
        return optimizer_names()
    except UpstreamChangedError as error:
        raise RegistrationError(_changed()) from error


def _handlers() -> dict[Any, Any]:
    """The Trainer's table of handlers."""
    try:
        return optimizer_handlers()
    except UpstreamChangedError as error:
        raise RegistrationError(_changed()) from error


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
    warn_of_separate_processes(args)
    options = parse_optim_args(args.optim_args)  # the context's have lost names that were given twice
    cls, kwargs = named_optimizer(name, lr=args.learning_rate, options=options)
    return cls, {**kwargs, **adam_arguments(name, args)}


def _explaining(parse: Callable[[Any], dict[str, str]]) -> Callable[[Any], dict[str, str]]:
    """The Trainer's reading of ``--optim_args``, which says what is wrong with a value that it cannot take apart."""

    @functools.wraps(parse)
    def parse_or_explain(optim_args_str: Any) -> dict[str, str]:
        try:
            return parse(optim_args_str)
        except (ValueError, AttributeError):
            return parse_optim_args(optim_args_str)

    parse_or_explain.explains = True  # type: ignore[attr-defined]
    return parse_or_explain
