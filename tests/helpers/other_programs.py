"""Tiny models and data for training programs of other packages: TRL's sft, and one with sentence-transformers."""

from pathlib import Path

EMBEDDINGS = '''
"""Trains sentence embeddings with sentence-transformers, in the form of its examples."""
import sys

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    models,
)
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.losses import CosineSimilarityLoss
from transformers import HfArgumentParser, set_seed

parser = HfArgumentParser(SentenceTransformerTrainingArguments)
(args,) = parser.parse_yaml_file(sys.argv[1])
set_seed(args.seed)
encoder = models.Transformer("encoder", max_seq_length=16)
model = SentenceTransformer(modules=[encoder, models.Pooling(encoder.get_word_embedding_dimension())], device="cpu")
animals, numbers = ["cat", "dog", "cow", "hen"], ["one", "two", "six", "ten"]
words = [*animals, *numbers]
pairs = [(a, b, float((a in animals) == (b in animals))) for a in words for b in words if a != b]
columns = {name: [pair[i] for pair in pairs] for i, name in enumerate(("sentence1", "sentence2", "score"))}
data = Dataset.from_dict(columns)
evaluator = EmbeddingSimilarityEvaluator(columns["sentence1"], columns["sentence2"], columns["score"], name="pairs")
trainer = SentenceTransformerTrainer(
    model=model, args=args, train_dataset=data, eval_dataset=data, loss=CosineSimilarityLoss(model), evaluator=evaluator
)
trainer.train()
'''


def write_language_model(folder: Path) -> Path:
    """A tiny GPT-2 that reads bytes, with its tokenizer."""
    from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(0)
    tokenizer = ByT5Tokenizer(extra_ids=0)
    sizes = {"vocab_size": len(tokenizer), "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_texts(folder: Path, train: int = 48, test: int = 8) -> Path:
    """A folder that ``load_dataset`` reads, of short texts."""
    folder.mkdir()
    for split, count in (("train", train), ("test", test)):
        lines = [f'{{"text": "{number} bottles of beer on the wall"}}' for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_encoder(folder: Path) -> Path:
    """A tiny BERT with a vocabulary of a few words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast, set_seed

    set_seed(0)
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["cat", "dog", "cow", "hen", "one", "two", "six", "ten"]]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes, max_position_embeddings=32)).save_pretrained(folder)
    return folder
