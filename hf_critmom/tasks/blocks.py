"""Text in memory: tokens cut into blocks of equal length and served in batches."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from hf_critmom.tasks.splits import Split

_TEXTS_AT_A_TIME = 1000


class BlockDataset(Split):
    """Blocks of tokens, for causal language models.

    Args:
        blocks: Token ids, (examples, block size).
        num_bytes: Size of the whole text in bytes of UTF-8.
        num_tokens: Number of tokens of the whole text, including those at its end that fill no block.
    """

    def __init__(self, blocks: np.ndarray, *, num_bytes: int, num_tokens: int) -> None:
        self.blocks = np.ascontiguousarray(blocks)
        self.num_bytes = num_bytes
        self.num_tokens = num_tokens

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def tokens_per_byte(self) -> float:
        """Number of tokens of the text over its number of bytes."""
        return self.num_tokens / self.num_bytes

    def take(self, indices: np.ndarray) -> "BlockDataset":
        """A dataset of the blocks at the given indices."""
        return BlockDataset(self.blocks[indices], num_bytes=self.num_bytes, num_tokens=self.num_tokens)

    def content_keys(self) -> list[bytes]:
        """A digest of each block. The same text at another offset may be cut into other blocks."""
        return [hashlib.sha256(block.astype("<i4").tobytes()).digest() for block in self.blocks]

    def fingerprint(self) -> str:
        """SHA-256 of the blocks, in hexadecimal."""
        digest = hashlib.sha256(repr(self.blocks.shape).encode())
        digest.update(self.blocks.astype("<i4").tobytes())
        return digest.hexdigest()

    def description(self) -> dict[str, Any]:
        """Number of blocks and fingerprint, and the size of all the text that the blocks were cut from."""
        return {**super().description(), "tokens": self.num_tokens, "bytes": self.num_bytes}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch of equal ``input_ids`` and ``labels``, int64 (batch, block size); the model shifts the labels."""
        tokens = torch.from_numpy(self.blocks[np.asarray(indices)].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens.clone()}


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> np.ndarray:
    """Concatenates the tokens of texts, each followed by the tokenizer's end-of-text token, if it has one.

    A special token that is spelled out in a text is tokenised as ordinary characters.

    Returns:
        Token ids, int32, (tokens,).
    """
    texts = list(texts)
    end = np.array([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], dtype=np.int32)
    parts: list[np.ndarray] = []
    if isinstance(tokenizer, ByT5Tokenizer):  # calling it gives the same, a hundred times as slowly
        for text in texts:
            parts += [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + tokenizer.offset, end]
    else:
        for first in range(0, len(texts), _TEXTS_AT_A_TIME):
            batch = texts[first : first + _TEXTS_AT_A_TIME]
            for ids in tokenizer(batch, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
                parts += [np.array(ids, dtype=np.int32), end]
    return np.concatenate([end[:0], *parts])


def cut_into_blocks(tokens: np.ndarray, block_size: int) -> np.ndarray:
    """Reshapes tokens (tokens,) to (blocks, block size); those at the end that fill no block are dropped."""
    num_blocks = len(tokens) // block_size
    return tokens[: num_blocks * block_size].reshape(num_blocks, block_size)
