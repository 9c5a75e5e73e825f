"""The plan of an experiment: written before the first run, compared with the request of every later command."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_critmom.errors import InputError, root_message
from hf_critmom.storage.files import create_or_open_folder, read_text, remove_partial_files, write_json
from hf_critmom.storage.locks import locked

Reconcile = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""Takes the stored and the requested plan and returns the one that governs; raises where they disagree."""


@dataclass(frozen=True)
class PlanFile:
    """Where the plan of one kind of experiment lies in its folder.

    Attributes:
        name: Name of the file, such as ``comparison.json``.
        kind: What the folder then holds, such as "comparison".
        error: The error that is raised.
    """

    name: str
    kind: str
    error: type[InputError]

    def exists(self, folder: Path) -> bool:
        """Whether a folder holds a plan of this kind; a name that no folder can have holds none."""
        try:
            return (folder / self.name).exists()
        except (OSError, ValueError):
            return False

    def read(self, folder: Path) -> dict[str, Any]:
        """The plan of a folder, a JSON object.

        Raises:
            InputError: If there is none or it is damaged.
        """
        file = folder / self.name
        try:
            plan = json.loads(read_text(file))
            if not isinstance(plan, dict):
                raise ValueError("it is not a JSON object")
        except (FileNotFoundError, NotADirectoryError):
            raise self.error(f"{folder} holds no {self.kind}: expected a folder with a {self.name}.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise self.error(
                f"{file} is not the plan of a {self.kind} ({root_message(error)}): restore it, or choose another "
                "--output_dir."
            ) from None
        return plan

    def write(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """Stores a plan, completely or not at all."""
        write_json(folder / self.name, plan)

    def load_or_create(
        self, folder: Path, plan: dict[str, Any], reconcile: Reconcile, *, write: bool
    ) -> dict[str, Any]:
        """The plan that governs a folder; a new or changed one is stored.

        Launches that begin at the same moment take turns.

        Args:
            folder: The folder; it is created if need be.
            plan: The requested plan.
            reconcile: Called where the folder holds a plan already.
            write: Whether this process is the one that writes.

        Raises:
            InputError: If the stored plan disagrees or is damaged, the folder holds other files, or cannot be written.
        """
        if self.exists(folder):
            stored = self.read(folder)
            governing = reconcile(stored, plan)
            if not write:
                return governing
            if governing == stored:  # like what is refused, it leaves no lock behind
                remove_partial_files(folder)
                return governing
        elif not write:
            return plan
        else:
            create_or_open_folder(folder, self.kind, self.name, self.error, write=True)
        remove_partial_files(folder)
        with locked(folder, "plan"):
            if not self.exists(folder):
                # Once more, since a launch of another kind may have been quicker.
                create_or_open_folder(folder, self.kind, self.name, self.error, write=True)
                self.write(folder, plan)
                return plan
            stored = self.read(folder)
            governing = reconcile(stored, plan)
            if governing != stored:
                self.write(folder, governing)
            return governing


def plain(value: Any) -> Any:
    """A value as JSON would hold it."""
    value = getattr(value, "value", value)  # enums
    return json.loads(json.dumps(value, default=str))


def differences(name: str, stored: Any, current: Any) -> list[str]:
    """What two records disagree about, as "name: stored and current", names of inner values with dots.

    Notes are sentences for readers: what they are about is recorded elsewhere, and a newer version may say more.

    Example:
        >>> differences("plan", {"lr": 0.1, "seed": 1}, {"lr": 0.2, "seed": 1})
        ['plan.lr: 0.1 and 0.2']
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        keys = [key for key in dict.fromkeys([*stored, *current]) if key != "notes"]
        return [
            line for key in keys for line in differences(f"{name}.{key}", stored.get(key, "-"), current.get(key, "-"))
        ]
    return [] if plain(stored) == plain(current) else [f"{name}: {stored} and {current}"]
