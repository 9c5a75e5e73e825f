"""Keeps `torch.compile` out of an optimizer's step, which it would recompile for every learning rate."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

Step = TypeVar("Step", bound=Callable[..., Any])

_REASON = "its numbers follow the learning rate, and torch would recompile the update for every new value"


def uncompiled(step: Step) -> Step:
    """Decorates a step so that compiled code runs it uncompiled, and warns of that once.

    Inductor recompiles torch's own SGD for each learning rate, until the limit of recompilations is reached. It
    compiles torch's AdamW once, but to compute ``1 - beta1^t`` in single precision: 0 for the beta of ``lr`` 0.
    """
    eager_step = torch.compiler.disable(step, reason=_REASON)

    @functools.wraps(step)
    def step_outside_of_graphs(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            _warn(type(self).__name__)
            return eager_step(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    return step_outside_of_graphs  # type: ignore[return-value]


@torch.compiler.disable(reason=_REASON)
def _warn(name: str) -> None:
    warnings.warn(
        f"torch.compile leaves the step of {name} as it is: {_REASON}. Use fused=True or foreach=True, where {name} "
        "has them.",
        stacklevel=1,
    )
