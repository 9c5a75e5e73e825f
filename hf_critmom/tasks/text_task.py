"""Causal language modelling: from texts to a task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from hf_critmom.tasks.arguments import DataArguments, ModelArguments
from hf_critmom.tasks.blocks import BlockDataset, cut_into_blocks, tokenize
from hf_critmom.tasks.corpora import Corpus
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.metrics import language_metrics, token_statistics
from hf_critmom.tasks.pretrained import load_tokenizer
from hf_critmom.tasks.splits import cut_to_size, held_out_share
from hf_critmom.tasks.task import ComputeMetrics, Task

_FEWEST_TEXTS = 20
"""Smallest number of texts of which whole ones are held out; of fewer, the end of each text is."""


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """Causal language modelling of blocks of tokens: each token is predicted from those before it in its block."""

    metrics: ClassVar[tuple[str, ...]] = ("bits_per_byte", "perplexity", "accuracy")
    example: ClassVar[str] = "block"

    train: BlockDataset
    validation: BlockDataset
    test: BlockDataset

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self.processor

    @property
    def vocab_size(self) -> int:
        """How many tokens a model must be able to embed."""
        largest = max(int(split.blocks.max()) for split in (self.train, self.validation, self.test))
        return max(len(self.tokenizer), largest + 1)

    @property
    def block_size(self) -> int:
        """Number of tokens in a block."""
        return self.train.blocks.shape[1]

    @property
    def compute_metrics(self) -> ComputeMetrics:
        """Bits per byte, perplexity and accuracy of the predicted tokens."""
        return language_metrics(self.validation.tokens_per_byte)

    @property
    def compute_test_metrics(self) -> ComputeMetrics:
        """The same metrics, with the test text's number of tokens per byte."""
        return language_metrics(self.test.tokens_per_byte)

    @staticmethod
    def preprocess_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Reduces logits to the summed loss and the token counts of each block."""
        return token_statistics(logits, labels)

    @property
    def inputs_text(self) -> str:
        """The size of the blocks."""
        return f"blocks of {self.block_size} tokens"

    @property
    def remedy(self) -> str:
        """Choose another model or shorter blocks."""
        return "choose a causal language model, or a smaller --block_size"

    def logits_shape(self, rows: int) -> tuple[int | None, ...]:
        """(blocks, tokens, vocabulary)."""
        return rows, self.block_size, None

    @property
    def logits_text(self) -> str:
        """One logit for each token of the vocabulary at each position."""
        return "one for each token of the vocabulary at each position of a block"

    def description(self) -> dict[str, Any]:
        """Tokens, sizes and fingerprints of the splits."""
        return {
            "name": self.name,
            "source": self.source,
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "hub_task": "text-generation",
            "tokenizer": type(self.tokenizer).__name__,
            "vocab_size": self.vocab_size,
            "block_size": self.block_size,
            "splits": {name: split.description() for name, split in self.splits.items()},
            "notes": list(self.notes),
        }


def text_task(
    loaded: Corpus, arguments: DataArguments, model: ModelArguments, *, name: str, source: str, metric: str
) -> TextTask:
    """Splits texts and cuts their tokens into blocks.

    Raises:
        TaskError: If the texts cannot be split by these flags, or a split does not fill a block.
    """
    tokenizer = _tokenizer(model)
    block_size = int(arguments.block_size or 0)
    if block_size < 2:
        raise TaskError(f"--block_size must be at least 2 tokens, got {block_size}: one to predict, and one before it.")
    texts, notes = _split(loaded, arguments)
    splits = {split: _blocks(texts[split], tokenizer, block_size, split) for split in ("train", "validation", "test")}
    splits, cut = cut_to_size(splits, arguments)
    notes += [*cut, *_notes_on_unknown(splits, tokenizer)]
    return TextTask(name=name, source=source, **splits, metric=metric, processor=tokenizer, notes=tuple(notes))


def _tokenizer(model: ModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of the flags, else the checkpoint's, else bytes."""
    named = model.tokenizer_name or model.model_name_or_path
    if named is None:
        return ByT5Tokenizer(extra_ids=0)
    tokenizer = load_tokenizer(named, model)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # some classes load an empty one from any folder
        raise TaskError(f"{named!r} has no vocabulary of a tokenizer: name one with --tokenizer_name.")
    return tokenizer


def _blocks(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_size: int, split: str) -> BlockDataset:
    try:
        num_bytes = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:
        raise TaskError(
            f"A text of split {split} has an unpaired surrogate at position {error.start}, which is not a character: "
            "repair the text."
        ) from None
    tokens = tokenize(tokenizer, texts)
    if len(tokens) < block_size:
        raise TaskError(
            f"The {split} text has {len(tokens):,} tokens, which do not fill a block of {block_size}: give more text, "
            "or choose a smaller --block_size."
        )
    return BlockDataset(cut_into_blocks(tokens, block_size), num_bytes=num_bytes, num_tokens=len(tokens))


def _notes_on_unknown(splits: dict[str, BlockDataset], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Notes on tokens for unknown text, which is easy to predict because all of it looks the same."""
    if tokenizer.unk_token_id in (None, tokenizer.eos_token_id):  # some tokenizers know everything, and name any token
        return []
    shares = {name: float(np.mean(split.blocks == tokenizer.unk_token_id)) for name, split in splits.items()}
    return [
        f"{share:.1%} of the {name} tokens stand for text that the tokenizer does not know: its metrics look better "
        "than those of a tokenizer that knows all text."
        for name, share in shares.items()
        if share
    ]


def _split(loaded: Corpus, arguments: DataArguments) -> tuple[dict[str, list[str]], list[str]]:
    """Holds out the splits that the source lacks from its training texts.

    Whole texts are held out, chosen at random, until they have the held-out share of the bytes; of few texts, the end
    of each is held out. Copies of a text are removed first, so that none is on both sides.
    """
    share = held_out_share(arguments)
    splits, unit = dict(loaded.splits), loaded.unit
    notes = list(loaded.notes)
    missing = [name for name in ("test", "validation") if name not in splits]
    for name in ("test", "validation"):
        notes += _check_unseen(splits, name)
    if not missing:
        return splits, notes
    texts = list(dict.fromkeys(splits["train"]))
    if len(texts) < len(splits["train"]):
        notes.append(f"Left out as copies of other {unit}: {len(splits['train']) - len(texts):,}.")
    total = sum(len(text.encode(errors="replace")) for text in texts)
    rng = np.random.default_rng(arguments.split_seed)
    hold_out_texts = len(texts) >= _FEWEST_TEXTS
    for number, name in enumerate(missing):
        if hold_out_texts:
            splits[name], texts = _held_out(texts, share * total, rng)
            notes.append(
                f"The {name} split is {len(splits[name]):,} {unit} of the training data, held out whole "
                f"(seed {arguments.split_seed})."
            )
        else:
            rest = share / (1.0 - number * share)  # a share of what the split before has left
            ends = [math.ceil((1.0 - rest) * len(text)) for text in texts]
            splits[name] = [text[end:] for text, end in zip(texts, ends, strict=True)]
            texts = [text[:end] for text, end in zip(texts, ends, strict=True)]
            place = "its end" if number == 0 else "what lies before that"
            each = "the training text" if len(texts) == 1 else f"each of the {len(texts)} training texts"
            notes.append(f"The {name} split is a share of {share:g} of {each}: {place}.")
    splits["train"] = texts
    for name in missing:  # near copies of a text may be on both sides
        notes += _notes_on_passages(splits, name)
    return splits, notes


def _held_out(texts: list[str], num_bytes: float, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Random texts with at least `num_bytes` bytes, and the rest, both in the original order."""
    chosen: set[int] = set()
    found = 0
    for index in rng.permutation(len(texts)):
        if found >= num_bytes:
            break
        chosen.add(int(index))
        found += len(texts[index].encode(errors="replace"))
    kept = [text for index, text in enumerate(texts) if index not in chosen]
    return [text for index, text in enumerate(texts) if index in chosen], kept


def _check_unseen(splits: dict[str, list[str]], name: str) -> list[str]:
    """Refuses a held-out split that was also given for training; returns notes if a small part of it was.

    Whole texts are compared, and passages from all over the split, which reveal a text that is part of another.
    """
    trained, texts = set(splits["train"]), splits.get(name, [])
    copies = [text for text in texts if text in trained]
    also = f"{len(copies):,} of the {len(texts):,} {name} texts {'is' if len(copies) == 1 else 'are'} also in the "
    share = sum(map(len, copies)) / max(sum(map(len, texts)), 1)
    if share > _MOST_SEEN or any(len(text) >= _LONG_TEXT for text in copies):
        raise TaskError(
            f"{also}training split: held-out text must not be trained on, so give others, or none to have some held "
            "out."
        )
    notes = [f"{also}training text: {share:.1%} of its characters."] if copies else []
    seen, passages = _seen_passages(splits, name)
    if seen > _MOST_SEEN * passages:
        raise TaskError(
            f"{seen} of {passages} passages from all over the {name} text are also in the training split: "
            "held-out text must not be trained on, so give other text, or none to have some held out."
        )
    return [*notes, *_notes_on_passages(splits, name)]


def _notes_on_passages(splits: dict[str, list[str]], name: str) -> list[str]:
    """A note on passages of a held-out split that training has, too."""
    seen, passages = _seen_passages(splits, name)
    if not seen:
        return []
    return [f"{seen} of {passages} passages from all over the {name} text are also in the training text."]


def _seen_passages(splits: dict[str, list[str]], name: str) -> tuple[int, int]:
    """Number of passages from all over a held-out split that are also in the training split, and of all of them."""
    passages, training = _passages(splits.get(name, [])), "\0".join(splits["train"])
    return sum(passage in training for passage in passages), len(passages)


def _passages(texts: Sequence[str]) -> list[str]:
    """Passages of `_LONG_TEXT` characters, evenly spaced over the texts that are at least as long."""
    longer = [text for text in texts if len(text) >= _LONG_TEXT]
    starts = [(number, start) for number, text in enumerate(longer) for start in range(0, len(text), _LONG_TEXT)]
    chosen = starts[:: max(1, len(starts) // _NUM_PASSAGES)]
    return [longer[number][min(start, len(longer[number]) - _LONG_TEXT) :][:_LONG_TEXT] for number, start in chosen]


_LONG_TEXT = 200
"""Length in characters from which two copies of a text are no coincidence, unlike copies of a heading."""

_MOST_SEEN = 0.2
"""Largest share of a held-out text, such as licences at the head of files, that may be training text, too."""

_NUM_PASSAGES = 50
