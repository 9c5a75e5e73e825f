"""Made-up texts and tasks of them, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_critmom.tasks import (
    DataArguments,
    ModelArguments,
    TaskError,
    TextTask,
    load_task,
)
from hf_critmom.tasks.blocks import BlockDataset

BLOCK = 16
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = ModelArguments(**SIZES)


def documents(count: int, length: int = 300) -> list[str]:
    """Texts of made-up sentences, each with a name of its own in every line."""
    rng = np.random.default_rng(0)
    vocabulary = ["the", "oscillator", "swings", "back", "slowly", "until", "it", "rests", "élan", "größer"]
    texts = []
    for number in range(count):
        text = ""
        while len(text) < length:
            text += f"<{number}> " + " ".join(rng.choice(vocabulary, size=6)) + ".\n"
        texts.append(text)
    return texts


def write_texts(folder: Path, texts: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    return folder


def text_task_of(model: ModelArguments | None = None, **flags: Any) -> TextTask:
    task = load_task(DataArguments(**flags), model)
    assert isinstance(task, TextTask)
    return task


def task_on(folder: Path, model: ModelArguments | None = None, **flags: Any) -> TextTask:
    return text_task_of(model, **{"task": "text", "dataset_name": str(folder), "block_size": BLOCK, **flags})


def text_of(split: BlockDataset) -> str:
    """The text of a split whose tokens are bytes, a zero behind each text."""
    tokens = split.blocks.ravel()
    return np.where(tokens == 1, 0, tokens - 3).astype(np.uint8).tobytes().decode(errors="ignore")


def numbers_in(text: str) -> set[int]:
    """Which of `documents` a text has lines of."""
    return {int(part.partition(">")[0]) for part in text.split("<")[1:] if ">" in part}


def error_of(model: ModelArguments | None = None, **flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        text_task_of(model, **{"task": "text", "block_size": BLOCK, **flags})
    return one_sentence(caught.value)


def one_sentence(error: Exception) -> str:
    message = str(error)
    assert "\n" not in message and message.endswith("."), message
    return message
