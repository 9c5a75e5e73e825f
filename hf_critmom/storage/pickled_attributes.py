"""Attributes of a pickled object, read from the pickle's opcodes without executing any of them.

A Trainer's ``training_args.bin`` pickles an object of whatever class the script used, so unpickling it would import
and run code that is not ours. Here the opcodes are only disassembled: plain values are taken as they are, and whatever
needs an import or a call becomes an `Opaque`, which holds the arguments of the call.
"""

import pickletools
import zipfile
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hf_critmom.storage.errors import CheckpointError

MAX_PICKLE_BYTES = 2**20
"""Largest pickle that is read, in bytes; pickled training arguments have about 4,000."""


@dataclass(eq=False)
class Opaque:
    """An object that only executing the pickle could create.

    Attributes:
        arguments: Arguments of the call that would create it.
        state: The state that its attributes would be set from; None if there is none.
        name: Dotted name of what would be imported; empty for what would be called.
        function: Dotted name of the function that would be called; empty if it is not known.
    """

    arguments: Any = ()
    state: Any = None
    name: str = ""
    function: str = ""


def read_attributes(file: Path, names: Container[str], enums: Iterable[type[Enum]] = ()) -> dict[str, Any]:
    """Reads plain attributes of the object that `torch.save` wrote to a file, without executing anything in the file.

    Args:
        file: The file.
        names: Names of the attributes to return; others may be secrets.
        enums: Classes of enum members: Python 3.11.0 to 3.11.3 pickle these by their names, later versions by their
            values.

    Returns:
        Numbers, strings and None by attribute name; enum members as their values. Attributes of other types, and
        members that are stored by the name of another class, are left out.

    Raises:
        CheckpointError: If the file cannot be read, or does not hold an object with attributes.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            if archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"it is larger than {MAX_PICKLE_BYTES:,} bytes")
            found = _disassemble(archive.read(name))
    except StopIteration:
        raise CheckpointError(f"{file} cannot be read (it holds no pickle).") from None
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}: {error}).") from None
    state = found.state if isinstance(found, Opaque) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} does not hold an object with attributes.")
    members = {f"{one.__module__}.{one.__qualname__}": one.__members__ for one in enums}
    values = {name: _member_value(value, members) for name, value in state.items() if name in names}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | None)}


def _member_value(value: Any, members: Mapping[str, Mapping[str, Enum]]) -> Any:
    """Unwraps an enum member, which is created from its value, or read from its class by its name.

    Other values stay as they are.
    """
    if not isinstance(value, Opaque) or not isinstance(value.arguments, tuple):
        return value
    if value.function in _GETATTR and len(value.arguments) == 2:
        owner, name = value.arguments
        member = members.get(owner.name, {}).get(name) if isinstance(owner, Opaque) and isinstance(name, str) else None
        return value if member is None else member.value
    return value.arguments[0] if len(value.arguments) == 1 else value


def _disassemble(pickled: bytes) -> Any:
    """The object that a pickle describes, with an `Opaque` for everything that is imported or called."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    mark = object()

    def since_mark() -> list[Any]:
        at = len(stack) - 1 - stack[::-1].index(mark)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    argument: Any
    for instruction, argument, _ in pickletools.genops(pickled):
        name = instruction.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name == "MARK":
            stack.append(mark)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument)])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("APPENDS", "ADDITEMS"):
            items = since_mark()
            stack[-1] = [*stack[-1], *items] if isinstance(stack[-1], list) else Opaque()
        elif name == "APPEND":
            item = stack.pop()
            if isinstance(stack[-1], list):
                stack[-1].append(item)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            pairs = dict(zip(items[::2], items[1::2], strict=True))
            if isinstance(stack[-1], dict):
                stack[-1].update(pairs)
        elif name == "GLOBAL":
            stack.append(Opaque(name=str(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [Opaque(name=f"{stack[-2]}.{stack[-1]}")]
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            count = {"NEWOBJ_EX": 3}.get(name, 2)
            called, arguments = stack[-count], stack[-count + 1]
            stack[-count:] = [Opaque(arguments, function=called.name if isinstance(called, Opaque) else "")]
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Opaque):
                stack[-1].state = state
        elif name == "BINPERSID":
            stack[-1] = Opaque()
        elif argument is not None and instruction.stack_before == [] and len(instruction.stack_after) == 1:
            stack.append(argument)  # numbers and strings
        else:
            raise ValueError(f"it holds the opcode {name}")
    raise ValueError("its pickle has no STOP opcode")


_GETATTR = ("builtins.getattr", "__builtin__.getattr")  # in protocols from 3 on, and before
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": Opaque}
