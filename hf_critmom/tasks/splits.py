"""Splits: their common base, their sizes, and how their batches are served."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_critmom.tasks.arguments import DataArguments
from hf_critmom.tasks.errors import TaskError


class Split(Dataset[dict[str, torch.Tensor]]):
    """A map-style dataset that serves batches.

    The data loader's fetcher calls `__getitems__` once per batch, and `collate_batches` passes its result on, so the
    work per example is a few microseconds.
    """

    on_device = False
    """Whether batches come from an accelerator's memory rather than from a loader."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of the examples at the given indices."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def evaluated(self) -> "Split":
        """The same examples as they are evaluated: without augmentation."""
        return self

    @abstractmethod
    def content_keys(self) -> list[bytes]:
        """A digest of each example without its label; equal digests mean the same example."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hexadecimal."""

    def isolate(self) -> None:
        """Gives a forked process its own copy of the state that a run sets, such as the epoch."""

    def description(self) -> dict[str, Any]:
        """What identifies the split, as JSON."""
        return {"examples": len(self), "sha256": self.fingerprint()}


def collate_batches(batch: Any) -> dict[str, torch.Tensor]:
    """Collator for a `Split`, which serves whole batches."""
    if isinstance(batch, dict):
        return batch
    return {name: torch.stack([example[name] for example in batch]) for name in batch[0]}


def held_out_share(arguments: DataArguments) -> float:
    """The share of the training data that is held out for each split that is not given.

    Raises:
        TaskError: If it does not lie between 0 and 0.5.
    """
    share = arguments.train_val_split or 0.0
    if not 0.0 < share < 0.5:
        raise TaskError(f"--train_val_split must lie between 0 and 0.5, got {share:g}.")
    return share


def cut_to_size(splits: dict[str, Any], arguments: DataArguments) -> tuple[dict[str, Any], list[str]]:
    """Cuts splits to ``max_train_samples`` and ``max_eval_samples`` examples, chosen at random by ``split_seed``.

    Args:
        splits: The splits train, validation and test by name; each has a length and ``take(indices)``.
        arguments: The flags.

    Returns:
        The splits, and a note for each that was cut.

    Raises:
        TaskError: If a limit is below 1.
    """
    limits = {
        "train": arguments.max_train_samples,
        "validation": arguments.max_eval_samples,
        "test": arguments.max_eval_samples,
    }
    notes = []
    for number, (name, limit) in enumerate(limits.items()):
        if limit is not None and limit < 1:
            flag = "--max_train_samples" if name == "train" else "--max_eval_samples"
            raise TaskError(f"{flag} must be at least 1, got {limit}.")
        if limit is not None and limit < len(splits[name]):
            notes.append(f"Only {limit:,} of {len(splits[name]):,} {name} examples are used.")
            own_rng = np.random.default_rng([arguments.split_seed, number])  # one limit changes no other split
            splits[name] = splits[name].take(own_rng.permutation(len(splits[name]))[:limit])
    return splits, notes
