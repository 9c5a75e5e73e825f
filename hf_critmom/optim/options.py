"""The options of the critically damped optimizers: one table for constructors, factory and ``--optim_args``.

Adding an option means one line in `OPTIONS` and the keyword in the constructors that take it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hf_critmom.damping import RULES, get_rule
from hf_critmom.errors import InputError


@dataclass(frozen=True)
class Option:
    """One option of an optimizer.

    Attributes:
        name: Keyword of the constructor and key in ``--optim_args``.
        default: The constructor's default.
        expects: What a value must be, for messages and the guide.
        check: Returns the value itself if it is a proper one, after parsing it if it is text; raises
            `ValueError` or `TypeError` otherwise.
        help: What it does, one sentence, for the guide.
    """

    name: str
    default: Any
    expects: str
    check: Callable[[Any], Any]
    help: str


def _rule(value: Any) -> str:
    return get_rule(value).name


def _hold(value: Any) -> float | None:
    if value is None or str(value).lower() == "none":
        return None
    hold = float(value)
    if not 0.0 < hold < 1.0:
        raise ValueError
    return hold


def _floor(value: Any) -> float:
    floor = float(value)
    if not 0.0 <= floor < 1.0:
        raise ValueError
    return floor


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError
    return number


def _curvature_or_auto(value: Any) -> float | str:
    return "auto" if str(value).strip().lower() == "auto" else _positive(value)


def _weight(value: Any) -> float | None:
    if value is None or str(value).lower() == "none":
        return None
    weight = float(value)
    if not 0.0 <= weight <= 1.0:
        raise ValueError
    return weight


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]


def _optional_boolean(value: Any) -> bool | None:
    return None if value is None or str(value).lower() == "none" else _boolean(value)


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            "rule",
            "linear",
            f"one of {', '.join(RULES)}",
            _rule,
            "How momentum follows from the learning rate.",
        ),
        Option(
            "hold",
            None,
            "a number between 0 and 1, or none",
            _hold,
            "Ceiling of the momentum: min(critical, hold).",
        ),
        Option(
            "floor",
            0.0,
            "a number in [0, 1), at most hold",
            _floor,
            "Least momentum: max(critical, floor).",
        ),
        Option("curvature", 1.0, "a positive number", _positive, "Curvature k that is critically damped."),
        Option("momentum", 0.9, "a number in [0, 1)", _floor, "Constant momentum."),
        Option(
            "nu",
            None,
            "a number in [0, 1], or none",
            _weight,
            "Constant immediate weight, in place of the critical one.",
        ),
        Option("gamma", 1.0, "a positive number", _positive, "Constant friction."),
        Option("alpha", 1.0, "a positive number", _positive, "Decay rate of the adaptive friction."),
        Option(
            "mass",
            1.0,
            "a positive number",
            _positive,
            "Thermal mass: how much kinetic energy raises the friction by one unit.",
        ),
        Option("nesterov", False, "true or false", _boolean, "Nesterov's look-ahead gradient."),
        Option("foreach", None, "true, false or none", _optional_boolean, "torch's multi-tensor implementation."),
        Option("fused", None, "true, false or none", _optional_boolean, "torch's fused implementation."),
    )
}


DEFAULT_QHM_CURVATURE = 10.0
"""The curvature that `critmom_qhm` damps critically by default. The top curvatures in the
committed reports are 2.5 to 22 on CIFAR-10 and 2.8 to 107 on digits, so measure it where it matters."""

QHM_CURVATURE = Option(
    "curvature",
    DEFAULT_QHM_CURVATURE,
    "a positive number, or auto",
    _curvature_or_auto,
    "Curvature k that is critically damped; auto: `CurvatureCallback` measures it during the run.",
)


def check_option(option: str | Option, value: Any) -> Any:
    """Checks (and, for text, parses) one option's value.

    Args:
        option: A name in `OPTIONS`, or an option that only one optimizer has.
        value: Its value.

    Raises:
        InputError: One sentence that names the option, the value and what was expected.
    """
    option = OPTIONS[option] if isinstance(option, str) else option
    try:
        return option.check(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise InputError(f"Option {option.name}={value!r} is not valid: expected {option.expects}.") from None


@contextmanager
def refusals_in_a_sentence(optimizer: str) -> Iterator[None]:
    """Within, what torch's constructors refuse is refused as everything else is.

    Args:
        optimizer: Name of the optimizer.

    Raises:
        InputError: If torch raises an error about values.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{optimizer} cannot be built ({str(error).rstrip('.')}): change that option.") from error


def parse_optim_args(text: Any) -> dict[str, str]:
    """Splits ``--optim_args`` into names and texts.

        >>> parse_optim_args("rule=exact, nesterov=true")
        {'rule': 'exact', 'nesterov': 'true'}

    Args:
        text: The argument, or None.

    Raises:
        InputError: If it is no text, an item is not ``name=value``, or a name occurs twice.
    """
    if isinstance(text, Mapping) or (isinstance(text, str) and text.lstrip().startswith("{")):
        raise InputError(f"--optim_args is a JSON object, {text}: {_EXPECTED}.")
    if not isinstance(text, str | None):
        raise InputError(f"--optim_args is {text!r}: {_EXPECTED}.")
    pairs: dict[str, str] = {}
    for item in (text or "").split(","):
        if not item.strip():
            continue
        name, _, value = (part.strip() for part in item.partition("="))
        if not (name and value) or "=" in value:
            raise InputError(f"--optim_args holds {item.strip()!r}: {_EXPECTED}.")
        if name in pairs:
            raise InputError(f"--optim_args names {name!r} twice: give it once.")
        pairs[name] = value
    return pairs


_EXPECTED = "expected name=value pairs separated by commas, such as rule=exact,nesterov=true"
