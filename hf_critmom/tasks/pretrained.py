"""Loads configurations, models and processors of checkpoints; a failure is one sentence."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import get_image_processor_config
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from hf_critmom.errors import root_message
from hf_critmom.storage.files import find_irregular_file
from hf_critmom.storage.redaction import find_secrets
from hf_critmom.tasks.arguments import DTYPES, CheckpointArguments
from hf_critmom.tasks.errors import TaskError


def load_pretrained(auto: Any, name_or_path: str, what: str, loading: CheckpointArguments, **kwargs: Any) -> Any:
    """``auto.from_pretrained(name_or_path, **kwargs)``, without running code of the checkpoint unless that is allowed.

    Args:
        auto: An Auto class.
        name_or_path: A folder or a name on the Hub.
        what: What is loaded, for the message.
        loading: Whether code that comes with the checkpoint may run.
        **kwargs: For ``from_pretrained``.

    Raises:
        TaskError: If there is no such checkpoint, it is damaged, or it needs code of its own that may not run.
    """
    if kinds := find_secrets(name_or_path, names=False):
        raise TaskError(
            f"{name_or_path!r} holds what looks like {' and '.join(kinds)}, and names are recorded: rename it."
        )
    if odd := find_irregular_file(Path(name_or_path)):
        raise TaskError(f"{odd} is not a regular file, and reading it may never end: remove it.")
    try:
        # Left out, Transformers would ask for permission on the terminal.
        return auto.from_pretrained(name_or_path, trust_remote_code=loading.trust_remote_code, **kwargs)
    except Exception as error:  # readers of weights raise errors of their own; the message says which
        _check_remote_code(error, name_or_path, loading)
        if below := _checkpoints_below(Path(name_or_path)):
            raise TaskError(
                f"{name_or_path!r} is not a checkpoint itself: name one of those in it, {below}."
            ) from error
        raise TaskError(
            f"No {what} could be loaded from {name_or_path!r} ({root_message(error)}): expected a folder that "
            "save_pretrained wrote, or the name of a model on the Hub."
        ) from error


def _checkpoints_below(folder: Path, shown: int = 2) -> str:
    """The first checkpoints in the folders of a folder, such as a comparison, that is none itself."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return ""
    found = sorted(str(file.parent) for file in folder.rglob("config.json") if file.is_file())
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return f"such as {', '.join(found[:shown])}{more}" if found else ""


def load_model(auto: Any, name_or_path: str, what: str, loading: CheckpointArguments, **kwargs: Any) -> Any:
    """`load_pretrained` for a model, with its weights in the dtype that ``loading`` names.

    By default Transformers would keep the stored dtype, and in plain half precision most small updates are lost to
    rounding.

    Raises:
        TaskError: As `load_pretrained`, or if there is no such dtype.
    """
    dtype = "auto" if loading.dtype == "auto" else torch_dtype(loading)
    return load_pretrained(auto, name_or_path, what, loading, dtype=dtype, **kwargs)


def torch_dtype(loading: CheckpointArguments) -> torch.dtype:
    """The dtype that ``loading`` names; float32 for "auto", because a model from scratch has no stored one.

    Raises:
        TaskError: If there is no such dtype.
    """
    if loading.dtype not in DTYPES:
        raise TaskError(f"Unknown --dtype {loading.dtype!r}: choose one of {', '.join(DTYPES)}.")
    return torch.float32 if loading.dtype == "auto" else getattr(torch, loading.dtype)


def stored_dtype(name_or_path: str, loading: CheckpointArguments) -> str | None:
    """Name of the dtype in which a checkpoint's configuration says it is stored; None if it says nothing."""
    config = load_pretrained(AutoConfig, name_or_path, "configuration", loading)
    dtype = getattr(config, "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def load_tokenizer(name_or_path: str, loading: CheckpointArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        TaskError: If there is none, or if only code of the checkpoint defines its class, for which Transformers would
            silently substitute another.
    """
    if not loading.trust_remote_code and _has_own_tokenizer(name_or_path):
        raise _own_code(name_or_path)
    return load_pretrained(AutoTokenizer, name_or_path, "tokenizer", loading)


def load_image_processor(name_or_path: str, loading: CheckpointArguments) -> Any:
    """The image processor of a checkpoint; None if it has none.

    Raises:
        TaskError: If the processor cannot be used.
    """
    try:
        return AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=loading.trust_remote_code)
    except Exception as error:  # from_pretrained raises whatever the values in the file cause
        _check_remote_code(error, name_or_path, loading)
        if not _has_image_processor(name_or_path):
            return None
        raise TaskError(
            f"The image processor of {name_or_path!r} cannot be used ({root_message(error)}): repair its "
            "preprocessor_config.json, or remove it to normalize by the data's own statistics."
        ) from error


def _check_remote_code(error: Exception, name_or_path: str, loading: CheckpointArguments) -> None:
    """Raises a clear error if loading failed because the checkpoint has code of its own."""
    if "trust_remote_code" in str(error) and not loading.trust_remote_code:
        raise _own_code(name_or_path) from error


def _own_code(name_or_path: str) -> TaskError:
    return TaskError(
        f"{name_or_path!r} comes with Python code of its own, which does not run unless you allow it: read the code, "
        "then give --trust_remote_code if you trust it."
    )


def _has_own_tokenizer(name_or_path: str) -> bool:
    try:
        config = get_tokenizer_config(name_or_path)
    except (OSError, ValueError):  # loading the tokenizer says what is wrong
        return False
    return "auto_map" in config and not hasattr(transformers, str(config.get("tokenizer_class")))


def _has_image_processor(name_or_path: str) -> bool:
    try:
        return bool(get_image_processor_config(name_or_path))
    except OSError:  # its file is not JSON
        return True
