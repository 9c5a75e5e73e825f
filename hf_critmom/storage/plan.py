"""The plan of an experiment: written before the first run, and compared with the request of every later command."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_critmom.errors import InputError, root_message
from hf_critmom.storage.files import create_or_open_folder, read_text, remove_partial_files, write_json
from hf_critmom.storage.locks import locked

Reconcile = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""Takes the stored and the requested plan, and returns the one to follow; raises if they contradict each other."""


@dataclass(frozen=True)
class PlanFile:
    """The file that holds the plan of one kind of experiment.

    Attributes:
        name: Name of the file, such as ``comparison.json``.
        kind: Name of the kind in messages, such as "comparison".
        error: Type of the errors to raise.
    """

    name: str
    kind: str
    error: type[InputError]

    def exists(self, folder: Path) -> bool:
        """Whether a folder holds a plan of this kind; False for names that no folder can have."""
        try:
            return (folder / self.name).exists()
        except (OSError, ValueError):
            return False

    def read(self, folder: Path) -> dict[str, Any]:
        """Reads the plan in a folder, a JSON object.

        Raises:
            InputError: If it is missing or damaged.
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
        """Writes a plan, completely or not at all."""
        write_json(folder / self.name, plan)

    def open_folder(self, folder: Path) -> None:
        """Creates the folder of an experiment of this kind, or accepts one that holds nothing of another kind.

        Raises:
            InputError: If the folder holds other files, or cannot be written.
        """
        create_or_open_folder(folder, self.kind, self.name, self.error, write=True)

    def load_or_create(
        self, folder: Path, plan: dict[str, Any], reconcile: Reconcile, *, write: bool
    ) -> dict[str, Any]:
        """Reconciles the requested plan with the stored one, and stores the result if it is new or changed.

        Launches that start at the same moment take turns.

        Args:
            folder: The folder; it is created if it does not exist.
            plan: The requested plan.
            reconcile: Called if the folder already holds a plan.
            write: Whether this is the process that writes.

        Returns:
            The plan to follow.

        Raises:
            InputError: If the stored plan contradicts the request or is damaged, or the folder holds other files or
                cannot be written.
        """
        if self.exists(folder):
            stored = self.read(folder)
            governing = reconcile(stored, plan)
            if not write:
                return governing
            if governing == stored:  # take no lock, which would leave a file behind
                remove_partial_files(folder)
                return governing
        elif not write:
            return plan
        else:
            self.open_folder(folder)
        remove_partial_files(folder)
        with locked(folder, "plan"):
            if not self.exists(folder):
                # Check again: a launch of another kind may have been faster.
                self.open_folder(folder)
                self.write(folder, plan)
                return plan
            stored = self.read(folder)
            governing = reconcile(stored, plan)
            if governing != stored:
                self.write(folder, governing)
            return governing


def json_roundtrip(value: Any) -> Any:
    """Converts a value to what it would be after storing it as JSON."""
    value = getattr(value, "value", value)  # enums
    return json.loads(json.dumps(value, default=str))


def differences(name: str, stored: Any, current: Any) -> list[str]:
    """Lists where two records differ, as "name: stored and current" with dotted names of nested values.

    Values called "notes" are left out: they are sentences for readers about what other values record.

    Example:
        >>> differences("plan", {"lr": 0.1, "seed": 1}, {"lr": 0.2, "seed": 1})
        ['plan.lr: 0.1 and 0.2']
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        keys = [key for key in dict.fromkeys([*stored, *current]) if key != "notes"]
        return [
            line for key in keys for line in differences(f"{name}.{key}", stored.get(key, "-"), current.get(key, "-"))
        ]
    return [] if json_roundtrip(stored) == json_roundtrip(current) else [f"{name}: {stored} and {current}"]
