"""Claims about ``scripts/prepare_sft.py``: held-out texts are in no training passage, and the model reads passages."""

import json
from pathlib import Path

import pytest
from helpers.script_modules import load_script

prepare_sft = load_script("prepare_sft")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(12):
        (folder / f"play-{number:02d}.txt").write_text(f"scene {number:02d} enter a ghost\n" * 9, encoding="utf-8")
    return folder


def test_held_out_texts_are_in_no_training_passage(texts: Path, tmp_path: Path) -> None:
    sizes = ("--train", "40", "--test", "4", "--length", "32", "--width", "8", "--layers", "1")
    assert prepare_sft.main(["--texts", str(texts), "--output_dir", str(tmp_path / "sft"), *sizes]) == 0
    rows = {
        split: [json.loads(line)["text"] for line in (tmp_path / f"sft/passages/{split}.jsonl").open()]
        for split in ("train", "test")
    }
    assert [len(rows[split]) for split in ("train", "test")] == [40, 4]
    assert all("scene 09" not in text and len(text) == 32 for text in rows["train"])
    assert "scene 09" in "".join(rows["test"])
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (auto.from_pretrained(tmp_path / "sft/model") for auto in (AutoModelForCausalLM, AutoTokenizer))
    batch = tokenizer(rows["test"][:1], return_tensors="pt")
    loss = model(**batch, labels=batch["input_ids"]).loss
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--train", "4000"), "request fewer or shorter ones"),
        (("--width", "6"), "--width a multiple of 4"),
        (("--output_dir", "."), "exists: name a new folder"),
        (("--texts", "nowhere"), "holds 0 text files: expected at least 10"),
    ],
)
def test_invalid_input_is_a_sentence(
    flags: tuple[str, ...], sentence: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--texts", str(texts), "--output_dir", str(tmp_path / "sft"), *flags]
    with pytest.raises(SystemExit):
        prepare_sft.main(given)
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "sft").exists()
