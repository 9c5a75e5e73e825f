"""Claims about what a repair may say and keep: unseen data, divergence, damaged files, several launches."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.launches import launch, status_of
from huggingface_hub import ModelCard
from torch.utils.data import Dataset, Subset
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed

from hf_critmom import repair_layers
from hf_critmom.commands import main
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairPlan, RepairSettings
from hf_critmom.experiments.repair.report import write_repair_report
from hf_critmom.tasks import DataArguments, Task, load_task
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.provenance import check_disjoint, content_keys

COMPARE = (
    *("compare", "--width", "2", "--arms", "constant", "--num_seeds", "1", "--num_train_epochs", "2", "--use_cpu"),
    *("--targets", "0.5"),
)
REPAIR = ("--num_train_epochs", "1", "--use_cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "out"
    assert main((*COMPARE, "--output_dir", str(folder))) == 0
    return folder / "runs" / "constant" / "seed-42"


@pytest.fixture(scope="module")
def repaired(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repaired") / "out"
    assert main(("repair", str(checkpoint), *REPAIR, "--groups", "fc", "--output_dir", str(folder))) == 0
    return folder


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(DataArguments())


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> str:
        capfd.readouterr()
        assert main(("repair", *map(str, words))) == 2
        sentence = capfd.readouterr().err.strip().splitlines()[-1]
        assert sentence.startswith("hf-critmom repair: error: ") and sentence.endswith(".")
        return sentence

    return run


# ------------------------------------------------------------------------------------------------- unseen examples only


def test_a_run_is_judged_only_on_data_that_it_was_not_trained_on(
    refused: Any, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sentence = refused(checkpoint, *REPAIR, "--split_seed", "3", "--output_dir", out)
    assert "was trained on other images than the training split of digits" in sentence and "test split" in sentence
    assert "hf-critmom compare --width 2" in sentence and not out.exists()
    (tmp_path / "link").symlink_to(checkpoint)
    assert "was trained on other images" in refused(
        tmp_path / "link", *REPAIR, "--split_seed", "3", "--output_dir", out
    )


def test_a_repaired_network_is_judged_by_what_its_repair_trained_on(
    refused: Any, repaired: Path, tmp_path: Path
) -> None:
    out = ("--output_dir", tmp_path / "again")
    assert "was trained on other images" in refused(repaired, *REPAIR, "--split_seed", "3", *out)
    assert "was trained on other images" in refused(
        repaired / "runs" / "fc" / "seed-42", *REPAIR, "--max_train_samples", "100", *out
    )


def test_the_card_claims_the_checks_that_ran_and_no_others(checkpoint: Path, repaired: Path, tmp_path: Path) -> None:
    card = ModelCard.load(repaired / "README.md").text
    assert "share no example: this was checked by content" in card and "as its fingerprint shows" in card
    assert RepairPlan.read(repaired).trained_on is not None
    shutil.copytree(checkpoint, tmp_path / "copy")  # nothing says what it was trained on
    out = tmp_path / "out"
    assert main(("repair", str(tmp_path / "copy"), *REPAIR, "--groups", "fc", "--output_dir", str(out))) == 0
    card = ModelCard.load(out / "README.md").text
    assert "is not recorded with the checkpoint" in card and "as its fingerprint shows" not in card


def test_a_test_split_that_is_the_training_split_is_refused_for_images_and_text(task: Task, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"train and test splits share [\d,]+ examples"):
        check_disjoint({"train": task.train, "test": task.train.evaluated()})
    text = load_task(DataArguments(task="text", max_train_samples=40, max_eval_samples=20))
    found = check_disjoint({"train": text.train, "diagnosis": text.validation, "test": text.test})
    assert found.compared == ("train", "diagnosis", "test") and not found.unknown
    with pytest.raises(TaskError, match="share 20 examples"):
        check_disjoint({"train": text.train, "test": Subset(text.train, range(20))})


class Drawn(Dataset):
    """What an augmentation hands out: never the same twice."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.rand(3), "labels": torch.tensor(index % 2)}


def test_examples_of_any_kind_are_compared_whatever_their_labels() -> None:
    arrays = [{"x": np.arange(3) + index, "labels": index % 2} for index in range(6)]
    relabelled = [{**example, "labels": 7} for example in arrays[2:4]]
    with pytest.raises(TaskError, match="share 2 examples"):
        check_disjoint({"train": arrays, "test": relabelled})
    texts = [{"text": f"number {index}", "label": 0} for index in range(4)]
    assert not check_disjoint({"train": texts[:2], "test": texts[2:]}).unknown
    assert content_keys(Drawn()) is None and content_keys(iter(())) is None
    assert content_keys([{"x": object()}]) is None
    assert check_disjoint({"train": Drawn(), "test": texts}).unknown == ("train",)


def test_blocks_of_text_may_be_the_same_by_chance_but_not_many_of_them() -> None:
    blocks = [{"input_ids": torch.tensor([index, index + 1])} for index in range(400)]
    found = check_disjoint({"train": blocks[:200], "test": blocks[199:]})
    assert found.shared == {"train and test": 1}
    with pytest.raises(TaskError, match="share 5 examples"):
        check_disjoint({"train": blocks[:200], "test": blocks[195:]})


# ---------------------------------------------------------------------------------------------------------- divergence


def test_a_diverged_repair_is_recorded_and_publishes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("repair", str(checkpoint), "--use_cpu", "--optim", "sgd", "--learning_rate", "1e6", "--groups", "fc")
    words += ("--weight_decay", "1e6")  # 1e12 times the weights in every step
    assert main((*words, "--num_train_epochs", "1", "--output_dir", str(out))) == 0
    result = json.loads((out / "runs" / "fc" / "seed-42" / "result.json").read_text())
    assert result["status"] == "diverged" and result["verification"] is None and result["files"] == {}
    assert not list(out.rglob("*.safetensors")) and not (out / "config.json").exists()
    assert not (out / "changed_examples.json").exists()
    card = ModelCard.load(out / "README.md")
    assert "diverged after" in card.text and "There is no repaired model" in card.text
    assert "net +" not in card.text and "net -" not in card.text and not card.data.eval_results
    assert "| chosen | fc | 170 | - | - | - | - | - | 1, 1 diverged |" in card.text
    assert (out / "figures" / "repair.png").exists()
    assert main((*words, "--num_train_epochs", "1", "--output_dir", str(out))) == 0


def test_a_control_that_diverges_takes_nothing_from_the_rest(
    checkpoint: Path, repaired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(repaired, tmp_path / "out")
    from hf_critmom.experiments.repair import execution

    original = execution.train_and_verify

    def diverging(*args: Any) -> dict[str, Any]:
        result = original(*args)
        return {**result, "status": "diverged", "verification": None, "changed": [], "files": {}}

    monkeypatch.setattr(execution, "train_and_verify", diverging)
    words = ("repair", str(checkpoint), *REPAIR, "--groups", "fc", "--controls", "--output_dir", str(tmp_path / "out"))
    assert main(words) == 0  # controls extend a finished repair
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "Against whole (the whole network): undecided, because one of the two always diverged." in card.text
    assert len(card.data.eval_results) == 2
    kept = (repaired / "runs" / "fc" / "seed-42" / "result.json").read_bytes()
    assert (tmp_path / "out" / "runs" / "fc" / "seed-42" / "result.json").read_bytes() == kept


# ------------------------------------------------------------------------------------------------------- damaged files

DAMAGE: dict[str, Any] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "a list": lambda content: b"[]",
    "an empty object": lambda content: b"{}",
    "null": lambda content: b"null",
    "NaN": lambda content: content.replace(b"0.", b"NaN, 0.", 1),
    "deep": lambda content: b"[" * 200_000,
}
FILES = ("repair.json", "diagnosis.json", "cost.json", "runs/fc/seed-42/result.json")


@pytest.mark.parametrize("name", FILES)
def test_every_damaged_file_is_one_sentence_that_names_it(
    refused: Any, checkpoint: Path, repaired: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(repaired, out)
    content = (out / name).read_bytes()
    words = (checkpoint, *REPAIR, "--groups", "fc", "--output_dir", out)
    for damage in DAMAGE.values():
        (out / name).write_bytes(damage(content))
        assert name in refused(*words)
    (out / name).unlink()
    (out / name).mkdir()
    assert name in refused(*words)


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    if isinstance(content, list):
        return [changed(item, path[1:], value) if place == path[0] else item for place, item in enumerate(content)]
    return {**content, path[0]: changed(content[path[0]], path[1:], value)}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("runs/fc/seed-42/result.json", ("verification", "fixed"), 100_000),
        ("runs/fc/seed-42/result.json", ("verification", "pvalue"), 2.0),
        ("runs/fc/seed-42/result.json", ("status",), "glorious"),
        ("runs/fc/seed-42/result.json", ("changed",), []),
        ("runs/fc/seed-42/result.json", ("groups",), ["layer4"]),
        ("runs/fc/seed-42/result.json", ("seed",), 43),
        ("runs/fc/seed-42/result.json", ("files", "model.safetensors"), "0" * 64),
        ("runs/fc/seed-42/result.json", ("files", "../../../x"), "0" * 64),
        ("diagnosis.json", ("groups",), ["layer9"]),
        ("diagnosis.json", ("groups",), ["layer4"]),
        ("runs/fc/seed-42/result.json", ("verification", "pvalue"), 0.001),
        ("diagnosis.json", ("attribution", "groups", "fc", "share"), 0.99),
        ("diagnosis.json", ("reason",), None),
        ("cost.json", ("seconds",), -1.0),
        ("cost.json", ("groups",), ["layer4"]),
        ("repair.json", ("seeds",), []),
        ("repair.json", ("layers",), {"fc": 2}),
        ("repair.json", ("task", "splits"), None),
        ("repair.json", ("weights",), "0" * 64),
        ("repair.json", ("versions",), 3),
    ],
)
def test_a_file_that_was_tampered_with_is_not_believed(
    refused: Any, checkpoint: Path, repaired: Path, tmp_path: Path, name: str, path: tuple[Any, ...], value: Any
) -> None:
    out = tmp_path / "out"
    shutil.copytree(repaired, out)
    content = json.loads((out / name).read_text())
    if path[-1] == "../../../x":
        content["files"]["../../../x"] = value
    else:
        content = changed(content, path, value)
    (out / name).write_text(json.dumps(content))
    assert str(out) in refused(checkpoint, *REPAIR, "--groups", "fc", "--output_dir", out)
    assert not (tmp_path / "x").exists()


def test_a_damaged_model_of_a_finished_treatment_is_not_published(
    refused: Any, checkpoint: Path, repaired: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(repaired, out)
    weights = out / "runs" / "fc" / "seed-42" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    words = (checkpoint, *REPAIR, "--groups", "fc", "--output_dir", out)
    assert "model.safetensors is not what the treatment wrote" in refused(*words)
    (out / "runs" / "fc" / "seed-42" / "result.json").unlink()  # as the sentence says
    assert main(("repair", *map(str, words))) == 0
    assert (out / "model.safetensors").read_bytes() == (repaired / "model.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------- launches, plans, arguments


@pytest.mark.slow
def test_two_launches_divide_the_treatments(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("repair", str(checkpoint), *REPAIR, "--groups", "fc", "--controls", "--num_seeds", "2")
    launches = [launch(*words, "--output_dir", str(out), said=tmp_path / f"{number}.txt") for number in range(2)]
    assert [status_of(process) for process in launches] == [0, 0], (tmp_path / "0.txt").read_text()
    said = [(tmp_path / f"{number}.txt").read_text() for number in range(2)]
    treated = [line for text in said for line in text.splitlines() if line.startswith("treating")]
    assert len(treated) == len(set(treated)) == len(list(out.glob("runs/*/*/result.json")))
    assert not list(out.rglob(".*.partial*"))


def test_a_plan_without_results_may_be_replaced(refused: Any, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "repair.json").write_text(json.dumps({"settings": {}, "weights": "an earlier attempt"}))
    assert main(("repair", str(checkpoint), *REPAIR, "--groups", "fc", "--output_dir", str(out))) == 0


def test_more_seeds_extend_a_repair(checkpoint: Path, repaired: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(repaired, out)
    words = ("repair", str(checkpoint), *REPAIR, "--groups", "fc", "--output_dir", str(out))
    assert main((*words, "--num_seeds", "2")) == 0
    assert sorted(path.name for path in (out / "runs" / "fc").iterdir()) == ["seed-42", "seed-43"]
    assert RepairPlan.read(out).seeds == (42, 43)
    assert main(words) == 0  # and what governs stays
    assert "(2)" not in (out / "README.md").read_text() and RepairPlan.read(out).seeds == (42, 43)


def test_what_the_trainer_refuses_is_said_before_anything_is_written(
    refused: Any, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for words in (("--lr_scheduler_type", "cosine_with_min_lr"), ("--optim", "lomo")):
        assert "error" in refused(checkpoint, *REPAIR, *words, "--output_dir", out)
        assert not out.exists()


def test_the_earlier_spelling_of_the_rule_still_works(refused: Any, checkpoint: Path, tmp_path: Path) -> None:
    out = ("--output_dir", tmp_path / "out")
    assert "'best'" in refused(checkpoint, *REPAIR, "--select", "best", *out)
    assert "'best'" in refused(checkpoint, *REPAIR, "--select_by=best", *out)


def test_a_diverged_network_has_no_short_run_to_choose_by(refused: Any, checkpoint: Path, tmp_path: Path) -> None:
    words = ("--select_by", "ikfad", "--learning_rate", "1e6", "--output_dir", tmp_path / "out")
    assert "short run of iKFAD that chooses the groups diverged" in refused(checkpoint, *REPAIR, *words)


# ------------------------------------------------------------------------------------------------- committed repairs


COMMITTED = Path(__file__).parents[3] / "model_cards" / "repair-cifar10-constant"


def test_the_committed_repair_keeps_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_critmom.experiments.repair.results import read_repair

    shutil.copytree(COMMITTED, tmp_path / "repair")
    monkeypatch.chdir(COMMITTED.parent)
    write_repair_report(read_repair(tmp_path / "repair"))
    old, new = (ModelCard.load(folder / "README.md") for folder in (COMMITTED, tmp_path / "repair"))
    assert [vars(one) for one in new.data.eval_results] == [vars(one) for one in old.data.eval_results]
    rows = [
        line for line in old.text.splitlines() if line.startswith("| ") and "---" not in line and "group |" not in line
    ]
    cells = {line.strip() for line in new.text.splitlines()}
    missing = [line for line in rows if line.strip() not in cells and "damping ratio" not in line]
    assert not missing


def test_python_callers_get_one_sentence_too(tmp_path: Path) -> None:
    set_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=8, n_layer=1, n_head=2))
    examples = [
        {"input_ids": torch.tensor([i, j, i, j]), "labels": torch.tensor([i, j, i, j])}
        for i in range(8)
        for j in range(8)
    ]
    args = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to=[], num_train_epochs=1)
    splits = {"train_dataset": examples[:32], "diagnosis_dataset": examples[32:48], "test_dataset": examples[48:]}
    with pytest.raises(RepairError, match="Unknown granularity 'atom'"):
        RepairSettings(granularity="atom")
    found = repair_layers(model, args=args, settings=RepairSettings(groups=["block0"]), record={"mine": 1}, **splits)
    assert found.plan.record == {"mine": 1} and found.plan.task is None
    write_repair_report(found)
    assert "repair of block0" in (tmp_path / "out" / "README.md").read_text()
    labels = torch.tensor([7, 7, 7, 7])  # as if labels that were doubtful had been corrected
    splits["test_dataset"] = [{**example, "labels": labels} for example in splits["test_dataset"]]
    with pytest.raises(RepairError, match=r"holds a different repair \(repair.split_fingerprints.test: "):
        repair_layers(model, args=args, settings=RepairSettings(groups=["block0"]), record={"mine": 1}, **splits)
