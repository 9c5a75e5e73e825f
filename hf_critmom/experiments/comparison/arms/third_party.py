"""Third-party optimizers by name: timm's, those of ``--optim``, and any class or function at a dotted path.

timm:lion                                  an optimizer in timm's registry
optim:adafactor                            a name of --optim
torch.optim.Adagrad                        a class, or a function of parameters and lr
timm:lion[lr=1e-4,betas=(0.9,0.99)]        the same with options
timm:lion[lr=1e-5,name=slow]               the same under another name; also slow=timm:lion[lr=1e-5]
critmom[rule=exact]                        an arm of the table with other options

Without lr or weight_decay, the optimizer's own defaults are used, because those of SGD suit few other optimizers.
"""

import ast
import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from hf_critmom.errors import root_message
from hf_critmom.experiments.comparison.arms.muon import MuonWithAdamW
from hf_critmom.experiments.comparison.errors import ComparisonError

_SPECIFICATION = re.compile(
    r"(?:(?P<name>[A-Za-z0-9][\w.-]*)=)?"
    r"(?P<source>[A-Za-z]\w*:[A-Za-z][\w-]*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z0-9][\w.-]*(?=\[))"
    r"(?:\[(?P<options>.*)\])?",
    re.DOTALL,
)
ARM_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
"""Pattern of the names of arms, which also name folders."""
_ARM_OPTIONS = ("lr", "learning_rate", "weight_decay", "schedule")
"""Options of an arm rather than of its optimizer."""
_MOMENTUM = 0.9
"""Default of timm's own factory for optimizers that take a momentum, and momentum of our baselines."""


@dataclass(frozen=True)
class ArmSpec:
    """The specification of an arm, as ``--arms`` takes it.

    Attributes:
        name: Name of the arm, which can name a folder.
        source: Name of the optimizer, such as ``timm:lion``, or of an arm of the table.
        options: Options of the optimizer.
        learning_rate: The arm's own learning rate, if given.
        weight_decay: The arm's own weight decay, if given.
        schedule: The arm's own schedule, if given.
    """

    name: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None


def is_third_party(source: str) -> bool:
    """Whether a name is that of a third-party optimizer: it has a prefix, or is a dotted path."""
    return ":" in source or "." in source


def names_code(source: str) -> bool:
    """Whether an optimizer is named by a dotted path, which can lead to any installed code."""
    return "." in source and ":" not in source


def is_arm_spec(text: str) -> bool:
    """Whether a text is the specification of an arm rather than a name in the table."""
    return is_third_party(text) or "[" in text or "=" in text


def parse_arm(text: str) -> ArmSpec:
    """Parses a specification such as ``timm:lion[lr=1e-4,weight_decay=0.1]`` or ``critmom[rule=exact]``.

    Values are Python literals, or else strings. Without a name, the arm is named after the source, and a variant of an
    arm of the table also after its options.

    Raises:
        ComparisonError: If the specification is not valid.

    Example:
        >>> parse_arm("timm:lion[lr=1e-4,betas=(0.9,0.99)]")
        ArmSpec(name='timm-lion', source='timm:lion', options={'betas': (0.9, 0.99)}, learning_rate=0.0001, \
weight_decay=None, schedule=None)
    """
    found = _SPECIFICATION.fullmatch(text)
    if found is None:
        raise ComparisonError(
            f"The arm {text!r} cannot be read: expected an arm's name, timm:NAME, optim:NAME or a dotted path to a "
            "class, with options in brackets, such as timm:lion[lr=1e-4,betas=(0.9,0.99)]."
        )
    pairs = [_pair(part, text) for part in _parts(found["options"] or "", text)]
    options = {key: _value(value) for key, value in pairs}
    arm_options = {key: options.pop(key) for key in _ARM_OPTIONS if key in options}
    if "lr" in arm_options and "learning_rate" in arm_options:
        raise ComparisonError(f"The arm {text!r} has a learning rate twice, as lr and as learning_rate: give one.")
    if found["name"] and "name" in options:
        raise ComparisonError(f"The arm {text!r} has two names: give one.")
    own = text if not is_third_party(found["source"]) else found["source"]
    name = str(found["name"] or options.pop("name", None) or re.sub(r"[^A-Za-z0-9_.-]+", "-", own).strip("-."))
    if not re.fullmatch(ARM_NAME, name):
        raise ComparisonError(f"The arm {text!r} cannot be called {name!r}: use letters, digits, '_', '-' and '.'.")
    return ArmSpec(
        name,
        found["source"],
        options,
        _number(arm_options, "lr" if "lr" in arm_options else "learning_rate", text),
        _number(arm_options, "weight_decay", text),
        None if "schedule" not in arm_options else str(arm_options["schedule"]),
    )


def third_party_optimizer(source: str, options: Mapping[str, Any], lr: float) -> tuple[Any, dict[str, Any]]:
    """The class and keyword arguments of a third-party optimizer, which is first tried on a small network.

    Args:
        source: Name of the optimizer, see the module.
        options: Options of the optimizer.
        lr: The learning rate.

    Returns:
        A class or function and its keyword arguments, as ``Trainer(optimizer_cls_and_kwargs=...)`` takes them.

    Raises:
        ComparisonError: If there is no such optimizer, or it cannot be built from parameters and a learning rate.
    """
    found, kwargs = _find(source, options, lr)
    if found is torch.optim.Muon:
        found = MuonWithAdamW
    _try(source, found, kwargs)
    return found, kwargs


def default_settings(source: str, options: Mapping[str, Any]) -> tuple[float | None, float | None, str]:
    """Learning rate, weight decay and schedule of a third-party optimizer if the arm does not give them.

    Args:
        source: Name of the optimizer.
        options: Options of the optimizer.

    Returns:
        Default of its learning rate, None if it has none; default of its weight decay, 0 if it does not take one; and
        the name of the schedule: "constant" for an optimizer with an ``eval`` method, such as Schedule-Free ones,
        which need no schedule, else "trainer".

    Raises:
        ComparisonError: If there is no such optimizer.
    """
    found, _ = _find(source, options, 0.1)
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # written in C
        parameters = {}  # type: ignore[assignment]
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    lr, weight_decay = (defaults.get(name, inspect.Parameter.empty) for name in ("lr", "weight_decay"))
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    schedule = "constant" if callable(getattr(found, "eval", None)) else "trainer"
    if weight_decay is inspect.Parameter.empty and ("weight_decay" in parameters or takes_any):
        weight_decay = None
    return _usual(lr, 0.0), 0.0 if weight_decay is inspect.Parameter.empty else _usual(weight_decay, -1.0), schedule


def _usual(value: Any, above: float) -> float | None:
    """A default value if it is a finite number above a limit, else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and above < value < float("inf") else None


def _find(source: str, options: Mapping[str, Any], lr: float) -> tuple[Any, dict[str, Any]]:
    prefix, _, name = source.rpartition(":")
    if prefix not in SOURCES:
        raise ComparisonError(
            f"Unknown source {prefix!r} of the optimizer {source}: choose one of "
            f"{', '.join(f'{known}:NAME' for known in SOURCES if known)}, or a dotted path."
        )
    return SOURCES[prefix](name, dict(options), lr)


def _from_timm(name: str, options: dict[str, Any], lr: float) -> tuple[Any, dict[str, Any]]:
    from timm.optim import get_optimizer_class, get_optimizer_info, list_optimizers

    known = list_optimizers()
    if name.lower() not in known:
        raise ComparisonError(f"timm has no optimizer {name!r}: {_near(name, known)}.")
    usual = {"momentum": _MOMENTUM} if get_optimizer_info(name.lower()).has_momentum else {}
    return _bound(get_optimizer_class(name.lower()), {**usual, **options}, lr)


def _from_transformers(name: str, options: dict[str, Any], lr: float) -> tuple[Any, dict[str, Any]]:
    from accelerate import PartialState
    from transformers import Trainer, TrainingArguments
    from transformers.training_args import OptimizerNames

    known = [one.value for one in OptimizerNames]
    if name not in known:
        raise ComparisonError(f"--optim has no {name!r}: {_near(name, known)}.")
    # Constructing arguments sets the device of this process, which must stay as it is.
    use_cpu = PartialState().device.type == "cpu"
    try:
        args = TrainingArguments(output_dir="unused", optim=name, learning_rate=lr, use_cpu=use_cpu)
        cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        raise ComparisonError(
            f"optim:{name} cannot be built ({root_message(error)}): choose another optimizer."
        ) from error
    return cls, {**kwargs, **options, "lr": kwargs.get("lr", lr)}


def _from_path(path: str, options: dict[str, Any], lr: float) -> tuple[Any, dict[str, Any]]:
    module_name, _, name = path.rpartition(".")
    if str(Path.cwd()) not in sys.path:  # modules in the working folder can be imported, after installed packages
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything on import
        raise ComparisonError(
            f"The optimizer {path} cannot be imported ({root_message(error)}): install its package, or correct the "
            "path."
        ) from error
    found = getattr(module, name, None)
    if found is None:
        named = [one for one, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Optimizer)]
        raise ComparisonError(f"{module_name} has no {name!r}: {_near(name, named)}.")
    if not callable(found) or (inspect.isclass(found) and not issubclass(found, Optimizer)):
        raise ComparisonError(
            f"{path} is not an optimizer: expected a class of torch optimizers, or a function that builds one."
        )
    return _bound(found, options, lr)


SOURCES: dict[str, Callable[[str, dict[str, Any], float], tuple[Any, dict[str, Any]]]] = {
    "timm": _from_timm,
    "optim": _from_transformers,
    "": _from_path,
}
"""Functions that find third-party optimizers, by the prefix of their names."""


def _bound(found: Any, options: dict[str, Any], lr: float) -> tuple[Any, dict[str, Any]]:
    """A class with its keyword arguments, without partials, which the Trainer would call as factories of its own."""
    kwargs = {**options, "lr": lr}
    while isinstance(found, functools.partial):
        kwargs = {**found.keywords, **kwargs}
        found = found.func
    return found, kwargs


def _try(source: str, cls: Any, kwargs: Mapping[str, Any]) -> None:
    """Builds an optimizer, takes a step and reads its state, so that options it refuses are an error beforehand."""
    with torch.random.fork_rng(devices=[]):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
        )
        parameters = list(network.parameters())
        groups = [{"params": parameters[:1], "weight_decay": 0.0}, {"params": parameters[1:], "weight_decay": 0.0}]
        try:
            optimizer = cls(groups, **kwargs)
            if not isinstance(optimizer, Optimizer):
                raise TypeError(f"it returns a {type(optimizer).__name__} instead of a torch optimizer")
            if callable(train := getattr(optimizer, "train", None)):
                train()
            network(torch.ones(2, 1, 4, 4)).square().sum().backward()
            optimizer.step()
            optimizer.state_dict()
        except Exception as error:  # third-party code may raise anything
            hint = " (timm:muon takes parameters of any shape)" if "2D" in str(error) else ""
            raise ComparisonError(
                f"{source} cannot be built from parameters and a learning rate with the options "
                f"{', '.join(f'{name}={value}' for name, value in kwargs.items())} ({root_message(error)}): change "
                f"them, or choose another optimizer{hint}."
            ) from error


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), {one.lower(): one for one in known}, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?".rstrip("?") if near else f"choose one of {', '.join(known)}"


def _parts(text: str, arm: str) -> list[str]:
    """The options, split at commas outside brackets and quotation marks."""
    parts, depth, quote, current = [], 0, "", ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        if char == "," and not depth and not quote:
            parts.append(current)
            current = ""
        else:
            current += char
    if depth or quote:
        raise ComparisonError(f"The options of the arm {arm!r} have an unmatched bracket or quotation mark: close it.")
    return [part.strip() for part in [*parts, current] if part.strip()]


def _pair(part: str, arm: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or not key.strip().isidentifier() or not value.strip():
        raise ComparisonError(f"The option {part!r} of the arm {arm!r} cannot be read: expected NAME=VALUE.")
    return key.strip(), value.strip()


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _number(options: Mapping[str, Any], key: str, arm: str) -> float | None:
    value = options.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ComparisonError(f"The arm {arm!r} has the {key} {value!r}: expected a number.")
    return float(value)
