"""Attributes of a pickled object, read from the pickle's opcodes without executing any of them.

A Trainer's ``training_args.bin`` pickles an object of whatever class the script used, so unpickling it would import
and run code that is not ours. Here the opcodes are only disassembled: plain values are taken as they are, and whatever
needs an import or a call becomes an `Opaque`, which holds the arguments of the call.
"""

import pickletools
import zipfile
from collections.abc import Container
from dataclasses import dataclass
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
    """

    arguments: Any = ()
    state: Any = None


def read_attributes(file: Path, names: Container[str]) -> dict[str, Any]:
    """Reads plain attributes of the object that `torch.save` wrote to a file, without executing anything in the file.

    Args:
        file: The file.
        names: Names of the attributes to return; others may be secrets.

    Returns:
        Numbers, strings and None by attribute name; enum members as their values. Attributes of other types are left
        out.

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
    values = {name: _member_value(value) for name, value in state.items() if name in names}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | None)}


def _member_value(value: Any) -> Any:
    """Unwraps an enum member, which is created from its value alone; other values stay as they are."""
    alone = isinstance(value, Opaque) and isinstance(value.arguments, tuple) and len(value.arguments) == 1
    return value.arguments[0] if alone else value


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
            stack.append(Opaque())
        elif name in ("STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            count = {"NEWOBJ_EX": 3}.get(name, 2)
            arguments = stack[-count + 1] if name != "STACK_GLOBAL" else ()
            stack[-count:] = [Opaque(arguments)]
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


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": Opaque}
