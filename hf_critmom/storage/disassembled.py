"""Attributes of a pickled object, read from the pickle's instructions without executing any of them.

`training_args.bin` of a Trainer pickles an object of whatever class the script had, so unpickling it would import and
run foreign code. Here the instructions are only disassembled: plain values are taken as they stand, and whatever a
program would have to be called for becomes an `Opaque`, which holds the arguments of the call.
"""

import pickletools
import zipfile
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_critmom.storage.errors import CheckpointError

LARGEST = 2**20
"""Bytes of a pickle that are read; training arguments take about 4,000."""


@dataclass(eq=False)
class Opaque:
    """What only executing a pickle would make: an object, by the arguments of the call that makes it.

    Attributes:
        arguments: The arguments.
        state: What its attributes are set from, if they are.
    """

    arguments: Any = ()
    state: Any = None


def read_attributes(file: Path, names: Container[str]) -> dict[str, Any]:
    """Plain attributes of the object that `torch.save` has written to a file; nothing in the file is executed.

    Args:
        file: The file.
        names: Names of the attributes. Others, which may be secrets, are not returned.

    Returns:
        Numbers, texts and None by name; an enumeration's member stands for its value. Attributes of other kinds are
        left out.

    Raises:
        CheckpointError: If the file cannot be read, or holds no object with attributes.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            if archive.getinfo(name).file_size > LARGEST:
                raise ValueError(f"it is larger than {LARGEST:,} bytes")
            found = _disassemble(archive.read(name))
    except StopIteration:
        raise CheckpointError(f"{file} cannot be read (it holds no pickle).") from None
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}: {error}).") from None
    state = found.state if isinstance(found, Opaque) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds no object with attributes.")
    values = {name: _member_value(value) for name, value in state.items() if name in names}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | None)}


def _member_value(value: Any) -> Any:
    """The value of an enumeration's member, which is made from it alone; anything else as it is."""
    alone = isinstance(value, Opaque) and isinstance(value.arguments, tuple) and len(value.arguments) == 1
    return value.arguments[0] if alone else value


def _disassemble(pickled: bytes) -> Any:
    """What a pickle's instructions build, with an `Opaque` wherever they import or call something."""
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
            stack.append(argument)  # numbers and texts
        else:
            raise ValueError(f"it holds the instruction {name}")
    raise ValueError("it has no end")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": Opaque}
