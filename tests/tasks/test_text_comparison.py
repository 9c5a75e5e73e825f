"""Claims about comparisons on text."""

import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.text_data import (
    BLOCK,
    documents,
    text_task_of,
    write_texts,
)
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import runner
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.tasks.blocks import BlockDataset

# -------------------------------------------------------------------------------------------------------- comparisons

ARM_NAMES, SEEDS, TARGETS = ("constant", "critmom_adamw"), (42, 43), (8.5, 1.0)
TINY = (
    *("--hidden_size", "8", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--block_size", str(BLOCK)),
    *("--per_device_train_batch_size", "8", "--max_steps", "6", "--eval_steps", "3", "--use_cpu", "--workers", "1"),
    *("--max_train_samples", "40", "--max_eval_samples", "12"),
)
WHOLE = (*TINY, "--arms", *ARM_NAMES, "--num_seeds", "2", "--targets", *map(str, TARGETS))


@dataclass
class Finished:
    """A finished comparison on a folder of texts, and what every run was seen to take."""

    folder: Path
    texts: Path
    printed: str
    shown: str
    seen: dict[tuple[str, int], list[tuple[str, list[int]]]] = field(default_factory=dict)
    weights: dict[tuple[str, int], dict[str, torch.Tensor]] = field(default_factory=dict)

    def result(self, arm: str, seed: int) -> dict[str, Any]:
        return json.loads((self.folder / "runs" / arm / f"seed-{seed}" / "result.json").read_text())


def compared(words: tuple[str, ...], patch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Runs a comparison that must succeed; returns what it printed, and what it showed of its progress."""
    out, err = io.StringIO(), io.StringIO()
    patch.setenv("COLUMNS", "200")
    patch.setattr(sys, "stdout", out)
    patch.setattr(sys, "stderr", err)
    assert main(("compare", *words)) == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("comparison")
    found = Finished(root / "out", write_texts(root / "plays", documents(40)), "", "")
    run, build = execution.execute_run, execution.build_model
    hand_out, load = BlockDataset.__getitems__, runner.load_task
    current: list[tuple[str, int]] = []
    names: dict[int, str] = {}

    def watched_load(*words: Any) -> Any:
        task = load(*words)
        names.update({id(split): name for name, split in task.splits.items()})
        return task

    def watched_run(training: Any, model: Any, arm: Any, planned: Any, *rest: Any) -> Any:
        current.append((arm.name, planned.seed))
        found.seen[current[0]] = []
        try:
            return run(training, model, arm, planned, *rest)
        finally:
            current.clear()

    def watched_build(*words: Any, **options: Any) -> Any:
        model = build(*words, **options)
        if current:
            found.weights[current[0]] = {name: value.clone() for name, value in model.state_dict().items()}
        return model

    def watched_hand_out(split: BlockDataset, indices: Any) -> Any:
        if current:
            found.seen[current[0]].append((names[id(split)], list(indices)))
        return hand_out(split, indices)

    with pytest.MonkeyPatch.context() as patch:
        for place, name, watched in (
            (execution, "execute_run", watched_run),
            (execution, "build_model", watched_build),
            (runner, "load_task", watched_load),
            (BlockDataset, "__getitems__", watched_hand_out),
        ):
            patch.setattr(place, name, watched)
        words = ("--task", "text", "--dataset_name", str(found.texts), *WHOLE, "--output_dir", str(found.folder))
        found.printed, found.shown = compared(words, patch)
    yield found


def test_every_arm_is_trained_and_tested(finished: Finished) -> None:
    for arm in ARM_NAMES:
        for seed in SEEDS:
            result = finished.result(arm, seed)
            assert (result["status"], result["steps"]) == ("finished", 6)
            assert [evaluation["step"] for evaluation in result["evaluations"]] == [3, 6]
            for measured in (*result["evaluations"], result["test"]):
                assert {"loss", "bits_per_byte", "perplexity", "accuracy"} <= set(measured)


def test_with_one_seed_every_arm_sees_the_same_blocks_in_the_same_order(finished: Finished) -> None:
    first, second = ([finished.seen[arm, seed] for arm in ARM_NAMES] for seed in SEEDS)
    assert first[0] == first[1] and second[0] == second[1] and first[0] != second[0]
    for seed in SEEDS:
        mine, theirs = (finished.weights[arm, seed] for arm in ARM_NAMES)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    trained_on = [index for split, indices in first[0] if split == "train" for index in indices]
    assert sorted(trained_on[:40]) == list(range(40))  # an epoch shows every block once
    tested = [index for split, indices in first[0] if split == "test" for index in indices]
    assert sorted(tested) == list(range(12))


def test_targets_are_reached_from_above(finished: Finished) -> None:
    plan = json.loads((finished.folder / "comparison.json").read_text())
    assert plan["targets"] == [8.5, 1.0]  # the easier first
    assert (plan["task"]["metric"], plan["task"]["greater_is_better"]) == ("bits_per_byte", False)
    card = (finished.folder / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| critmom_adamw |"))
    runs = [finished.result("critmom_adamw", seed) for seed in SEEDS]
    assert all(min(evaluation["bits_per_byte"] for evaluation in run["evaluations"]) <= 8.5 for run in runs)
    assert "reached" not in row.split("|")[2] and "not reached" in row.split("|")[3]


def test_the_report_speaks_of_text(finished: Finished) -> None:
    card = ModelCard.load(finished.folder / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert [result.task_type for result in card.data.eval_results] == ["text-generation"] * 2
    assert "bits per byte" in card.text and "accuracy" not in card.text and "augmentation" not in card.text
    assert "gpt2 of hidden size 8, hidden layers 1, attention heads 2" in finished.printed
    assert "validation bits per byte" in finished.shown
    assert (finished.folder / "figures" / "bits_per_byte.png").exists()
    table = pd.read_parquet(finished.folder / "results.parquet")
    assert table[["loss", "bits_per_byte", "perplexity", "accuracy"]].notna().all(axis=None)


def test_the_saved_model_and_tokenizer_give_what_was_tested(finished: Finished) -> None:
    task = text_task_of(
        task="text", dataset_name=str(finished.texts), block_size=BLOCK, max_train_samples=40, max_eval_samples=12
    )
    folder = finished.folder / "runs" / "critmom_adamw" / "seed-42"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text = documents(1)[0]
    assert tokenizer(text)["input_ids"] == task.tokenizer(text)["input_ids"]
    blocks = torch.tensor(task.test.blocks.astype(np.int64))
    with torch.no_grad():
        loss = float(model(input_ids=blocks, labels=blocks).loss)
    tested = finished.result("critmom_adamw", 42)["test"]
    assert tested["bits_per_byte"] == pytest.approx(loss / math.log(2.0) * task.test.tokens_per_byte, rel=1e-5)
    assert tested["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_the_same_command_again_repeats_nothing(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.glob("runs/**/*") if path.is_file()}
    words = ("--task", "text", "--dataset_name", str(finished.texts), *WHOLE, "--output_dir", str(finished.folder))
    assert compared(words, monkeypatch)[0] == finished.printed
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_metric_has_targets_of_its_own(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--task", "text", "--dataset_name", str(finished.texts), *TINY, "--metric", "perplexity")
    run = (*data, "--arms", "constant", "--num_seeds", "1", "--output_dir", str(tmp_path / "out"))
    assert "perplexity" in compared((*run, "--targets", "300", "200"), monkeypatch)[0]
    assert "perplexity" in compared(run, monkeypatch)[0]  # goes on with those of the plan
    refusals: list[tuple[tuple[str, ...], str]] = [
        (("--targets", "0.9"), "perplexities, above 1, got 0.9"),
        (("--targets", "300", "nan"), "got nan"),
    ]
    for targets, words in refusals:
        err = io.StringIO()
        monkeypatch.setattr(sys, "stderr", err)
        assert main(("compare", *run, *targets)) == 2
        assert words in err.getvalue() and err.getvalue().count("\n") == 1


def test_a_run_folder_is_fine_tuned_on_other_text(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = finished.folder / "runs" / "critmom_adamw" / "seed-42"
    (tmp_path / "more.txt").write_text(documents(1, length=4000)[0], encoding="utf-8")
    flags = ("--train_file", str(tmp_path / "more.txt"), "--block_size", str(BLOCK), "--max_steps", "2", "--use_cpu")
    model = ("--model_name_or_path", str(saved), "--arms", "critmom", "--num_seeds", "1", "--learning_rate", "1e-9",
             "--targets", "3")  # fmt: skip
    compared((*flags, *model, "--output_dir", str(tmp_path / "out")), monkeypatch)
    start, end = (load_file(folder / "model.safetensors") for folder in (saved, tmp_path / "out/runs/critmom/seed-42"))
    assert all(torch.allclose(start[name], end[name], atol=1e-6) for name in start)


def test_data_that_cannot_be_compared_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("to be")
    out = tmp_path / "out"
    assert main(("compare", "--train_file", str(tmp_path / "short.txt"), "--output_dir", str(out))) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("hf-critmom compare: error: The") and shown.count("\n") == 1
    assert not out.exists()
