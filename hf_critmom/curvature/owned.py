"""What objects own that a call may change: attributes, containers and random number generators."""

import copy
import functools
import operator
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

_LARGEST_LOOKED_INTO = 256
"""Longer containers hold data rather than what processes it."""
_LARGEST_KEPT = 1_000_000
"""Longer containers hold all of the data rather than a part that was loaded."""
_MOST_OBJECTS = 10_000
"""Number of objects that are looked into at most."""

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)

_CLOSED = (str, bytes, int, float, type(None), type, types.ModuleType, torch.Tensor, np.ndarray)


class _Kind(NamedTuple):
    """How the state of a kind of generator is read, set, and made from a seed."""

    state: Callable[[Any], Any]
    set_state: Callable[[Any, Any], Any]
    seed: Callable[[Any, int], Any]


def _set_numpy_state(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state


_KINDS: dict[type, _Kind] = {
    torch.Generator: _Kind(torch.Generator.get_state, torch.Generator.set_state, torch.Generator.manual_seed),
    np.random.Generator: _Kind(
        lambda one: copy.deepcopy(one.bit_generator.state),
        _set_numpy_state,
        lambda one, seed: _set_numpy_state(one, type(one.bit_generator)(seed).state),
    ),
    np.random.RandomState: _Kind(
        np.random.RandomState.get_state, np.random.RandomState.set_state, np.random.RandomState.seed
    ),
    random.Random: _Kind(random.Random.getstate, random.Random.setstate, random.Random.seed),
}


def is_generator(value: Any) -> bool:
    """Whether a value is a random number generator that has a state."""
    return isinstance(value, tuple(_KINDS)) and not isinstance(value, random.SystemRandom)


class Generators:
    """Random number generators, and their states now.

    Args:
        found: Any values; those that are no generators are left out.
    """

    def __init__(self, found: Iterable[Any]) -> None:
        unique = {id(one): one for one in found if is_generator(one)}.values()
        self._held = [(one, next(kind for cls, kind in _KINDS.items() if isinstance(one, cls))) for one in unique]
        self._states = [kind.state(one) for one, kind in self._held]

    def seed(self, seed: int) -> None:
        """Makes each of them draw what follows from a seed."""
        for one, kind in self._held:
            kind.seed(one, seed)

    def restore(self) -> None:
        """Puts each of them where it was."""
        for (one, kind), state in zip(self._held, self._states, strict=True):
            kind.set_state(one, state)


class Held:
    """The attributes of objects and the items of containers as they are now, by reference.

    Args:
        owners: Objects and containers; those of other kinds are left out.
    """

    def __init__(self, owners: Iterable[Any]) -> None:
        owners = list(owners)
        kept = [vars(one) for one in owners if _has_attributes(one)]
        kept += [one for one in owners if type(one) in _CONTAINERS and len(one) <= _LARGEST_KEPT]
        self._kept = [(one, _items(one)) for one in kept]

    def restore(self) -> None:
        """Puts back all that was bound to something else, so that what belongs together does so again.

        What was closed in between would be of no use: its owner stays as it is, all of it.
        """
        for one, before in self._kept:
            now = _items(one)
            if [len(part) for part in now] == [len(part) for part in before] and all(
                all(map(operator.is_, *parts)) for parts in zip(now, before, strict=True)
            ):
                continue
            bound = set(map(id, now[-1]))
            if any(_is_closed(value) for value in before[-1] if id(value) not in bound):
                continue
            one.clear()
            if isinstance(one, dict):
                one.update(zip(*before, strict=True))
            else:
                (one.update if isinstance(one, set) else one.extend)(before[-1])


def _items(container: Any) -> list[list[Any]]:
    return [list(container), list(container.values())] if isinstance(container, dict) else [list(container)]


def _is_closed(value: Any) -> bool:
    """Whether a value is a file or the like that was closed; those of HDF5 are false then."""
    return hasattr(value, "close") and (getattr(value, "closed", False) is True or not value)


def generators_of(model: nn.Module, *owners: Any) -> Generators:
    """The generators that modules of a model hold as attributes, and those of what else computes a loss."""
    held = (value for module in model.modules() for value in vars(module).values())
    return Generators((*held, *reachable(*owners)))


def reachable(*owners: Any) -> Iterator[Any]:
    """Objects and what they consist of, the nearest first.

    That is their attributes, the items of containers that are not long, the functions of their class, and what these
    enclose, take by default, and name in their module: other functions there and generators, but no other objects.
    """
    waiting = deque(owners)
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.popleft()
        if id(value) in seen or isinstance(value, _CLOSED):
            continue
        seen[id(value)] = value
        yield value
        waiting.extend(_parts(value))


def _has_attributes(value: Any) -> bool:
    return isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, _CLOSED)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | tuple | set | deque):
        if len(value) <= _LARGEST_LOOKED_INTO:
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
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        for name in _names(value.__code__):
            named = value.__globals__.get(name)
            here = isinstance(named, types.FunctionType) and named.__globals__ is value.__globals__
            if here or is_generator(named):
                yield named
    if _has_attributes(value):
        yield from vars(value).values()
        yield from (one for one in vars(type(value)).values() if isinstance(one, types.FunctionType))


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that code uses, comprehensions and functions within it included."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)
