"""Checkpoints of unfinished runs: finding the last complete one, and reading the weights.

No file is trusted: pickles are loaded with ``weights_only=True``, which executes no code, and any error that a damaged
file causes in its reader is raised as a `CheckpointError`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)

from hf_critmom.errors import root_message
from hf_critmom.storage.checkpoint_folders import STEP, list_checkpoints
from hf_critmom.storage.errors import CheckpointError
from hf_critmom.storage.files import read_text

logger = logging.get_logger(__name__)

OPTIMIZER_FILE, SCHEDULER_FILE, SCALER_FILE = "optimizer.pt", "scheduler.pt", "scaler.pt"

# --------------------------------------------------------------------------------------------------------- completeness


def last_complete_checkpoint(
    folder: Path,
    *,
    world_size: int | None = 1,
    scaler: bool = False,
    sharded: bool = False,
    accepts: Callable[[Path], object] = lambda checkpoint: None,
    skip: Callable[[Path, str], object] | None = None,
) -> str | None:
    """Finds the newest checkpoint that a run can resume from.

    Newer ones that are incomplete or damaged are skipped, each with a sentence that says why. Nothing is removed,
    because another process may be writing one of them.

    Args:
        folder: Output folder of the run.
        world_size: Number of training processes; each resumes its own random number generators. None: do not check
            their states.
        scaler: Whether a gradient scaler is used (fp16).
        sharded: Whether FSDP or DeepSpeed keeps weights and optimizer state in its own folders, which are not checked.
        accepts: An additional check that raises `CheckpointError`, such as that the weights fit the model.
        skip: Called with each skipped checkpoint and the reason, as a sentence; by default, a warning is logged.

    Returns:
        The checkpoint's folder; None if there is none, and the run has to start from scratch.
    """
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            check_checkpoint(checkpoint, world_size=world_size, scaler=scaler, sharded=sharded)
            accepts(checkpoint)
        except CheckpointError as error:
            if skip is None:
                logger.warning(f"{error} The checkpoint is skipped.")
            else:
                skip(checkpoint, str(error))
        else:
            return str(checkpoint)
    return None


def check_checkpoint(
    checkpoint: Path,
    *,
    world_size: int | None = 1,
    scaler: bool = False,
    sharded: bool = False,
    weights_only: bool = False,
) -> None:
    """Checks that a checkpoint holds everything a run needs to resume, and that all of it can be read.

    Args:
        checkpoint: The checkpoint's folder.
        world_size: See `last_complete_checkpoint`.
        scaler: See `last_complete_checkpoint`.
        sharded: See `last_complete_checkpoint`.
        weights_only: Whether weights and trainer state suffice (``save_only_model``).

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"There is no checkpoint {checkpoint}.")
    read_trainer_state(checkpoint)  # the Trainer writes it last
    if not sharded:
        read_weights(checkpoint)
    if weights_only:
        return
    if not sharded:
        state = read_torch_file(checkpoint / OPTIMIZER_FILE)
        groups = state.get("param_groups")
        if not (isinstance(state.get("state"), dict) and isinstance(groups, list) and groups):
            raise CheckpointError(f"{checkpoint / OPTIMIZER_FILE} does not hold the state dict of an optimizer.")
        if not all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups):
            raise CheckpointError(f"{checkpoint / OPTIMIZER_FILE} does not hold the param groups of an optimizer.")
    if not read_torch_file(checkpoint / SCHEDULER_FILE):
        raise CheckpointError(f"{checkpoint / SCHEDULER_FILE} is empty.")
    if scaler and not read_torch_file(checkpoint / SCALER_FILE):
        raise CheckpointError(f"{checkpoint / SCALER_FILE} is empty.")
    if world_size is not None:
        check_random_states(checkpoint, world_size)


def check_random_states(checkpoint: Path, world_size: int) -> None:
    """Checks that a checkpoint holds the states of every process's random number generators.

    Raises:
        CheckpointError: If a state is missing or damaged, or another number of processes wrote them.
    """
    names = [f"rng_state_{rank}.pth" for rank in range(world_size)] if world_size > 1 else ["rng_state.pth"]
    stored = {file.name for file in checkpoint.glob("rng_state*.pth")}
    if stored and stored != set(names):
        raise CheckpointError(
            f"{checkpoint} was written by {len(stored)} process{'es' if len(stored) > 1 else ''}, and {world_size} "
            f"{'are' if world_size > 1 else 'is'} training now: the random numbers would differ."
        )
    for name in names:
        if missing := {"python", "numpy", "cpu"} - read_torch_file(checkpoint / name).keys():
            raise CheckpointError(
                f"{checkpoint / name} lacks the random number generator states of {', '.join(sorted(missing))}."
            )


def read_trainer_state(checkpoint: Path) -> TrainerState:
    """Reads the Trainer's state from a checkpoint.

    Raises:
        CheckpointError: If the file is missing or damaged, or its step is not the one in the folder's name.
    """
    file, match = checkpoint / TRAINER_STATE_NAME, STEP.fullmatch(checkpoint.name)
    try:
        content = json.loads(read_text(file))
        state = TrainerState(**content)
        if not isinstance(content.get("log_history"), list) or type(state.global_step) is not int:
            raise ValueError("it is not a Trainer's state")
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} is incomplete: it lacks {file.name}.") from None
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({root_message(error)}).") from error
    if match and state.global_step != int(match[1]):
        raise CheckpointError(f"{file} is from step {state.global_step}, but its folder is named for step {match[1]}.")
    return state


# ----------------------------------------------------------------------------------------------------------- reading


def weight_files(checkpoint: Path) -> list[Path]:
    """The files that hold a checkpoint's weights or adapters, in the format that Transformers would load.

    Raises:
        CheckpointError: If there are none, or an index names missing files.
    """
    for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME):
        if (checkpoint / name).is_file():
            return [checkpoint / name]
    for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if (checkpoint / name).is_file():
            return _shards(checkpoint / name)
    found = adapter_files(checkpoint)
    if not found:
        raise CheckpointError(f"{checkpoint} holds no weights.")
    return found


def adapter_files(checkpoint: Path) -> list[Path]:
    """The files that hold PEFT adapters: one in the checkpoint itself, or one in the folder of each adapter."""
    folders = [checkpoint, *sorted(path for path in checkpoint.glob("*") if path.is_dir())]
    names = (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)
    found = [next((folder / name for name in names if (folder / name).is_file()), None) for folder in folders]
    return [file for file in found if file is not None]


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(read_text(index))["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} cannot be read ({root_message(error)}).") from error
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise CheckpointError(f"{index} names {file.name}, which is not in its folder.")
    if not files:
        raise CheckpointError(f"{index} names no files.")
    return files


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Reads all tensors of a checkpoint's weight files onto the CPU, by their names in the files.

    Raises:
        CheckpointError: If a file is missing or damaged, or holds anything but tensors.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(checkpoint):
        weights.update(read_tensors(file))
    if not weights:
        raise CheckpointError(f"{checkpoint} holds no weights.")
    return weights


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of one weight file, in safetensors' or torch's format.

    Raises:
        CheckpointError: If the file is damaged, or holds anything but tensors.
    """
    if file.suffix != ".safetensors":
        content = read_torch_file(file)
        if others := [name for name, value in content.items() if not isinstance(value, torch.Tensor)]:
            raise CheckpointError(f"{file} holds {others[0]!r}, which is not a tensor.")
        return content
    try:
        return load_file(file)
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise CheckpointError(f"{file} cannot be read ({root_message(error)}).") from error


def read_torch_file(file: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Loads a dictionary that `torch.save` wrote onto the CPU, without executing any code in the file.

    Args:
        file: The file.
        mmap: Whether tensors are memory-mapped, so that they stay on disk until they are used.

    Raises:
        CheckpointError: If the file is missing or damaged, does not hold a dictionary, or holds objects other than
            plain data, tensors and arrays.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent} lacks {file.name}.")
    try:
        with torch.serialization.safe_globals(_array_types()):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap or None)
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise CheckpointError(f"{file} cannot be read ({root_message(error)}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not a dictionary.")
    return content


def _array_types() -> list[Any]:
    """The globals in a pickle of numpy's random state; the function that rebuilds an array has no public name."""
    array = np.zeros(1, dtype=np.uint32)
    return [array.__reduce__()[0], np.ndarray, np.dtype, type(array.dtype)]
