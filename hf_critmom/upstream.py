"""Every private piece of other packages that this one relies on, each behind a function that checks it.

A piece is private where a package promises nothing about it: a name with an underscore, an attribute that no
documentation names, the order in which code runs. Each function here returns such a piece, after checking that it still
is what it was. Where a release has changed it, `UpstreamChangedError` says so in one sentence; nothing is guessed.
`PIECES` lists them all, for tests and for whoever upgrades a dependency:

    python -c "from hf_critmom import upstream; print(upstream.table())"

Code elsewhere in the package uses a private piece through this module only. The module imports nothing of these
packages before a function is called.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import EnumMeta
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import CodeType
from typing import Any, ParamSpec, TypeVar

from hf_critmom.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

TESTED = {"accelerate": "1.15.0", "torch": "2.14.1", "transformers": "5.24.0"}
"""The releases that the pieces were last checked with."""


class UpstreamChangedError(InputError):
    """A release of another package has changed a private piece; the message names it, and what to install."""


@dataclass(frozen=True)
class PrivatePiece:
    """A private piece of another package.

    Attributes:
        name: What it is called there.
        package: The package.
        purpose: What it is needed for, as the end of "is needed to".
        fetch: The function of this module that returns or uses it.
    """

    name: str
    package: str
    purpose: str
    fetch: Callable[..., Any]


PIECES: dict[str, PrivatePiece] = {}
"""All private pieces, by the names of the functions that fetch them."""


class _Changed(Exception):
    """A piece is not what it was."""


def _private(package: str, name: str, purpose: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Adds a function to `PIECES` and turns what fails in it into a sentence."""

    def decorate(fetch: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fetch)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return fetch(*args, **kwargs)
            except (ImportError, AttributeError, KeyError, TypeError, ValueError, _Changed) as error:
                if isinstance(error, InputError):
                    raise
                raise UpstreamChangedError(_sentence(PIECES[fetch.__name__])) from error

        PIECES[fetch.__name__] = PrivatePiece(name, package, purpose, checked)
        return checked

    return decorate


def _sentence(piece: PrivatePiece) -> str:
    return (
        f"{piece.package} {_installed(piece.package)} has changed {piece.name}, which is needed to {piece.purpose}: "
        f"install a newer hf-critmom, or {piece.package}=={TESTED[piece.package]}, with which this one was tested."
    )


def _installed(package: str) -> str:
    """The version of a package: as it says itself, else as its metadata does."""
    loaded = getattr(sys.modules.get(package), "__version__", None)
    try:
        return str(loaded) if loaded else version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _expect(condition: object) -> None:
    if not condition:
        raise _Changed


def _mentions(function: Any, *names: str) -> bool:
    """Whether the code of a function, or of one within it, uses attributes, arguments or texts of these names."""
    code = inspect.unwrap(function).__code__
    return set(names) <= set(_names_in(code))


def _names_in(code: CodeType) -> list[str]:
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names_in(part)]
    return [*code.co_names, *code.co_varnames, *filter(lambda part: isinstance(part, str), code.co_consts), *inner]


def table() -> str:
    """All pieces as a Markdown table: what, whose, for what, and whether the installed release still has it."""
    rows = ["| piece | package | needed to | installed release |", "| --- | --- | --- | --- |"]
    for name, piece in PIECES.items():
        try:
            CHECKS.get(name, piece.fetch)()
            state = "as expected"
        except UpstreamChangedError:
            state = "changed"
        rows.append(f"| `{piece.name}` | {piece.package} | {piece.purpose} | {state} |")
    return "\n".join(rows)


# ------------------------------------------------------------------------------------------------------------ torch


@_private("torch", "Optimizer.step.hooked", "run the hooks of an optimizer's step once")
def unhooked_step(optimizer_cls: type) -> Callable[..., Any]:
    """A torch optimizer's own step function, without the hooks that torch wraps around it.

    torch replaces ``cls.step`` by a version that runs the registered hooks when the first instance of ``cls`` is
    constructed, and marks it by ``hooked``. A subclass gets its own such version, so that calling the base's would run
    the hooks twice.

    Args:
        optimizer_cls: A class of `torch.optim`.
    """
    optimizer: Any = import_module("torch.optim").Optimizer
    _expect(_mentions(optimizer._patch_step_function, "hooked", "profile_hook_step"))
    step: Any = optimizer_cls.step  # type: ignore[attr-defined]
    if getattr(step, "hooked", False):
        step = step.__wrapped__
    _expect(callable(step) and not getattr(step, "hooked", False))
    return step


@_private("torch", "Optimizer._step_supports_amp_scaling", "count no step that a gradient scaler skips")
def leave_unscaling_to_scaler(optimizer: Any) -> None:
    """Makes `torch.amp.GradScaler` look for overflow before it calls an optimizer's step, as it does by default.

    An optimizer whose kernel is fused promises by this attribute to skip a step by itself where gradients are infinite,
    on the device, where the Python around it cannot know.

    Args:
        optimizer: The optimizer.
    """
    scaler: Any = import_module("torch.amp").GradScaler
    _expect(_mentions(scaler.step, "_step_supports_amp_scaling"))
    optimizer._step_supports_amp_scaling = False


MULTI_TENSOR_OPERATIONS = ("add", "add_", "addcmul_", "div_", "exp_", "mul", "mul_", "neg", "norm")


@_private("torch", "torch._foreach_*", "update many tensors at once")
def multi_tensor_operations() -> dict[str, Callable[..., Any]]:
    """torch's operations on lists of tensors, by their names without ``_foreach_``."""
    torch: Any = import_module("torch")
    return {name: getattr(torch, f"_foreach_{name}") for name in MULTI_TENSOR_OPERATIONS}


@_private("torch", "torch._fused_sgd_", "update many tensors in one kernel")
def fused_sgd() -> Callable[..., Any]:
    """torch's kernel of SGD for lists of parameters, gradients and velocities."""
    torch: Any = import_module("torch")
    kernel = torch._fused_sgd_
    arguments = {argument.name for argument in torch.ops.aten._fused_sgd_.default._schema.arguments}
    _expect(arguments >= {"weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize", "is_first_step"})
    return kernel


WRAPPERS = {
    "torch._dynamo.eval_frame": ("OptimizedModule", "_orig_mod"),
    "torch.distributed.fsdp._common_utils": ("FSDP_WRAPPED_MODULE", "_fsdp_wrapped_module"),
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper": (
        "_CHECKPOINT_WRAPPED_MODULE",
        "_checkpoint_wrapped_module",
    ),
}
"""Modules of torch that wrap models, with the name there that tells, and the attribute that holds the wrapped model."""


@_private("torch", "_orig_mod", "know the layers of a compiled, sharded or checkpointed model by their own names")
def wrapper_attributes(import_all: bool = False) -> tuple[str, ...]:
    """Attributes under which torch's wrappers keep the model within, which get into the names of parameters.

    Args:
        import_all: Checks the wrappers of modules that are not imported too; without it a wrapper is checked only where
            a model can have been wrapped.
    """
    for module, (name, attribute) in WRAPPERS.items():
        if import_all or module in sys.modules:
            found: Any = getattr(import_module(module), name)
            _expect(found == attribute or (inspect.isclass(found) and _mentions(found.__init__, attribute)))
    return tuple(attribute for _, attribute in WRAPPERS.values())


@_private("torch", "OptimizedModule._orig_mod", "reach the model within a compiled one")
def uncompiled_model(model: Any) -> Any:
    """The model that `torch.compile` was given, of the module that it returned; any other model as it is."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None:  # nothing can have been compiled
        return model
    _expect(_mentions(dynamo.OptimizedModule.__init__, "_orig_mod"))
    return model._orig_mod if isinstance(model, dynamo.OptimizedModule) else model


# ----------------------------------------------------------------------------------------------------- Transformers


@_private("transformers", "OptimizerNames", "make --optim critmom known")
def optimizer_names() -> Any:
    """The enum of names that ``--optim`` takes, whose tables of members are those of Python's `enum.Enum`."""
    names: Any = import_module("transformers.training_args").OptimizerNames
    _expect(isinstance(names, EnumMeta) and str in names.__mro__)
    _expect(isinstance(names._member_map_, dict) and isinstance(names._member_names_, list))
    _expect(isinstance(names._value2member_map_, dict))
    return names


@_private("transformers", "trainer_optimizer._OPTIMIZER_HANDLERS", "make --optim critmom known")
def optimizer_handlers() -> dict[Any, Callable[[Any], Any]]:
    """The Trainer's table from the names of optimizers to the functions that build them."""
    handlers: Any = import_module("transformers.trainer_optimizer")._OPTIMIZER_HANDLERS
    _expect(isinstance(handlers, dict) and optimizer_names()("sgd") in handlers)
    return handlers


@_private("transformers", "trainer_optimizer._parse_optim_args", "say what is wrong with --optim_args in one sentence")
def optim_args_parser(replacement: Callable[[Any], dict[str, str]] | None = None) -> Callable[[Any], dict[str, str]]:
    """The function by which the Trainer reads ``--optim_args``.

    Args:
        replacement: Takes its place from now on, if given.

    Returns:
        The function that was there.
    """
    module: Any = import_module("transformers.trainer_optimizer")
    trainer: Any = sys.modules.get("transformers.trainer")
    importers = [module]
    if hasattr(trainer, "Trainer"):  # else it is yet to be imported, and finds what is in the first module
        importers.append(trainer)
    for importer in importers:
        _expect(callable(importer._parse_optim_args))
    parse = module._parse_optim_args
    _expect(len(inspect.signature(parse).parameters) == 1)
    if replacement is not None:
        for importer in importers:
            importer._parse_optim_args = replacement
    return parse


@_private("transformers", "Trainer._load_from_checkpoint", "restore every weight of a checkpoint")
def trainer_loading() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two methods by which the Trainer restores weights: of a checkpoint, and of the best one."""
    trainer: Any = import_module("transformers").Trainer
    resume, best = trainer._load_from_checkpoint, trainer._load_best_model
    _expect(list(inspect.signature(resume).parameters) == ["self", "resume_from_checkpoint", "model"])
    _expect(list(inspect.signature(best).parameters) == ["self"])
    _expect(_mentions(trainer.train, "_load_from_checkpoint"))
    return resume, best


@_private("transformers", "core_model_loading.revert_weight_conversion", "verify the weights that it restores")
def weight_reversion() -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
    """The function that gives a model's tensors the names and shapes that ``save_pretrained`` writes."""
    revert: Any = import_module("transformers.core_model_loading").revert_weight_conversion
    _expect(list(inspect.signature(revert).parameters) == ["model", "state_dict"])
    return revert


# ------------------------------------------------------------------------------------------------------- Accelerate


@_private("accelerate", "DataLoaderStateMixin.end_of_dataloader", "count no row of an evaluation twice")
def rows_of_last_batch(dataloader: Any) -> int | None:
    """How many rows of the last batch of all processes are real, where a data loader has filled it up with others.

    Args:
        dataloader: A data loader in the middle of an iteration, prepared by Accelerate or not.

    Returns:
        The number of rows over all processes; None where the current batch is not the last one, or nothing was filled.
    """
    mixin: Any = import_module("accelerate.data_loader").DataLoaderStateMixin
    state = mixin()
    state.reset()
    _expect((state.end_of_dataloader, state.remainder) == (False, -1))
    if not isinstance(dataloader, mixin) or not dataloader.end_of_dataloader or dataloader.remainder <= 0:
        return None
    return int(dataloader.remainder)


@_private("accelerate", "model._original_forward", "measure curvature without mixed precision")
def forward_without_autocast(model: Any) -> Callable[..., Any] | None:
    """A model's own forward function, where Accelerate has put another around it for mixed precision; else None."""
    accelerator: Any = import_module("accelerate").Accelerator
    _expect(_mentions(accelerator.prepare_model, "_original_forward"))
    return vars(model).get("_original_forward") if "forward" in vars(model) else None


CHECKS: dict[str, Callable[[], Any]] = {
    "unhooked_step": lambda: unhooked_step(import_module("torch.optim").SGD),
    "leave_unscaling_to_scaler": lambda: leave_unscaling_to_scaler(type("Optimizer", (), {})()),
    "wrapper_attributes": lambda: wrapper_attributes(import_all=True),
    "uncompiled_model": lambda: (import_module("torch._dynamo.eval_frame"), uncompiled_model(None)),
    "rows_of_last_batch": lambda: rows_of_last_batch(None),
    "forward_without_autocast": lambda: forward_without_autocast(import_module("types").SimpleNamespace()),
}
"""How a piece is checked that needs an argument."""
