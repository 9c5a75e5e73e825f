"""Claims about comparisons, made with real ones: tiny networks on the embedded digits, through the command line."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import PartialState
from helpers.launches import without_seconds
from helpers.watched_comparisons import (
    ARM_NAMES,
    BATCH,
    EPOCHS,
    EVALUATED,
    SEEDS,
    STEPS,
    TARGETS,
    TINY,
    TRAIN,
    WHOLE,
    Finished,
    Witness,
    printed_by,
    read_result,
    refuse_constant,
    same_weights,
    snapshot,
    weights_in,
)
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from hf_critmom import critical_momentum, damping_ratio
from hf_critmom.commands import main
from hf_critmom.tasks import CifarResNetForImageClassification
from hf_critmom.training.arguments import recorded_training_arguments


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, witness = tmp_path_factory.mktemp("comparison") / "out", Witness()
    with pytest.MonkeyPatch.context() as patch:
        witness.watch(patch)
        printed = printed_by(("compare", *WHOLE, "--output_dir", str(folder)), patch)
    return Finished(folder, printed, witness)


# ------------------------------------------------------------------------------------------------------- what it leaves


def test_the_folder_is_laid_out_as_promised(finished: Finished) -> None:
    assert {path.name for path in finished.folder.iterdir()} == {
        *("comparison.json", "runs", "results.parquet", "README.md", "report.html", "figures", ".locks")
    }
    assert {path.name for path in (finished.folder / "runs").iterdir()} == set(ARM_NAMES)
    for arm in ARM_NAMES:
        assert {path.name for path in (finished.folder / "runs" / arm).iterdir()} == {f"seed-{seed}" for seed in SEEDS}
        for seed in SEEDS:
            names = {path.name for path in (finished.folder / "runs" / arm / f"seed-{seed}").iterdir()}
            assert {"result.json", "config.json", "model.safetensors", "preprocessor_config.json"} <= names
    figures = {figure.stem for figure in (finished.folder / "figures").glob("*.png")}
    assert figures and {figure.stem for figure in (finished.folder / "figures").glob("*.svg")} == figures
    assert all(Image.open(finished.folder / "figures" / f"{name}.png").format == "PNG" for name in figures)


def test_the_printed_table_names_every_arm_and_target(finished: Finished) -> None:
    for words in (*ARM_NAMES, *(f"to {target:g}" for target in TARGETS), "test accuracy", "README.md"):
        assert words in finished.printed


def test_the_plan_is_written_before_the_first_run_and_holds_the_request(finished: Finished) -> None:
    assert all(seen.plan_was_written for seen in finished.witness.runs.values())
    plan = json.loads((finished.folder / "comparison.json").read_text(), parse_constant=refuse_constant)
    assert (plan["seeds"], plan["targets"], list(plan["arms"])) == (list(SEEDS), list(TARGETS), list(ARM_NAMES))
    constant = {name: value for name, value in plan["arms"]["constant"].items() if name not in ("help", "color")}
    assert constant == {"optimizer": "sgd", "options": {"momentum": 0.9}}
    assert plan["training"]["num_train_epochs"] == EPOCHS and plan["training"]["learning_rate"] == 0.1
    assert plan["task"]["splits"]["train"]["examples"] == TRAIN
    assert {"hf-critmom", "torch", "transformers", "hardware"} <= set(plan["versions"])
    assert plan["command"].startswith("hf-critmom compare --width 2")


@pytest.mark.parametrize("use_cpu", [False, True])
def test_writing_the_plan_keeps_the_chosen_device(use_cpu: bool) -> None:
    args = TrainingArguments("unused", use_cpu=use_cpu)
    chosen = PartialState().device
    assert recorded_training_arguments(args).keys() == {"total_train_batch_size"}
    assert PartialState().device == chosen
    assert PartialState()._cpu == use_cpu


def test_each_arm_is_run_once_with_each_seed(finished: Finished) -> None:
    assert sorted(finished.witness.runs) == sorted((arm, seed) for arm in ARM_NAMES for seed in SEEDS)
    for result in finished.results():
        assert result["status"] == "finished" and result["steps"] == STEPS
        assert [evaluation["step"] for evaluation in result["evaluations"]] == [2, 4]
        assert [evaluation["epoch"] for evaluation in result["evaluations"]] == [1.0, 2.0]


def test_seconds_only_grow(finished: Finished) -> None:
    for result in finished.results():
        seconds = [0.0, *(evaluation["seconds"] for evaluation in result["evaluations"]), result["train_seconds"]]
        assert seconds == sorted(seconds) and seconds[1] > 0.0


# ------------------------------------------------------------------------------------------------------- paired seeds


def test_with_one_seed_every_arm_starts_from_the_same_weights(finished: Finished) -> None:
    for seed in SEEDS:
        first, *others = (finished.witness.runs[arm, seed].weights for arm in ARM_NAMES)
        assert first and all(same_weights(first, other) for other in others)


def test_with_one_seed_every_arm_sees_the_same_images_in_the_same_order(finished: Finished) -> None:
    for seed in SEEDS:
        first, *others = (finished.witness.runs[arm, seed] for arm in ARM_NAMES)
        assert len(first.batches) == STEPS
        for other in others:
            assert other.indices == first.indices
            for mine, theirs in zip(first.batches, other.batches, strict=True):
                assert torch.equal(mine["pixel_values"], theirs["pixel_values"])
                assert torch.equal(mine["labels"], theirs["labels"])


def test_another_seed_starts_from_other_weights_and_another_order(finished: Finished) -> None:
    first, second = (finished.witness.runs["critmom", seed] for seed in SEEDS)
    assert not torch.equal(first.weights["resnet.conv1.weight"], second.weights["resnet.conv1.weight"])
    assert first.indices["train"] != second.indices["train"]


def test_each_epoch_shows_every_training_image_once_in_a_new_order(finished: Finished) -> None:
    for seen in finished.witness.runs.values():
        epochs = [flat(seen.indices["train"][2 * epoch : 2 * epoch + 2]) for epoch in range(EPOCHS)]
        assert all(sorted(epoch) == list(range(TRAIN)) for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_an_image_is_augmented_differently_in_each_epoch(finished: Finished) -> None:
    seen = finished.witness.runs["constant", SEEDS[0]]
    shown: dict[int, list[torch.Tensor]] = {}
    for indices, batch in zip(seen.indices["train"], seen.batches, strict=True):
        for index, pixels in zip(indices, batch["pixel_values"], strict=True):
            shown.setdefault(index, []).append(pixels)
    changed = [not torch.equal(first, second) for first, second in shown.values()]
    assert np.mean(changed) > 0.7  # by chance 8 of 9 positions of the crop differ


def test_another_seed_augments_the_same_image_differently(finished: Finished) -> None:
    shown = []
    for seed in SEEDS:
        seen = finished.witness.runs["constant", seed]
        pixels = torch.cat([batch["pixel_values"] for batch in seen.batches[:2]])
        shown.append(dict(zip(flat(seen.indices["train"][:2]), pixels, strict=True)))
    changed = [not torch.equal(shown[0][index], shown[1][index]) for index in shown[0]]
    assert np.mean(changed) > 0.7


def test_the_test_split_is_read_exactly_once_a_run(finished: Finished) -> None:
    for seen in finished.witness.runs.values():
        assert sorted(flat(seen.indices["test"])) == list(range(EVALUATED))
        assert sorted(flat(seen.indices["validation"])) == sorted(EPOCHS * list(range(EVALUATED)))
    assert "test" not in finished.witness.outside_of_runs


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("arm", ARM_NAMES)
def test_a_run_trains_like_the_reference_twin(finished: Finished, arm: str) -> None:
    """The twin is a plain loop of heavy-ball steps, written out, over the batches that the run was seen to take."""
    seen = finished.witness.runs[arm, SEEDS[0]]
    folder = finished.folder / "runs" / arm / f"seed-{SEEDS[0]}"
    model = CifarResNetForImageClassification.from_pretrained(folder)
    model.load_state_dict(seen.weights)
    model.to(memory_format=torch.channels_last).train()  # as the run has it, so that convolutions round alike
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    velocities = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for step, batch in enumerate(seen.batches):
        lr = 0.1 * 0.5 * (1.0 + math.cos(math.pi * step / STEPS))
        momentum = {"constant": 0.9, "critmom": 1 - 2 * lr**0.5, "hybrid": min(1 - 2 * lr**0.5, 0.9)}[arm]
        model.zero_grad()
        model(**batch).loss.backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gradient = parameter.grad + (5e-4 * parameter if name in decayed else 0.0)
                velocities[name] = momentum * velocities[name] + gradient
                parameter -= lr * velocities[name]
    found, expected = load_file(folder / "model.safetensors"), model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


def test_momentum_is_logged_as_the_step_used_it(finished: Finished) -> None:
    rules = {
        "constant": lambda lr: 0.9,
        "critmom": critical_momentum,
        "hybrid": lambda lr: min(critical_momentum(lr), 0.9),
    }
    for result in finished.results():
        log = result["training_log"]
        assert [record["step"] for record in log] == [1, 2, 3, 4]
        for record in [*log, *result["evaluations"]]:
            lr = 0.1 * 0.5 * (1.0 + math.cos(math.pi * (record["step"] - 1) / STEPS))
            assert record["learning_rate"] == pytest.approx(lr, rel=1e-12)
            assert record["momentum"] == rules[result["arm"]](record["learning_rate"])
            ratio = damping_ratio(record["momentum"], record["learning_rate"])
            assert record["damping_ratio"] == pytest.approx(ratio, rel=1e-12)


def test_the_saved_model_is_the_one_that_was_tested(finished: Finished) -> None:
    task = finished.witness.task
    assert task is not None
    for arm in ARM_NAMES:
        folder = finished.folder / "runs" / arm / f"seed-{SEEDS[0]}"
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
        assert type(model) is CifarResNetForImageClassification
        assert model.config.id2label == dict(enumerate("0123456789"))
        processor = AutoImageProcessor.from_pretrained(folder)
        result = finished.result(arm, SEEDS[0])
        for split, recorded in ((task.test, result["test"]), (task.validation, result["evaluations"][-1])):
            pictures = [Image.fromarray(image[0]) for image in split.images]
            with torch.no_grad():
                outputs = model(**processor(images=pictures, return_tensors="pt"), labels=torch.tensor(split.labels))
            accuracy = float((outputs.logits.argmax(-1).numpy() == split.labels).mean())
            assert recorded["accuracy"] == pytest.approx(accuracy, abs=1e-12)
            assert recorded["loss"] == pytest.approx(float(outputs.loss), rel=1e-4)


def test_each_models_card_states_its_momentum(finished: Finished) -> None:
    for arm, optimizer in (("constant", "SGD("), ("critmom", "CritMomSGD("), ("hybrid", "CritMomSGD(")):
        card = (finished.folder / "runs" / arm / f"seed-{SEEDS[0]}" / "README.md").read_text()
        line = next(line for line in card.splitlines() if line.startswith("- optimizer:"))
        assert line.startswith(f"- optimizer: {optimizer}"), line
        assert ("momentum=0.9" in line) == (arm == "constant") and ("hold=0.9" in line) == (arm == "hybrid"), line


# -------------------------------------------------------------------------------------------------------------- report


def test_the_results_are_one_table(finished: Finished) -> None:
    table = pd.read_parquet(finished.folder / "results.parquet")
    assert len(table) == len(ARM_NAMES) * len(SEEDS) * (EPOCHS + 1)
    for result in finished.results():
        rows = table[(table["arm"] == result["arm"]) & (table["seed"] == result["seed"])]
        tested = rows[rows["split"] == "test"].iloc[0]
        assert (tested["accuracy"], tested["step"]) == (result["test"]["accuracy"], STEPS)
        validation = rows[rows["split"] == "validation"]
        for name in ("step", "epoch", "seconds", "loss", "accuracy", "learning_rate", "momentum"):
            assert validation[name].tolist() == [evaluation[name] for evaluation in result["evaluations"]]


def test_the_report_is_a_model_card_whose_values_come_from_the_results(finished: Finished) -> None:
    card = ModelCard.load(finished.folder / "README.md")
    table = pd.read_parquet(finished.folder / "results.parquet")
    means = table[table["split"] == "test"].groupby("arm")["accuracy"].mean()
    assert card.data.pipeline_tag == "image-classification" and card.data.library_name == "transformers"
    results = card.data.eval_results
    assert len(results) == len(ARM_NAMES)
    for arm, result in zip(ARM_NAMES, results, strict=True):
        assert arm in result.metric_name and result.metric_type == "accuracy" and result.dataset_split == "test"
        assert result.metric_value == pytest.approx(means[arm], abs=1e-6)
        assert f"{means[arm]:.4f}" in card.text


def test_the_report_says_what_was_done(finished: Finished) -> None:
    text = (finished.folder / "README.md").read_text()
    plan = json.loads((finished.folder / "comparison.json").read_text())
    for words in (*ARM_NAMES, "128 train, 64 validation, 64 test", "seeds (42, 43)", "learning_rate=0.1", "CPU"):
        assert words in text
    assert plan["command"] in text and "Unfinished" not in text
    assert all(note in text for note in plan["task"]["notes"])
    for figure in (finished.folder / "figures").glob("*.png"):
        assert f"(figures/{figure.name})" in text


def test_a_report_is_rebuilt_from_the_results_alone(finished: Finished, again: Any, tmp_path: Path) -> None:
    copy = tmp_path / finished.folder.name
    for file in ("comparison.json", *(f"runs/{arm}/seed-{seed}/result.json" for arm in ARM_NAMES for seed in SEEDS)):
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished.folder / file, copy / file)
    printed, witness = again("report", str(copy))
    assert printed.replace(str(copy), str(finished.folder)) == finished.printed
    assert witness.runs == {} and witness.outside_of_runs == []
    for name in (
        "README.md",
        "results.parquet",
        *(f"figures/{file.name}" for file in finished.folder.glob("figures/*")),
    ):
        assert (copy / name).read_bytes() == (finished.folder / name).read_bytes()


def test_a_report_of_an_unfinished_comparison_says_so(finished: Finished, again: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "out")
    (tmp_path / "out" / "runs" / "hybrid" / "seed-43" / "result.json").unlink()
    again("report", str(tmp_path / "out"))
    assert "**Unfinished: 5 of 6 runs.**" in (tmp_path / "out" / "README.md").read_text()


def test_a_result_states_what_was_requested_of_a_run_and_how_long_it_took(finished: Finished) -> None:
    for result in finished.results():
        assert (result["budget"], result["learning_rate"], result["weight_decay"]) == (EPOCHS, 0.1, 5e-4)
        assert 0.0 < result["train_seconds"] < result["trainer_seconds"] < result["wall_seconds"]
    table = pd.read_parquet(finished.folder / "results.parquet")
    assert set(table["budget"]) == {EPOCHS} and set(table["peak_learning_rate"]) == {0.1}


def test_the_report_gives_a_verdict_on_every_claim_about_its_arms(finished: Finished) -> None:
    text = (finished.folder / "README.md").read_text()
    verdict = text.partition("## Verdict\n")[2].partition("## ")[0]
    claims = [line for line in verdict.splitlines() if line.startswith("* **")]
    assert "| critmom against constant | not decided yet | " in verdict
    openings = [
        "* **`critmom` against `constant` is not decided yet: ",  # two tiny runs decide nothing
        "* **critmom is faster than its matched control: not tested",
        "* **Whether `hybrid` is the first",
        "* **`hybrid` against `constant` is not decided yet: ",
    ]
    assert len(claims) == len(openings)
    assert all(claim.startswith(opening) for claim, opening in zip(claims, openings, strict=True)), claims
    assert "2 seeds" in claims[0] and "Ratio of the steps to each target, with Holm's correction: 0.05: " in verdict
    assert "not tested (it needs the arm matched)." in claims[1]
    assert "critmom is faster than its matched control: not tested" in finished.printed


# ------------------------------------------------------------------------------------------- budgets, arms from a file


@pytest.fixture(scope="module")
def budgets(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, witness = tmp_path_factory.mktemp("budgets") / "out", Witness()
    words = (*TINY, "--num_train_epochs", "2", "1", "--arms", "critmom", "ikfad", "--num_seeds", "1")
    with pytest.MonkeyPatch.context() as patch:
        printed = printed_by(("compare", *words, "--targets", "0.05", "--output_dir", str(folder)), patch)
    return Finished(folder, printed, witness)


def of_budget(folder: Path, arm: str, epochs: int) -> dict[str, Any]:
    return json.loads((folder / "runs" / arm / f"epochs-{epochs}" / "seed-42" / "result.json").read_text())


def test_every_budget_has_its_own_runs(budgets: Finished) -> None:
    files = budgets.folder.glob("runs/**/result.json")
    assert {str(file.parent.relative_to(budgets.folder)) for file in files} == {
        f"runs/{arm}/epochs-{epochs}/seed-42" for arm in ("critmom", "ikfad") for epochs in (1, 2)
    }
    plan = json.loads((budgets.folder / "comparison.json").read_text())
    assert plan["training"]["num_train_epochs"] == [1.0, 2.0]
    table = pd.read_parquet(budgets.folder / "results.parquet")
    assert table.groupby("budget").size().to_dict() == {1.0: 2 * (1 + 1), 2.0: 2 * (2 + 1)}
    for arm in ("critmom", "ikfad"):
        for epochs in (1, 2):
            result = of_budget(budgets.folder, arm, epochs)
            assert (result["budget"], result["steps"]) == (epochs, epochs * TRAIN // BATCH)


def test_each_budget_has_its_own_schedule(budgets: Finished) -> None:
    """The learning rate decays to 0 over either: a short budget is not the beginning of a long one."""
    for epochs in (1, 2):
        steps = epochs * TRAIN // BATCH
        rates = [record["learning_rate"] for record in of_budget(budgets.folder, "critmom", epochs)["training_log"]]
        assert rates == pytest.approx([0.05 * (1.0 + math.cos(math.pi * step / steps)) for step in range(steps)])


def test_a_run_of_several_budgets_is_that_of_a_comparison_with_one(budgets: Finished, finished: Finished) -> None:
    several, alone = of_budget(budgets.folder, "critmom", EPOCHS), finished.result("critmom", 42)
    assert without_seconds(several) == without_seconds(alone)


def test_the_learning_rate_is_recorded_where_there_is_no_momentum(budgets: Finished) -> None:
    table = pd.read_parquet(budgets.folder / "results.parquet")
    validation = table[table["split"] == "validation"]
    assert (validation["learning_rate"] > 0.0).all()
    assert validation[validation["arm"] == "ikfad"]["momentum"].isna().all()


def test_the_report_has_a_section_for_every_budget(budgets: Finished) -> None:
    text = (budgets.folder / "README.md").read_text()
    in_words = {1: "1 epoch", 2: "2 epochs"}
    for epochs, told in in_words.items():
        assert f"## Verdict, {told}\n" in text and f"## Results, {told}\n" in text
        assert f"resnet18 of width 2, {told}, learning rate 0.1" in budgets.printed
        for name in ("accuracy", "damping", "reach", "speed"):
            assert f"(figures/{name}-{epochs}-epochs.png)" in text
            assert (budgets.folder / "figures" / f"{name}-{epochs}-epochs.png").exists()
    assert "1 to 2 evaluations per run" in text and "The answer holds for these budgets and" in text
    names = [result.metric_name for result in ModelCard.load(budgets.folder / "README.md").data.eval_results]
    assert [name.split(", ")[1:3] for name in names] == [
        [arm, told] for told in in_words.values() for arm in ("critmom", "ikfad")
    ]


def test_arms_of_a_file_are_compared_and_recorded(finished: Finished, again: Any, tmp_path: Path) -> None:
    file, folder = tmp_path / "arms.toml", tmp_path / "out"
    heavy = '[heavy]\noptimizer = "sgd"\noptions = { momentum = 0.95 }\nlearning_rate = 0.05\nweight_decay = 0.001\n'
    file.write_text(heavy + 'help = "SGD, heavier"\ncolor = "#123456"\n')
    given = (*TINY, "--arms", "constant", "heavy", "--arms_file", str(file), "--num_seeds", "1", "--targets", "0.05")
    printed, _ = again("compare", *given, "--output_dir", str(folder))
    assert "heavy" in printed
    result = read_result(folder, "heavy", 42)
    assert (result["learning_rate"], result["weight_decay"]) == (0.05, 0.001)
    assert {record["momentum"] for record in result["training_log"]} == {0.95}
    assert result["training_log"][0]["learning_rate"] == 0.05
    assert without_seconds(read_result(folder, "constant", 42)) == without_seconds(finished.result("constant", 42))
    assert (
        "`heavy`: SGD, heavier; its own learning rate 0.05, its own weight decay 0.001."
        in (folder / "README.md").read_text()
    )
    file.unlink()  # the plan holds everything
    again("report", str(folder))
    file.write_text(heavy + 'help = "in other words"\n')
    _, repeated = again("compare", *given, "--output_dir", str(folder))
    assert repeated.runs == {}
    file.write_text(heavy.replace("0.95", "0.8"))
    assert main(("compare", *given, "--output_dir", str(folder))) == 2


# --------------------------------------------------------------------------------------------- repeat, continue, resume


def test_the_same_command_again_repeats_nothing(finished: Finished, again: Any) -> None:
    before = snapshot(finished.folder / "runs") | snapshot(finished.folder / "figures")
    plan = (finished.folder / "comparison.json").stat().st_mtime_ns
    printed, witness = again("compare", *WHOLE, "--output_dir", str(finished.folder))
    assert printed == finished.printed
    assert witness.runs == {} and witness.outside_of_runs == ["train"]  # the model is checked on two images
    after = snapshot(finished.folder / "runs") | snapshot(finished.folder / "figures")
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    runs = snapshot(finished.folder / "runs")
    assert all(runs[name][1] == before[name][1] for name in runs)
    assert (finished.folder / "comparison.json").stat().st_mtime_ns == plan


def test_a_missing_run_is_made_again_bit_for_bit(finished: Finished, again: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "out")
    (tmp_path / "out" / "runs" / "critmom" / "seed-43" / "result.json").unlink()
    shutil.rmtree(tmp_path / "out" / "runs" / "hybrid" / "seed-42")
    _, witness = again("compare", *WHOLE, "--output_dir", str(tmp_path / "out"))
    assert sorted(witness.runs) == [("critmom", 43), ("hybrid", 42)]
    for arm in ARM_NAMES:
        for seed in SEEDS:
            made_up = read_result(tmp_path / "out", arm, seed)
            assert without_seconds(made_up) == without_seconds(finished.result(arm, seed))
            assert weights_in(tmp_path / "out", arm, seed) == weights_in(finished.folder, arm, seed)


def test_a_run_does_not_depend_on_what_ran_before_it(finished: Finished, again: Any, tmp_path: Path) -> None:
    given = ("--arms", "hybrid", "--num_seeds", "1", "--seed", "43", "--targets", "0.5")
    again("compare", *TINY, *given, "--output_dir", str(tmp_path))
    assert without_seconds(read_result(tmp_path, "hybrid", 43)) == without_seconds(finished.result("hybrid", 43))


@pytest.mark.slow
def test_loader_workers_change_nothing(
    finished: Finished, again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Loaders that die as cyclic garbage, as the Trainer's do, wait so long for their persistent workers.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2, raising=False)
    shutil.copytree(finished.folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / "critmom" / "seed-42")
    workers = ("--dataloader_num_workers", "1", "--dataloader_persistent_workers", "true")
    again("compare", *WHOLE, *workers, "--output_dir", str(tmp_path / "out"))
    made_up = read_result(tmp_path / "out", "critmom", 42)
    assert without_seconds(made_up) == without_seconds(finished.result("critmom", 42))


# ------------------------------------------------------------------------------------------------------ data and models


def test_a_saved_model_is_fine_tuned_from_its_weights(finished: Finished, again: Any, tmp_path: Path) -> None:
    saved = finished.folder / "runs" / "critmom" / "seed-42"
    given = ("--arms", "constant", "hybrid", "--num_seeds", "1", "--model_name_or_path", str(saved))
    _, witness = again("compare", *TINY, *given, "--output_dir", str(tmp_path))
    start = load_file(saved / "model.safetensors")
    assert all(same_weights(seen.weights, start) for seen in witness.runs.values())
    plan = json.loads((tmp_path / "comparison.json").read_text())
    assert plan["model"]["model_name_or_path"] == saved.name  # where it lies is nobody else's business
