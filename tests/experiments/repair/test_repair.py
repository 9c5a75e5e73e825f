"""Claims about the repair of layers: what is frozen stays, what is counted is true, what was interrupted goes on."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.launches import has_saved
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    TrainingArguments,
    set_seed,
)

from hf_critmom import critical_momentum, critical_nu, damping_ratio, damping_regime, repair_layers
from hf_critmom.attribution.groups import layer_groups
from hf_critmom.commands import main
from hf_critmom.damping import RULES
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.scan import logged_training, scan
from hf_critmom.experiments.repair.selection import CONTROLS
from hf_critmom.experiments.repair.tables import scan_table
from hf_critmom.experiments.repair.treatment import freeze_except, step_times, trained_share
from hf_critmom.experiments.repair.verification import Verification
from hf_critmom.tasks import CifarResNetForImageClassification, DataArguments, Task, load_task
from hf_critmom.tasks.errors import TaskError
from hf_critmom.tasks.images import ImageDataset
from hf_critmom.tasks.provenance import check_disjoint
from hf_critmom.training.callbacks.damping import DampingCallback

GROUPS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


COMPARE = (
    *("compare", "--width", "4", "--arms", "constant", "--num_seeds", "1", "--num_train_epochs", "3", "--use_cpu"),
    *("--targets", "0.5"),
)


REPAIR = ("--num_train_epochs", "1", "--use_cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that the comparison has trained on the digits, far from perfectly."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    assert main((*COMPARE, "--output_dir", str(folder))) == 0
    return folder / "runs" / "constant" / "seed-42"


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(DataArguments())


@pytest.fixture(scope="module")
def repaired(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repair of that network, with all controls and two seeds."""
    folder = tmp_path_factory.mktemp("repaired") / "out"
    words = ("repair", str(checkpoint), *REPAIR, "--controls", "--num_seeds", "2", "--output_dir", str(folder))
    assert main(words) == 0
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command that must be refused with one sentence; returns it."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(words) == 2
        sentence = capsys.readouterr().err.strip()
        assert sentence.startswith("hf-critmom repair: error: ") and "\n" not in sentence
        return sentence

    return run


def network(checkpoint: Path) -> CifarResNetForImageClassification:
    return CifarResNetForImageClassification.from_pretrained(checkpoint)


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    files = sorted(folder.glob("runs/*/seed-*/result.json"))
    return {(file.parent.parent.name, int(file.parent.name[5:])): json.loads(file.read_text()) for file in files}


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what a clock measured, and without logged losses: a record's mean begins anew at a resume."""
    log = [{name: value for name, value in record.items() if name != "loss"} for record in result["training_log"]]
    kept = {name: value for name, value in result.items() if name not in ("seconds", "samples_per_second")}
    return {**kept, "training_log": log}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize("names", [("layer3",), ("conv1", "fc"), ("bn1", "layer4")])
def test_training_some_groups_leaves_all_others_as_they_were_to_the_bit(
    checkpoint: Path, task: Task, names: tuple[str, ...]
) -> None:
    model = network(checkpoint)
    groups, before = layer_groups(model), state(model)
    with freeze_except(model, groups, names):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
        for _ in range(3):
            model.train()
            model(**task.collator(task.train.__getitems__(range(32)))).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, value in model.state_dict().items():
        group = next(group for group in GROUPS if name.startswith(f"resnet.{group}."))
        same = torch.equal(value, before[name])
        assert same == (group not in names), name


def test_frozen_parameters_and_statistics_survive_the_real_treatment(checkpoint: Path, repaired: Path) -> None:
    before = load_file(checkpoint / "model.safetensors")
    for result in results(repaired).values():
        chosen = set(result["groups"])
        folder = repaired / "runs" / "+".join(result["groups"]) / f"seed-{result['seed']}"
        after = load_file(folder / "model.safetensors")
        assert after.keys() == before.keys()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and all(any(name.startswith(f"resnet.{group}.") for group in chosen) for name in changed)
        if chosen == set(GROUPS):
            assert any("running_mean" in name for name in changed)


def test_afterwards_everything_is_trainable_that_was(checkpoint: Path) -> None:
    model = network(checkpoint)
    model.resnet.layer1.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(KeyboardInterrupt), freeze_except(model, layer_groups(model), ("layer2", "layer1")):
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained and all(name.startswith("resnet.layer2.") for name in trained)
        raise KeyboardInterrupt
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert not model._forward_pre_hooks


def test_what_is_frozen_already_cannot_be_treated(checkpoint: Path) -> None:
    model = network(checkpoint)
    model.resnet.fc.requires_grad_(False)
    with pytest.raises(RepairError, match="nothing to train"), freeze_except(model, layer_groups(model), ("fc",)):
        pass


def test_layers_in_front_of_the_first_trained_one_have_no_backward_pass(checkpoint: Path, task: Task) -> None:
    model = network(checkpoint).train()
    seen: dict[str, bool] = {}
    for name in ("layer1", "layer2", "layer3"):
        layer = getattr(model.resnet, name)
        layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output.requires_grad}))
    with freeze_except(model, layer_groups(model), ("layer3",)):
        model(**task.collator(task.train.__getitems__(range(8))))
    assert seen == {"layer1": False, "layer2": False, "layer3": True}


def test_measuring_a_step_changes_nothing(checkpoint: Path, task: Task) -> None:
    model = network(checkpoint)
    before, generator = state(model), torch.get_rng_state()
    batch = task.collator(task.train.__getitems__(range(32)))
    seconds = step_times(model, layer_groups(model), {"few": ("fc",), "whole": GROUPS}, batch, steps=2)
    assert seconds.keys() == {"few", "whole"} and all(value > 0.0 for value in seconds.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training and torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_share_of_parameters_is_counted(checkpoint: Path) -> None:
    model = network(checkpoint)
    groups = layer_groups(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    layer4 = sum(size for name, size in sizes.items() if name.startswith("resnet.layer4."))
    assert trained_share(groups, model, ("layer4",)) == layer4 / sum(sizes.values())
    assert trained_share(groups, model, GROUPS) == 1.0


# ---------------------------------------------------------------------------------------------------------------- scan


def step_of(step: int, epoch: float, lr: float, momentum: float = 0.9, **options: Any) -> dict[str, Any]:
    """A training record as `DampingCallback` completes it, for the values that an optimizer's param group holds."""
    group = {"lr": lr, "momentum": momentum, "dampening": 0.0, **options}
    callback = DampingCallback()
    callback.on_optimizer_step(None, None, None, optimizer=SimpleNamespace(param_groups=[group]))  # type: ignore[arg-type]
    return {"step": step, "epoch": epoch, "learning_rate": lr, "loss": 1.0, **callback.metrics()}


def measured_at(step: int, top: float, ratio: float = 0.5) -> dict[str, Any]:
    return {"step": step, "curvature/top": top, "curvature/top_damping_ratio": ratio}


def test_the_scan_says_nothing_of_optimizers_whose_damping_is_not_defined() -> None:
    adam = [{"step": k, "epoch": k / 2, "learning_rate": 0.001, "momentum": 0.9, "loss": 1.0} for k in (1, 2)]
    assert scan([*adam, {"step": 0, "curvature/top": 15.0}]) == []


def test_adam_by_a_rule_has_its_regime_and_none_at_the_curvature_of_the_loss() -> None:
    steps = [step_of(k, k / 2, 0.01, critical_momentum(0.01), rule="linear") for k in (1, 2)]
    (epoch,) = scan([*steps, {"step": 0, "curvature/top": 15.0}])  # CurvatureCallback logs no ratio for Adam
    assert epoch.regime == "critical"
    assert (epoch.curvature, epoch.measured_ratio, epoch.measured_regime) == (None, None, None)


def test_the_scan_of_a_control_goes_by_the_learning_rate_that_it_used() -> None:
    (epoch,) = scan([step_of(1, 1.0, 0.1, effective_lr=0.02)])
    assert epoch.ratio == pytest.approx(damping_ratio(0.9, 0.02)) and epoch.learning_rate == 0.1


def test_every_epoch_is_classed_by_what_most_of_its_steps_were() -> None:
    lrs = {0.5: 0.1, 1.0: 0.05, 1.5: 0.0025, 2.0: 0.0025, 2.5: 1e-4, 3.0: 0.0}
    log = [step_of(round(2 * epoch), epoch, lr) for epoch, lr in lrs.items()]
    found = scan([*log, {"epoch": 3.0, "eval_loss": 1.0}, {"loss": 1.0, "epoch": 1.0}])
    assert [(epoch.epoch, epoch.steps) for epoch in found] == [(1, 2), (2, 2), (3, 2)]
    assert [epoch.regime for epoch in found] == ["underdamped", "critical", "overdamped"]
    assert found[0].ratio == pytest.approx(math.sqrt(damping_ratio(0.9, 0.1) * damping_ratio(0.9, 0.05)))
    assert found[0].learning_rate == pytest.approx(0.075) and found[0].momentum == pytest.approx(0.9)
    assert scan([]) == [] and scan([{"loss": 1.0, "epoch": 1.0}]) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_measured_against_itself(rule: str) -> None:
    steps = [step_of(k, 1.0, lr, critical_momentum(lr, rule=rule), rule=rule) for k, lr in ((1, 0.1), (2, 0.01))]
    (epoch,) = scan([*steps, measured_at(0, 4.0)])
    assert epoch.regime == "critical" and epoch.ratio == pytest.approx(1.0)
    assert epoch.measured_ratio == pytest.approx(0.5)


def test_at_k_1_is_at_1_also_where_the_optimizer_takes_another_curvature() -> None:
    step = step_of(1, 1.0, 0.01, critical_momentum(0.01, curvature=10.0), curvature=10.0, rule="linear")
    assert step["damping_ratio"] == pytest.approx(1.0) and step["damping_curvature"] == 10.0
    (epoch,) = scan([step, measured_at(0, 10.0)])
    assert epoch.ratio == pytest.approx(math.sqrt(10.0)) and epoch.regime == "overdamped"
    assert epoch.measured_ratio == pytest.approx(1.0) and epoch.measured_regime == "critical"


def test_a_measured_curvature_decides_beside_the_one_that_is_taken_to_be_1() -> None:
    steps = [step_of(k, k / 2, 0.001) for k in (1, 2, 3, 4)]
    first, second = scan([*steps, measured_at(0, 15.0), measured_at(3, 40.0)])  # as a comparison's result holds them
    assert (first.regime, first.measured_regime) == ("overdamped", "underdamped")
    assert first.ratio == pytest.approx(damping_ratio(0.9, 0.001))
    assert first.measured_ratio == pytest.approx(damping_ratio(0.9, 0.001, curvature=15.0))
    assert second.measured_ratio == pytest.approx(damping_ratio(0.9, 0.001, curvature=40.0))
    assert (first.curvature, second.curvature) == (15.0, 40.0)
    assert scan(steps)[0].measured_regime is None
    lost = scan([*steps, measured_at(0, -3.0)])[0]
    assert (lost.curvature, lost.measured_ratio, lost.measured_regime) == (None, None, None)


def test_the_table_of_the_scan_says_which_curvature_a_ratio_is_at() -> None:
    steps = [step_of(1, 1.0, 0.001)]
    plain = scan_table(SimpleNamespace(scan=scan(steps)))  # type: ignore[arg-type]
    assert "damping ratio at k = 1" in plain.header and not any("measured" in name for name in plain.header)
    measured = scan_table(SimpleNamespace(scan=scan([*steps, measured_at(0, 15.0)])))  # type: ignore[arg-type]
    assert measured.header[-3:] == ["measured top curvature", "measured damping ratio", "measured regime"]
    assert measured.rows[0][3:] == ["1.58", "overdamped", "15", "0.408", "underdamped"]


def test_the_scan_of_quasi_hyperbolic_momentum_goes_by_its_weight() -> None:
    nu = critical_nu(0.9, 0.02, curvature=15.0)
    (epoch,) = scan([measured_at(0, 15.0), step_of(1, 1.0, 0.02, nu=nu, fixed_nu=None)])
    assert epoch.measured_regime == "critical"
    assert epoch.ratio == pytest.approx(damping_ratio(0.9, 0.02, nu=nu))


def test_the_log_is_found_beside_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    log = logged_training(checkpoint)
    assert log == json.loads((checkpoint / "result.json").read_text())["training_log"]
    for epoch in scan(log):
        regimes = [
            damping_regime(record["momentum"], record["learning_rate"])
            for record in log
            if math.ceil(record["epoch"]) == epoch.epoch and record["learning_rate"] > 0.0
        ]
        assert epoch.regime == max(set(regimes), key=regimes.count)
    assert logged_training(tmp_path) == []
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log[:2]}))
    assert logged_training(tmp_path) == log[:2]
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(RepairError, match="does not hold a training log"):
        logged_training(tmp_path)


# -------------------------------------------------------------------------------------------------------------- splits


def test_splits_that_share_an_image_are_refused(task: Task) -> None:
    check_disjoint({"train": task.train, "diagnosis": task.validation, "test": task.test})
    split = task.validation
    images = np.concatenate([task.test.images[:5], split.images])
    overlapping = ImageDataset(images, np.zeros(len(images), dtype=np.int64), mean=split.mean, std=split.std)
    with pytest.raises(TaskError, match="diagnosis and test splits share 5 examples"):
        check_disjoint({"train": task.train, "diagnosis": overlapping, "test": task.test})


# ------------------------------------------------------------------------------------------------------------- command


def test_the_repaired_checkpoint_is_an_ordinary_one_and_as_good_as_it_says(repaired: Path, task: Task) -> None:
    model = AutoModelForImageClassification.from_pretrained(repaired).eval()
    with torch.no_grad():
        predicted = model(**task.collator(task.test.__getitems__(range(len(task.test))))).logits.argmax(-1).numpy()
    plan = json.loads((repaired / "repair.json").read_text())
    result = results(repaired)["+".join(json.loads((repaired / "diagnosis.json").read_text())["groups"]), 42]
    found = Verification.from_dict(result["verification"])
    assert float((predicted == task.test.labels).mean()) == pytest.approx(found.accuracy_after, abs=1e-12)
    changed = json.loads((repaired / "changed_examples.json").read_text())["changed"]
    assert len(changed) == found.fixed + found.broken
    for item in changed:
        assert int(predicted[item["index"]]) == int(item["after"])
        assert (item["change"] == "fixed") == (item["after"] == item["label"])
    card = ModelCard.load(repaired / "README.md")
    values = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert values["accuracy after the repair"] == pytest.approx(found.accuracy_after, abs=1e-6)
    assert values["accuracy before the repair"] == pytest.approx(found.accuracy_before, abs=1e-6)
    assert f"net {found.net:+,}" in card.text and "bit-identical" in card.text and plan["command"] in card.text
    assert all(name in card.text for name in CONTROLS)
    assert Image.open(repaired / "figures" / "repair.png").format == "PNG"


def test_controls_have_the_same_budget_and_their_own_groups(repaired: Path) -> None:
    chosen = tuple(json.loads((repaired / "diagnosis.json").read_text())["groups"])
    found = results(repaired)
    assert len({result["steps"] for result in found.values()}) == 1
    assert ("fc", 42) in found and ("+".join(GROUPS), 43) in found
    drawn = [
        result["groups"]
        for result in found.values()
        if len(result["groups"]) == len(chosen) and tuple(result["groups"]) != chosen
    ]
    assert drawn, "no random choice was treated"


def test_the_original_is_not_touched(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(checkpoint)
    assert main(("repair", str(checkpoint), *REPAIR, "--groups", "fc")) == 0
    assert snapshot(checkpoint) == before
    assert json.loads((tmp_path / "repair-seed-42" / "diagnosis.json").read_text())["groups"] == ["fc"]


def test_the_same_command_again_repeats_nothing(checkpoint: Path, repaired: Path, tmp_path: Path) -> None:
    shutil.copytree(repaired, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    words = (
        "repair",
        str(checkpoint),
        *REPAIR,
        "--controls",
        "--num_seeds",
        "2",
        "--output_dir",
        str(tmp_path / "out"),
    )
    assert main(words) == 0
    after = snapshot(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == set()
    assert after.keys() == before.keys()


@pytest.mark.parametrize("select", ["relative_norm", "ikfad"])
def test_groups_are_chosen_as_asked(checkpoint: Path, tmp_path: Path, select: str) -> None:
    out = ("--select", select, "--num_groups", "2", "--output_dir", str(tmp_path / "out"))
    assert main(("repair", str(checkpoint), *REPAIR, *out)) == 0
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    scores = found["friction"] or {name: one["relative_norm"] for name, one in found["attribution"]["groups"].items()}
    assert bool(found["friction"]) == (select == "ikfad") and list(scores) == list(GROUPS)
    best = sorted(scores, key=lambda name: -scores[name])[:2]
    assert found["groups"] == [name for name in GROUPS if name in best]


@pytest.mark.slow
def test_a_repair_that_was_killed_ends_as_if_it_had_not_been(checkpoint: Path, tmp_path: Path) -> None:
    command = ("repair", str(checkpoint), "--use_cpu", "--groups", "layer4", "fc", "--num_train_epochs", "30")
    saving = ("--save_strategy", "epoch", "--output_dir", str(tmp_path / "killed"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", "hf_critmom", *command, *saving]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300.0
        while not has_saved(tmp_path / "killed" / "runs" / "layer4+fc" / "seed-42"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not list((tmp_path / "killed").glob("runs/*/*/result.json"))
    assert main((*command, *saving)) == 0
    assert main((*command, "--output_dir", str(tmp_path / "undisturbed"))) == 0
    (continued,), (expected,) = (results(tmp_path / name).values() for name in ("killed", "undisturbed"))
    assert without_seconds(continued) == without_seconds(expected)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "undisturbed")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "killed").glob("runs/*/*/checkpoint-*"))


# ----------------------------------------------------------------------------------------------------------- bad input


def test_groups_that_do_not_exist_are_named(refused: Any, checkpoint: Path) -> None:
    sentence = refused("repair", str(checkpoint), *REPAIR, "--groups", "layer5")
    assert "'layer5'" in sentence and "layer4" in sentence


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--groups", "auto", "fc"), "either auto or names"),
        (("--select", "best"), "'best'"),
        (("--num_groups", "8"), "7 layer groups"),
        (("--num_groups", "0"), "at least 1"),
        (("--num_seeds", "0"), "at least 1"),
        (("--num_seeds", "99999999999999"), "at most 1,000"),
        (("--num_train_epochs", "0"), "positive"),
        (("--eval_strategy", "epoch"), "leave it at no"),
        (("--no_such_flag", "1"), "no_such_flag"),
    ],
)
def test_values_that_cannot_be_used_are_refused(
    refused: Any, checkpoint: Path, words: tuple[str, ...], expected: str
) -> None:
    assert expected in refused("repair", str(checkpoint), *REPAIR, *words)
    assert not Path("repair-seed-42").exists()


def test_a_checkpoint_that_is_none_is_refused(refused: Any, tmp_path: Path) -> None:
    assert "image classifier" in refused("repair", str(tmp_path / "nothing"), *REPAIR)
    assert "required: CHECKPOINT" in refused("repair")


def test_a_checkpoint_of_another_task_is_refused(refused: Any, checkpoint: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(60):
        folder = tmp_path / "pets" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")
    sentence = refused("repair", str(checkpoint), *REPAIR, "--task", "pets")
    assert "another task" in sentence and "cat, dog" in sentence


def test_a_repair_without_errors_to_repair_is_refused(checkpoint: Path, task: Task, tmp_path: Path) -> None:
    model = network(checkpoint).eval()
    with torch.no_grad():
        predicted = model(**task.collator(task.validation.__getitems__(range(len(task.validation))))).logits.argmax(-1)
    split = task.validation
    easy = ImageDataset(split.images, predicted.numpy(), mean=split.mean, std=split.std)
    with pytest.raises(RepairError, match="no errors to repair"):
        repair_layers(
            model,
            args=TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to=[], remove_unused_columns=False),
            train_dataset=task.train,
            diagnosis_dataset=easy,
            test_dataset=task.test,
            data_collator=task.collator,
        )


def test_a_folder_with_another_repair_or_other_files_is_refused(
    refused: Any, checkpoint: Path, repaired: Path, tmp_path: Path
) -> None:
    sentence = refused("repair", str(checkpoint), *REPAIR, "--learning_rate", "0.5", "--output_dir", str(repaired))
    assert "learning_rate: 0.01 and 0.5" in sentence
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    assert "no repair" in refused("repair", str(checkpoint), *REPAIR, "--output_dir", "thesis")
    before = snapshot(checkpoint)
    assert "is the checkpoint's own folder" in refused(
        "repair", str(checkpoint), *REPAIR, "--output_dir", str(checkpoint)
    )
    assert snapshot(checkpoint) == before


# ----------------------------------------------------------------------------------------------------- language models


def test_the_tokens_of_a_language_model_are_repaired_in_the_same_way(tmp_path: Path) -> None:
    set_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=12, n_embd=16, n_layer=2, n_head=2))
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(0, 16, (96, 1), generator=generator)
    first = torch.randperm(256, generator=generator)[:96]  # no two texts are the same
    counted = (starts + torch.arange(10)) % 16  # each token is the one before it, plus 1
    texts = torch.cat([torch.stack([first // 16, first % 16], dim=1), counted], dim=1)
    examples = [{"input_ids": text, "labels": text} for text in texts]
    before = copy.deepcopy(model.state_dict())
    found = repair_layers(
        model,
        args=TrainingArguments(
            str(tmp_path / "out"),
            use_cpu=True,
            report_to=[],
            optim="critmom_adamw",
            learning_rate=0.01,
            num_train_epochs=4,
            per_device_train_batch_size=8,
        ),
        train_dataset=examples[:64],
        diagnosis_dataset=examples[64:80],
        test_dataset=examples[80:],
        settings=RepairSettings(groups=["block1", "norm"]),
    )
    verification = found.verification
    assert verification.items == 16 * 11 and verification.classes == ()
    assert verification.net > 0 and verification.pvalue < 0.05
    assert found.choice.attribution.unit == "tokens"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
