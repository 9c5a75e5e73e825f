"""What is loaded from checkpoints, with one sentence where it cannot be."""

from typing import Any

from transformers import AutoImageProcessor
from transformers.models.auto.image_processing_auto import get_image_processor_config

from hf_critmom.errors import root_message
from hf_critmom.tasks.errors import TaskError


def load_pretrained(auto: Any, name_or_path: str, what: str, **options: Any) -> Any:
    """``auto.from_pretrained(name_or_path, **options)``.

    Args:
        auto: An Auto class.
        name_or_path: A folder or a name on the Hub.
        what: What is loaded, for the message.
        **options: For ``from_pretrained``.

    Raises:
        TaskError: If there is none or it is damaged.
    """
    try:
        return auto.from_pretrained(name_or_path, **options)
    except Exception as error:  # readers of weights raise errors of their own; the sentence keeps what it was
        raise TaskError(
            f"No {what} could be loaded from {name_or_path!r} ({root_message(error)}): expected a folder that "
            "save_pretrained wrote, or the name of a model on the Hub."
        ) from error


def load_image_processor(name_or_path: str) -> Any:
    """The image processor that a checkpoint came with; None if it came without.

    Raises:
        TaskError: If it cannot be used.
    """
    try:
        return AutoImageProcessor.from_pretrained(name_or_path)
    except Exception as error:  # it raises whatever the values in its file raise
        if not _has_image_processor(name_or_path):
            return None
        raise TaskError(
            f"The image processor of {name_or_path!r} cannot be used ({root_message(error)}): repair its "
            "preprocessor_config.json, or remove it to normalise by the data's own statistics."
        ) from error


def _has_image_processor(name_or_path: str) -> bool:
    try:
        return bool(get_image_processor_config(name_or_path))
    except OSError:  # its file holds no JSON
        return True
