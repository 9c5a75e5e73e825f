"""Claims about the control that retrains single parameters, and about doubtful labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.launches import NOT_PERMITTED, launch_on_a_small_disk, status_of
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from hf_critmom import repair_layers
from hf_critmom.attribution.doubtful_labels import find_doubtful_labels
from hf_critmom.attribution.errors import AttributionError
from hf_critmom.attribution.predictions import Predictions
from hf_critmom.commands import main
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.results import read_masks, read_repair, write_masks
from hf_critmom.experiments.repair.treatment import largest_gradients, mask_except
from hf_critmom.tasks import CifarResNetForImageClassification, DataArguments, Task, load_task

REPAIR = ("--num_train_epochs", "1", "--use_cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "out"
    words = ("--width", "2", "--arms", "constant", "--num_seeds", "1", "--num_train_epochs", "2", "--use_cpu")
    assert main(("compare", *words, "--targets", "0.5", "--output_dir", str(folder))) == 0
    return folder / "runs" / "constant" / "seed-42"


@pytest.fixture(scope="module")
def repaired(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repaired") / "out"
    words = ("repair", str(checkpoint), *REPAIR, "--groups", "layer3", "--granularity", "parameter", "--check_labels")
    assert main((*words, "--output_dir", str(folder))) == 0
    return folder


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(DataArguments())


def test_the_largest_gradients_are_chosen_and_exactly_as_many() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = {name: torch.randn(shape, generator=generator) for name, shape in (("a", (3, 4)), ("b", (5,)))}
    for count in (1, 7, 17):
        masks = largest_gradients(gradients, count)
        assert sum(int(mask.sum()) for mask in masks.values()) == count
        chosen = torch.cat([gradients[name][mask] for name, mask in masks.items()]).abs()
        rest = torch.cat([gradients[name][~mask] for name, mask in masks.items()]).abs()
        assert len(rest) == 0 or float(chosen.min()) >= float(rest.max())
    ties = largest_gradients({"a": torch.ones(6)}, 4)
    assert int(ties["a"].sum()) == 4


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch", "critmom", "ikfad"])
def test_masked_values_keep_their_bits_whatever_the_optimizer_does(
    checkpoint: Path, task: Task, tmp_path: Path, optim: str
) -> None:
    model = CifarResNetForImageClassification.from_pretrained(checkpoint)
    before = {name: value.clone() for name, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(value.shape, generator=generator) < 0.3 for name, value in before.items()}
    masks["resnet.fc.bias"] = torch.zeros(10, dtype=torch.bool)
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], optim=optim, learning_rate=0.05, weight_decay=0.1, max_steps=4,
        per_device_train_batch_size=32, remove_unused_columns=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    with mask_except(model, masks) as restore:
        assert not model.resnet.fc.bias.requires_grad
        trainer = Trainer(model, args, train_dataset=task.train, data_collator=task.collator, callbacks=[restore])
        trainer.train()
    moved = 0
    for name, value in model.named_parameters():
        assert torch.equal(value[~masks[name]], before[name][~masks[name]]), name
        moved += int((value != before[name]).sum())
        assert value.requires_grad
    assert moved > 0.5 * sum(int(mask.sum()) for mask in masks.values())
    assert not model._forward_pre_hooks


def test_as_many_single_parameters_are_retrained_as_the_chosen_groups_have(checkpoint: Path, repaired: Path) -> None:
    repair = read_repair(repaired)
    (chosen,), (single,) = repair.roles["chosen"], repair.roles["parameters"]
    network = CifarResNetForImageClassification.from_pretrained(checkpoint)
    count = sum(parameter.numel() for parameter in network.resnet.layer3.parameters())
    assert single.parameters == count and (chosen.steps, chosen.seed) == (single.steps, single.seed)
    names = dict(network.named_parameters())
    after = load_file(repaired / "runs" / "single-parameters" / "seed-42" / "model.safetensors")
    masks = read_masks(repaired, {name: value.shape for name, value in names.items()}, count)
    for name, value in names.items():
        assert torch.equal(after[name][~masks[name]], value[~masks[name]]), name
    card = ModelCard.load(repaired / "README.md").text
    assert f"| parameters | {count:,} single parameters |" in card
    assert "Against parameters (as many single parameters as the chosen groups have" in card


def test_masks_are_stored_in_bits_and_checked(tmp_path: Path) -> None:
    masks = {"a": torch.tensor([[True, False, True], [False, False, True]]), "b": torch.tensor([True] * 9)}
    shapes = {name: mask.shape for name, mask in masks.items()}
    write_masks(tmp_path, masks)
    again = read_masks(tmp_path, shapes, 12)
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())
    for wrong in (lambda: read_masks(tmp_path, shapes, 11), lambda: read_masks(tmp_path, {"a": shapes["a"]}, 3)):
        with pytest.raises(RepairError, match=r"single_parameters\.safetensors is damaged"):
            wrong()
    (tmp_path / "single_parameters.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(RepairError, match=r"single_parameters\.safetensors is damaged"):
        read_masks(tmp_path, shapes, 12)


# ------------------------------------------------------------------------------------------------------ doubtful labels


def confident(labels: list[int], predicted: list[int], sure: float = 0.9) -> Predictions:
    classes = 3
    chances = np.full((len(labels), classes), (1.0 - sure) / (classes - 1), dtype=np.float32)
    chances[np.arange(len(labels)), predicted] = sure
    return Predictions(np.array(labels), np.array(predicted), chances)


def test_a_label_that_a_good_network_contradicts_is_doubtful() -> None:
    pytest.importorskip("cleanlab")
    truth = [number % 3 for number in range(60)]
    given = list(truth)
    given[5], given[20] = (truth[5] + 1) % 3, (truth[20] + 2) % 3
    found = find_doubtful_labels(confident(given, truth))
    assert {one.index for one in found} == {5, 20}
    for one in found:
        assert (one.label, one.predicted) == (given[one.index], truth[one.index])
        assert one.probability == pytest.approx(0.05)
    assert find_doubtful_labels(confident(truth, truth)) == []
    assert find_doubtful_labels(confident([0] * 5, [1] * 5)) == []  # a single class has nothing to compare with


def test_labels_of_texts_are_not_looked_at() -> None:
    pytest.importorskip("cleanlab")
    tokens = Predictions(np.zeros((2, 3), dtype=int), np.ones((2, 3), dtype=int))
    with pytest.raises(AttributionError, match="where examples have classes"):
        find_doubtful_labels(tokens)


def test_a_repair_that_cannot_look_for_them_stores_no_plan_that_does(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    set_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=8, n_layer=1, n_head=2))
    texts = [torch.tensor([i, j, i, j]) for i in range(8) for j in range(8)]
    examples = [{"input_ids": text, "labels": text} for text in texts]
    args = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to=[], max_steps=1)
    splits = {"train_dataset": examples[:32], "diagnosis_dataset": examples[32:48], "test_dataset": examples[48:]}
    with pytest.raises(AttributionError, match="where examples have classes"):
        repair_layers(model, args=args, settings=RepairSettings(groups=["block0"], check_labels=True), **splits)
    assert not (tmp_path / "out").exists()


def test_a_repair_lists_them_before_it_blames_layers(repaired: Path) -> None:
    labels = read_repair(repaired).labels
    assert labels is not None and labels.split == "validation"
    stored = json.loads((repaired / "doubtful_labels.json").read_text())
    assert len(stored["doubtful"]) == len(labels.doubtful) <= labels.misclassified
    card = ModelCard.load(repaired / "README.md").text
    assert "by confident learning (cleanlab)" in card.split("## Treat and verify")[0]


# ---------------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.slow
def test_a_full_disk_and_a_read_only_one_are_sentences_and_cost_nothing(checkpoint: Path, tmp_path: Path) -> None:
    disk, said, kept = tmp_path / "disk", tmp_path / "said", tmp_path / "kept"
    disk.mkdir()
    repair = ["repair", str(checkpoint), *REPAIR, "--groups", "fc", "--output_dir", str(disk / "out")]
    attribute = ["attribute", str(checkpoint), "--use_cpu", "--output_dir", str(disk / "attributed")]
    steps: list[tuple[str, list[str]]] = [
        ("size=4k", repair),
        ("size=40k", repair),
        ("size=64m", repair),
        ("size=64m", attribute),
        ("ro", repair),
        ("ro", attribute),
    ]
    process = launch_on_a_small_disk(disk, steps, said=said, kept=kept)
    if status_of(process) == NOT_PERMITTED:
        pytest.skip("no file system may be mounted here")
    text = said.read_text()
    assert json.loads((kept / "statuses.json").read_text()) == [2, 2, 0, 0, 2, 2], text
    assert text.count("cannot be written any more (No space left on device)") == 2, text
    assert text.count("cannot be written any more (Read-only file system)") == 2, text
    assert "Traceback" not in text and not list(kept.rglob(".*.partial*"))
    assert (kept / "out" / "model.safetensors").exists() and (kept / "attributed" / "README.md").exists()
