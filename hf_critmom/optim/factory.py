"""The optimizers by name, and the factory for ``Trainer(optimizer_cls_and_kwargs=...)``."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from hf_critmom.errors import InputError
from hf_critmom.optim.adamw import CritMomAdamW
from hf_critmom.optim.controls import CritMomCompensated, CritMomMatched
from hf_critmom.optim.damped import DAMPING_OPTIONS
from hf_critmom.optim.ikfad import IKFAD
from hf_critmom.optim.options import OPTIONS, QHM_CURVATURE, Option, check_option, parse_optim_args
from hf_critmom.optim.qhm import CritMomQHM
from hf_critmom.optim.sgd import CritMomSGD

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer that ``--optim NAME`` knows.

    Attributes:
        name: The name.
        cls: The class.
        options: Names of the options in `hf_critmom.optim.options.OPTIONS` that it takes.
        preset: Values that the name implies; given options override them.
        takes_adam_arguments: Whether ``--adam_beta2`` and ``--adam_epsilon`` are meant for it.
        help: What it is, one sentence, for the guide.
        own: Options that differ from those of the same name in the table.
    """

    name: str
    cls: type[Optimizer]
    options: tuple[str, ...]
    preset: Mapping[str, Any] = field(default_factory=dict)
    takes_adam_arguments: bool = False
    help: str = ""
    own: tuple[Option, ...] = ()

    def option(self, name: str) -> Option:
        """One of its options: its own, or the one in the table."""
        return next((option for option in self.own if option.name == name), OPTIONS[name])


_SGD_OPTIONS = (*DAMPING_OPTIONS, "nesterov", "foreach", "fused")

OPTIMIZERS: dict[str, OptimizerSpec] = {
    spec.name: spec
    for spec in (
        OptimizerSpec("critmom", CritMomSGD, _SGD_OPTIONS, help="SGD with critically damped momentum."),
        OptimizerSpec(
            "critmom_hybrid",
            CritMomSGD,
            _SGD_OPTIONS,
            preset={"hold": 0.9},
            help="SGD with critically damped momentum up to 0.9, and constant momentum from there.",
        ),
        OptimizerSpec(
            "critmom_adamw",
            CritMomAdamW,
            (*DAMPING_OPTIONS, "foreach", "fused"),
            takes_adam_arguments=True,
            help="AdamW with critically damped beta1, and the bias correction that a changing beta needs.",
        ),
        OptimizerSpec(
            "critmom_qhm",
            CritMomQHM,
            ("momentum", "curvature", "nu", "foreach", "fused"),
            help="SGD with quasi-hyperbolic momentum, whose immediate weight nu is critically damped.",
            own=(QHM_CURVATURE,),
        ),
        OptimizerSpec(
            "critmom_matched",
            CritMomMatched,
            _SGD_OPTIONS,
            help="Control: SGD with momentum 0.9, at the learning rate that gives critmom's mean step.",
        ),
        OptimizerSpec(
            "critmom_compensated",
            CritMomCompensated,
            _SGD_OPTIONS,
            help="Control: critmom, at the learning rate that gives the mean step of momentum 0.9.",
        ),
        OptimizerSpec(
            "ikfad",
            IKFAD,
            ("gamma", "alpha", "mass", "foreach"),
            help="Descent with a friction per parameter; the learning rate is the square of its step.",
        ),
    )
}


def critmom_optimizer(
    args: "TrainingArguments", *, name: str = "critmom", **overrides: Any
) -> tuple[type[Optimizer], dict[str, Any]]:
    """Class and keyword arguments for ``Trainer(optimizer_cls_and_kwargs=critmom_optimizer(args))``.

    The Trainer ignores ``args.learning_rate`` and ``args.optim_args`` when it is handed such a pair; both are taken
    over here, and followed until the optimizer is built: a trial of `Trainer.hyperparameter_search` writes its learning
    rate into the arguments only then. Weight decay comes from the Trainer's own param groups. The dictionary is new at
    every call.

    Args:
        args: The training arguments.
        name: A name in `OPTIMIZERS`.
        **overrides: Options, over those of ``args.optim_args``; also ``lr``, which then does not follow ``args``.

        >>> from transformers import TrainingArguments
        >>> args = TrainingArguments(use_cpu=True, learning_rate=0.1, optim_args="rule=exact")
        >>> cls, kwargs = critmom_optimizer(args, name="critmom_hybrid", nesterov=True)
        >>> cls.__name__, dict(kwargs)
        ('CritMomSGD', {'lr': 0.1, 'hold': 0.9, 'rule': 'exact', 'nesterov': True})

    Raises:
        InputError: If the name, an option or a value is not known, or the learning rate not positive and finite.
    """
    warn_of_separate_processes(args)
    return get_spec(name).cls, _FollowingKwargs(args, name, overrides)


class _FollowingKwargs(dict[str, Any]):
    """Keyword arguments of an optimizer that follow changes of the training arguments when they are unpacked.

    Entries that were changed by hand stay, unless the training arguments change them later.
    """

    def __init__(self, args: "TrainingArguments", name: str, overrides: Mapping[str, Any]) -> None:
        self.args, self.name, self.overrides = args, name, dict(overrides)
        self.learning_rate = args.learning_rate
        self.read = self._read()
        super().__init__(self.read)

    def _read(self) -> dict[str, Any]:
        options = {**parse_optim_args(self.args.optim_args), **self.overrides}
        lr = options.pop("lr", self.args.learning_rate)
        _, kwargs = named_optimizer(self.name, lr=lr, options=options)
        return {**kwargs, **adam_arguments(self.name, self.args)}

    def keys(self) -> Any:
        """The names, after the entries have followed the arguments; unpacking by ``**`` begins with this."""
        read = self._read()
        for option in self.read.keys() - read.keys():
            self.pop(option, None)
        self.update({option: value for option, value in read.items() if self.read.get(option, self) != value})
        if "lr" in self.overrides and self.args.learning_rate != self.learning_rate:
            warnings.warn(
                f"The learning rate of the training arguments became {self.args.learning_rate}, which does not reach "
                f"the optimizer: critmom_optimizer was called with lr={self.overrides['lr']}. Leave lr out to follow "
                "the arguments, as in a hyperparameter search.",
                stacklevel=3,
            )
        self.read, self.learning_rate = read, self.args.learning_rate
        return super().keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())  # that this is not dict's own makes ** call keys


def warn_of_separate_processes(args: "TrainingArguments") -> None:
    """Warns where several processes were launched of which each would train a model of its own.

    Transformers joins processes on CPUs only with --use_cpu.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and args.world_size == 1:
        warnings.warn(
            f"{launched} processes were launched, but each of them trains alone, with no gradient exchanged: on CPUs "
            "pass --use_cpu to train together.",
            stacklevel=3,
        )


def adam_arguments(name: str, args: "TrainingArguments") -> dict[str, Any]:
    """Keyword arguments from ``--adam_beta2`` and ``--adam_epsilon``, for the optimizers that take them."""
    if not OPTIMIZERS[name].takes_adam_arguments:
        return {}
    if args.adam_beta1 != type(args).__dataclass_fields__["adam_beta1"].default:
        warnings.warn(
            f"adam_beta1={args.adam_beta1} has no effect on {name}: its first beta follows the learning rate; hold "
            "and floor in --optim_args bound it.",
            stacklevel=3,
        )
    return {"betas": (0.9, args.adam_beta2), "eps": args.adam_epsilon}


def get_spec(name: str) -> OptimizerSpec:
    """Looks an optimizer up.

    Raises:
        InputError: If there is none of this name; the message lists those that there are.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"Unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[name]


def named_optimizer(name: str, *, lr: float, options: Mapping[str, Any]) -> tuple[type[Optimizer], dict[str, Any]]:
    """Class and keyword arguments of an optimizer from its name, learning rate and (possibly textual) options.

    Raises:
        InputError: If the name, an option or a value is not known, or the learning rate not positive and finite.
    """
    spec = get_spec(name)
    if not (math.isfinite(lr) and lr > 0.0):
        raise InputError(f"The learning rate must be positive and finite for {name}, got {lr}.")
    unknown = [option for option in options if option not in spec.options]
    if unknown:
        raise InputError(
            f"Optimizer {name} has no option {', '.join(map(repr, unknown))}: it knows {', '.join(spec.options)}."
        )
    checked = {option: check_option(spec.option(option), value) for option, value in options.items()}
    return spec.cls, {"lr": lr, **spec.preset, **checked}
