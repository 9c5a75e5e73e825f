"""What a checkpoint was trained on, and whether the splits that it is evaluated on overlap with that."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.task import Task

CHANCE_DUPLICATES = 0.01
"""Largest share of text blocks that two splits may share: by chance, or because files begin with the same licence."""

_LABELS = ("label", "labels", "label_ids")
_PROBES = 16
"""Number of examples that are read twice, to see whether a dataset returns the same each time."""


@dataclass(frozen=True)
class TrainedOn:
    """The training data of a checkpoint, as it was recorded when it was trained.

    Attributes:
        sha256: Fingerprint of the training split, see `Split.fingerprint`.
        command: The command line that trained it, for messages.
    """

    sha256: str
    command: str = ""


@dataclass(frozen=True)
class Overlap:
    """Result of a comparison of splits by content.

    Attributes:
        compared: Names of the splits that were compared with one another.
        unknown: Names of the splits whose content cannot be determined, or differs each time that it is read.
        shared: Number of text blocks that two splits share by chance, by "FIRST and SECOND".
    """

    compared: tuple[str, ...]
    unknown: tuple[str, ...]
    shared: dict[str, int]


def check_trained_on(checkpoint: str, trained_on: TrainedOn | None, task: Task, judged_on: str) -> None:
    """Checks that a checkpoint was trained on the training split of a task, so that the other splits are new to it.

    Args:
        checkpoint: Name of the checkpoint, for the message.
        trained_on: What it was trained on; None if that was not recorded, which passes.
        task: The task as the flags describe it.
        judged_on: Names of the splits that it is evaluated on, for the message.

    Raises:
        TaskError: If it was trained on something else.
    """
    if trained_on is None or trained_on.sha256 == task.description()["splits"]["train"]["sha256"]:
        return
    command = f" ({trained_on.command})" if trained_on.command else ""
    raise TaskError(
        f"{checkpoint} was trained on other {task.example}s than the training split of {task.name}, so the {judged_on} "
        f"split may hold some of those: give the data flags that it was trained with{command}."
    )


def check_same_data(task: Task, planned: Mapping[str, str]) -> None:
    """Checks that the data that this machine has loaded is that of a plan, which another machine made.

    Args:
        task: The task that was loaded.
        planned: Fingerprint of each split in the plan.

    Raises:
        TaskError: If a split has other content.
    """
    found = {name: split.fingerprint() for name, split in task.splits.items()}
    if different := [name for name, sha256 in planned.items() if found.get(name) != sha256]:
        raise TaskError(
            f"the data of {task.name} differ there from those of the plan (split {', '.join(different)}): give "
            "every machine the same data."
        )


def check_disjoint(splits: Mapping[str, Any]) -> Overlap:
    """Checks by content that no two splits share an example, whatever its label.

    A dataset may have a method ``content_keys``; the examples of any other are read once and digested.

    Args:
        splits: Datasets by name.

    Returns:
        What was compared. Of text blocks, a share of `CHANCE_DUPLICATES` may be the same.

    Raises:
        TaskError: If two of them share examples.
    """
    found = {name: content_keys(split) for name, split in splits.items()}
    keys = {name: set(of_split) for name, of_split in found.items() if of_split is not None}
    shared: dict[str, int] = {}
    for first, second in itertools.combinations(keys, 2):
        count = len(keys[first] & keys[second])
        if not count:
            continue
        text = all(_is_text(splits[name]) for name in (first, second))
        if not text or count > CHANCE_DUPLICATES * min(len(keys[first]), len(keys[second])):
            raise TaskError(
                f"The {first} and {second} splits share {count:,} example{'s' if count > 1 else ''}: what is judged on "
                "one must not have been seen in the other, so give splits that do not overlap."
            )
        shared[f"{first} and {second}"] = count
    return Overlap(tuple(keys), tuple(name for name in splits if name not in keys), shared)


def content_keys(dataset: Any) -> Sequence[bytes] | None:
    """A digest of each example of a dataset without its label; None where the content cannot be determined.

    It cannot be determined for a dataset without length or index, for one that returns random examples (as augmentation
    does), or for examples that hold anything but tensors, arrays, pictures, numbers and text.
    """
    if hasattr(dataset, "content_keys"):
        return dataset.content_keys()
    if isinstance(dataset, Subset):
        keys = content_keys(dataset.dataset)
        return None if keys is None else [keys[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [content_keys(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [key for part in parts for key in part or ()]
    return _digests(dataset)


def content_fingerprint(dataset: Any) -> str | None:
    """SHA-256 of a dataset's examples with their labels, in their order; None where `content_keys` has none.

    A dataset may have a method ``fingerprint``; the examples of any other are read.
    """
    if hasattr(dataset, "fingerprint"):
        return str(dataset.fingerprint())
    digests = _digests(dataset, labelled=True)
    return None if digests is None else hashlib.sha256(b"".join(digests)).hexdigest()


def _digests(dataset: Any, *, labelled: bool = False) -> list[bytes] | None:
    """A digest of each example; None where the content cannot be determined."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None
    count = len(dataset)
    try:
        for index in range(0, count, max(count // _PROBES, 1)):
            if _digest(dataset[index], labelled) != _digest(dataset[index], labelled):
                return None
        return [_digest(dataset[index], labelled) for index in range(count)]
    except TypeError:  # an example holds something whose content cannot be determined
        return None


def _digest(example: Any, labelled: bool) -> bytes:
    if isinstance(example, Mapping) and not labelled:
        example = {name: value for name, value in example.items() if name not in _LABELS} or example
    digest = hashlib.sha256()
    _add(digest, example)
    return digest.digest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"array {value.shape} {value.dtype}".encode() + value.tobytes())
    elif isinstance(value, Image.Image):
        digest.update(f"picture {value.size} {value.mode}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            digest.update(f"field {name!r}".encode())
            _add(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)}".encode())
        for item in value:
            _add(digest, item)
    elif value is None or isinstance(value, str | bytes | bool | int | float | np.generic):
        digest.update(repr(value).encode(errors="surrogatepass"))
    else:
        raise TypeError(f"the content of a {type(value).__name__} cannot be determined")


def _is_text(dataset: Any) -> bool:
    """Whether the examples are blocks of token ids."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    example = dataset[0] if len(dataset) else {}
    return isinstance(example, Mapping) and "input_ids" in example and "pixel_values" not in example
