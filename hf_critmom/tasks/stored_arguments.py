"""Flags of data and model as they are stored with an experiment, so that its data is found again from anywhere."""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from hf_critmom.storage.commands import recorded_value
from hf_critmom.storage.files import check_folder_name
from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.paths import is_file, is_folder
from hf_critmom.tasks.registry import TASKS

Arguments = TypeVar("Arguments")

_MAY_BE_PATHS = ("task", "dataset_name", "model_name_or_path", "tokenizer_name")


def store_arguments(arguments: Any, folder: Path) -> dict[str, Any]:
    """Those flags of a dataclass that differ from their defaults, without absolute paths.

    Args:
        arguments: `DataArguments`, `ModelArguments` or another dataclass of flags.
        folder: The experiment's folder: files and folders are stored relative to it.
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
    """The inverse of `store_arguments`, from whatever working folder.

    Args:
        arguments_type: The dataclass of flags.
        stored: What was stored; flags that this version does not know are left out.
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
    """Refuses an output folder that cannot be one, or lies in a folder of data, of which its files would become a part.

    Raises:
        TaskError: If it is such a one.
    """
    check_folder_name(folder, TaskError)
    for part in fields(data):
        value = getattr(data, part.name)
        if not _is_local(part.name, value) or not Path(value).expanduser().is_dir():
            continue
        if folder.expanduser().resolve().is_relative_to(Path(value).expanduser().resolve()):
            raise TaskError(
                f"--output_dir {folder} lies in the data of --{part.name} {value}, of which its figures and tables "
                "would become a part: choose a folder outside."
            )


def _is_local(name: str, value: Any, folder: Path = Path()) -> bool:
    """Whether a flag's value is a file or folder."""
    if not isinstance(value, str) or not (name in _MAY_BE_PATHS or name.endswith(("_dir", "_file"))):
        return False
    path = folder / Path(value).expanduser()
    return value not in TASKS and (is_folder(path) or is_file(path))


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(Path(path).expanduser().resolve(), folder.resolve())).as_posix()
