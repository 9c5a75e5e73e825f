"""Reads training examples beside the training, without moving the random numbers that it draws.

Datasets and collators may have generators of their own, such as those of
``DataCollatorForLanguageModeling(seed=...)`` or of augmentations, which a measurement would otherwise advance.
"""

import copy
import functools
import random
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

_LARGEST_CONTAINER = 256
"""Longer containers hold data rather than transforms."""
_MOST_OBJECTS = 10_000
"""Number of objects that are looked into at most."""

_NUMBERS = (int, float, type(None))
_CLOSED = (str, bytes, *_NUMBERS, type, types.ModuleType, torch.Tensor, np.ndarray, nn.Module)

_GetAndSet = tuple[Callable[[Any], Any], Callable[[Any, Any], None]]

_STATES: dict[type, _GetAndSet] = {
    torch.Generator: (lambda one: one.get_state(), lambda one, state: one.set_state(state)),
    np.random.Generator: (
        lambda one: copy.deepcopy(one.bit_generator.state),
        lambda one, state: setattr(one.bit_generator, "state", state),
    ),
    np.random.RandomState: (lambda one: one.get_state(), lambda one, state: one.set_state(state)),
    random.Random: (lambda one: one.getstate(), lambda one, state: one.setstate(state)),
}
"""How the state of a generator is read and set."""


@contextmanager
def generators_preserved(*owners: Any) -> Iterator[None]:
    """Restores the generators and plain counters of datasets, collators and what they consist of.

    They are found in attributes, in containers of up to 256 items, and in what functions enclose or name. A generator
    that is made on first use is made again on the training's own first use.

    Args:
        owners: Datasets, collators and the like.
    """
    found = list(_reachable(owners))
    states = [(one, kind, kind[0](one)) for one in found if (kind := _kind(one)) is not None]
    attributes = [(vars(one), dict(vars(one))) for one in found if _has_attributes(one)]
    try:
        yield
    finally:
        for one, (_, set_state), state in states:
            set_state(one, state)
        for now, before in attributes:
            for name, value in list(now.items()):
                if name not in before:
                    if _kind(value) is not None:
                        del now[name]
                elif value is not before[name] and (_kind(value) is not None or isinstance(value, _NUMBERS)):
                    now[name] = before[name]


def _kind(value: Any) -> _GetAndSet | None:
    if isinstance(value, random.SystemRandom):  # has no state
        return None
    return next((kind for cls, kind in _STATES.items() if isinstance(value, cls)), None)


def _has_attributes(value: Any) -> bool:
    return isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, _CLOSED)


def _reachable(owners: Any) -> Iterator[Any]:
    waiting: list[Any] = list(owners)
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _CLOSED):
            continue
        seen[id(value)] = value
        yield value
        waiting.extend(_parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | tuple | set):
        if len(value) <= _LARGEST_CONTAINER:
            yield from value.values() if isinstance(value, dict) else value
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        named = (value.__globals__.get(name) for name in _names(value.__code__))
        yield from (one for one in named if _kind(one) is not None)
    if _has_attributes(value):
        yield from vars(value).values()


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that code uses, comprehensions and functions within it included."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)
