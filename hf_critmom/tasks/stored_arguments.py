"""Flags of data and model as they are stored with an experiment, so that any working folder finds its data again."""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from hf_critmom.storage.files import check_folder_name
from hf_critmom.storage.recorded_commands import recorded_value
from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.paths import is_file, is_folder
from hf_critmom.tasks.registry import TASKS

Arguments = TypeVar("Arguments")

_MAY_BE_PATHS = ("task", "dataset_name", "model_name_or_path", "tokenizer_name")


def store_arguments(arguments: Any, folder: Path) -> dict[str, Any]:
    """The flags of a dataclass that differ from their defaults, without absolute paths.

    Args:
        arguments: `DataArguments`, `ModelArguments` or another dataclass of flags.
        folder: The experiment's folder, to which paths are made relative.
    """
    given = {part.name: getattr(arguments, part.name) for part in fields(arguments)}
    defaults = {part.name: part.default for part in fields(arguments)}
    return {
        name: _relative(value, folder) if _is_local(name, value) else recorded_value(value)
        for name, value in given.items()
        if value != defaults[name]
    }


def absolute_arguments(arguments: Arguments) -> Arguments:
    """The same flags with absolute paths, for a process with another working folder.

    Args:
        arguments: `DataArguments`, `ModelArguments` or another dataclass of flags.
    """
    given = {part.name: getattr(arguments, part.name) for part in fields(arguments)}  # type: ignore[arg-type]
    absolute = {
        name: str(Path(value).expanduser().resolve()) for name, value in given.items() if _is_local(name, value)
    }
    return replace(arguments, **absolute)  # type: ignore[type-var]


def restore_arguments(arguments_type: type[Arguments], stored: Mapping[str, Any], folder: Path) -> Arguments:
    """The inverse of `store_arguments`, in any working folder.

    Args:
        arguments_type: The dataclass of flags.
        stored: The stored flags; those that this version does not know are left out.
        folder: The experiment's folder, which may have been moved together with the data.
    """
    known = {part.name for part in fields(arguments_type)}  # type: ignore[arg-type]
    return arguments_type(
        **{
            name: str(folder / value) if _is_local(name, value, folder) else value
            for name, value in stored.items()
            if name in known
        }
    )


def check_output_folder(folder: Path, data: DataArguments) -> None:
    """Refuses an output folder whose name is impossible, or that lies in a data folder, where its files would be data.

    Raises:
        TaskError: If the folder is refused.
    """
    check_folder_name(folder, TaskError)
    for part in fields(data):
        value = getattr(data, part.name)
        if not _is_local(part.name, value) or not Path(value).expanduser().is_dir():
            continue
        if folder.expanduser().resolve().is_relative_to(Path(value).expanduser().resolve()):
            raise TaskError(
                f"--output_dir {folder} lies in the data of --{part.name} {value}, so its figures and tables would be "
                "read as data: choose a folder outside."
            )


def _is_local(name: str, value: Any, folder: Path = Path()) -> bool:
    """Whether a flag's value is a file or folder."""
    if not isinstance(value, str) or not (name in _MAY_BE_PATHS or name.endswith(("_dir", "_file"))):
        return False
    path = folder / Path(value).expanduser()
    return value not in TASKS and (is_folder(path) or is_file(path))


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(Path(path).expanduser().resolve(), folder.resolve())).as_posix()
