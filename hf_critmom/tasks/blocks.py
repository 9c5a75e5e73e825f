"""Text in memory: tokens cut into blocks of one length, which are handed out one batch at a time."""

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
        blocks: (examples, block size), token ids.
        num_bytes: Bytes of the text, in UTF-8, that all the tokens stand for.
        num_tokens: Number of these tokens; the last ones of a text may not fill a block.
    """

    def __init__(self, blocks: np.ndarray, *, num_bytes: int, num_tokens: int) -> None:
        self.blocks = np.ascontiguousarray(blocks)
        self.num_bytes = num_bytes
        self.num_tokens = num_tokens

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def tokens_per_byte(self) -> float:
        """Tokens of the text over its bytes."""
        return self.num_tokens / self.num_bytes

    def take(self, indices: np.ndarray) -> "BlockDataset":
        """The blocks of the given indices."""
        return BlockDataset(self.blocks[indices], num_bytes=self.num_bytes, num_tokens=self.num_tokens)

    def content_keys(self) -> list[bytes]:
        """A digest of each block: the same text at another place may be cut into others."""
        return [hashlib.sha256(block.astype("<i4").tobytes()).digest() for block in self.blocks]

    def fingerprint(self) -> str:
        """SHA-256 of the blocks, as hexadecimal digits."""
        digest = hashlib.sha256(repr(self.blocks.shape).encode())
        digest.update(self.blocks.astype("<i4").tobytes())
        return digest.hexdigest()

    def description(self) -> dict[str, Any]:
        """Number of blocks and fingerprint, and the size of all the text that the blocks were cut from."""
        return {**super().description(), "tokens": self.num_tokens, "bytes": self.num_bytes}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: ``input_ids`` and ``labels``, the same int64 (batch, block size); the model shifts the labels."""
        tokens = torch.from_numpy(self.blocks[np.asarray(indices)].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens.clone()}


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> np.ndarray:
    """Tokens of texts, one after the other, each followed by the token that ends a text, if there is one.

    What looks like a special token within a text is taken as the characters that it is.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.

    Returns:
        Token ids, int32, (tokens,).
    """
    texts = list(texts)
    end = np.array([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], dtype=np.int32)
    parts: list[np.ndarray] = []
    if isinstance(tokenizer, ByT5Tokenizer):  # it would take a hundred times as long to say the same
        for text in texts:
            parts += [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + tokenizer.offset, end]
    else:
        for first in range(0, len(texts), _TEXTS_AT_A_TIME):
            batch = texts[first : first + _TEXTS_AT_A_TIME]
            for ids in tokenizer(batch, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
                parts += [np.array(ids, dtype=np.int32), end]
    return np.concatenate([end[:0], *parts])


def blocks_of(tokens: np.ndarray, block_size: int) -> np.ndarray:
    """Tokens (tokens,) as (blocks, block size), without the last ones that do not fill a block."""
    num_blocks = len(tokens) // block_size
    return tokens[: num_blocks * block_size].reshape(num_blocks, block_size)
