"""Training scripts of the Transformers kind for tests, on tiny models and data made on the spot."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from hf_critmom.commands import main

SCRIPT = '''
"""A training script in the form of the official examples, which knows nothing of hf-critmom."""
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed


@dataclass
class Arguments:
    examples: int = field(default=32)
    {options}


def main():
    parser = HfArgumentParser((Arguments, TrainingArguments))
    ours, args = parser.parse_args_into_dataclasses()
    {before}
    set_seed(args.seed)
    config = GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    draws = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 4, (ours.examples, 1), generator=draws)
    rows = (torch.randint(0, 16, (ours.examples, 1), generator=draws) + steps * torch.arange(8)) % 16
    data = [{"input_ids": row, "labels": row} for row in rows]

    def accuracy(prediction):
        right = prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]
        return {"accuracy": float(right.mean())}

    trainer = Trainer(model=model, args=args, train_dataset=data[8:], eval_dataset=data[:8], compute_metrics=accuracy)
    checkpoints = sorted(Path(args.output_dir).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    {train}
    {after}


if __name__ == "__main__":
    main()
'''
TRAIN = "trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)"
ARGUMENTS = (
    *("--per_device_train_batch_size", "4", "--num_train_epochs", "2", "--learning_rate", "0.01"),
    *("--use_cpu", "--disable_tqdm", "true", "--examples", "32"),
)


def write_script(folder: Path, name: str = "train.py", **parts: str) -> Path:
    """A script with lines of its own: options, and what happens before, in and after training."""
    text = SCRIPT
    for part, usual in (("options", ""), ("before", ""), ("train", TRAIN), ("after", "trainer.save_model()")):
        text = text.replace("{" + part + "}", parts.get(part, usual).replace("\n", "\n    "))
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def compare(launcher: str, script: Path, folder: Path, *flags: str, arguments: Sequence[str] = ARGUMENTS) -> int:
    """Calls ``hf-critmom compare --script``."""
    own = ("--launcher", launcher, "--output_dir", str(folder), *flags)
    return main(["compare", "--script", str(script), *own, "--", *arguments])


def result_of(folder: Path, arm: str, seed: int = 42) -> dict:
    return json.loads((folder / "runs" / arm / f"seed-{seed}" / "result.json").read_text())


def sentence_in(said: str) -> str:
    """The only complaint in what a command said, which is one sentence."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if "error:" in line]
    assert len(lines) == 1 and lines[0].endswith("."), said
    return re.sub(r"\s+", " ", lines[0])
