"""Claims about ``hf-critmom attribute``: what it writes can be relied on, and what it cannot use is one sentence."""

import json
import re
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from hf_critmom import AttributionCallback, CritMomTrainer
from hf_critmom.attribution import AttributionError
from hf_critmom.attribution.passes import TOP_ROWS
from hf_critmom.commands import main
from hf_critmom.commands.attribute import parse_attribution
from hf_critmom.experiments.comparison import ComparisonTrainingArguments, find_run
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.experiments.diagnosis import execution, runner
from hf_critmom.experiments.diagnosis.arguments import AttributionArguments
from hf_critmom.experiments.diagnosis.plan import AttributionRequest, CheckpointSpec, different_settings
from hf_critmom.experiments.diagnosis.report import write_attribution_report
from hf_critmom.experiments.diagnosis.results import read_results
from hf_critmom.tasks import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DataArguments,
    ModelArguments,
    build_model,
    load_checkpoint,
    load_task,
)
from hf_critmom.tasks.task import TaskError

DATA = ("--max_train_samples", "300", "--max_eval_samples", "70")
SEVEN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A finished comparison of two arms and two seeds, none of which knows much about digits."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    settings = ("--width", "2", "--num_train_epochs", "3", "--per_device_train_batch_size", "32", "--use_cpu")
    arms = ("--arms", "constant", "critmom", "--num_seeds", "2", "--output_dir", str(folder))
    assert main(("compare", *arms, *settings, *DATA)) == 0
    return folder


@pytest.fixture(scope="module")
def task():
    return load_task(DataArguments(max_train_samples=300, max_eval_samples=70))


@pytest.fixture
def refused(tmp_path, capfd):
    """Runs a command that must fail with one sentence and without a trace on disk; returns the sentence."""

    def kept():
        """Every file but the locks of a folder, which stay where a launch has waited for another."""
        files = (path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != ".locks")
        return {path: path.read_bytes() for path in files}

    def run(*words):
        before = kept()
        capfd.readouterr()
        status = main(("attribute", *map(str, words)))
        shown = capfd.readouterr()
        assert status == 2 and shown.out == ""
        assert kept() == before
        lines = [line for line in re.split(r"[\n\r]", shown.err) if line.strip()]
        assert len(lines) == 1 and lines[0].startswith("hf-critmom attribute: error: ") and lines[0].endswith(".")
        return lines[0]

    return run


def attributed(*words):
    assert main(("attribute", *map(str, words), *DATA, "--use_cpu")) == 0


def the_study(folder, number=0):
    return read_results(Path(folder)).checkpoints[number].studies[0]


# ---------------------------------------------------------------------------------------------------- what it writes


def test_one_checkpoint_gets_a_table_figures_json_and_a_section(comparison, capsys):
    run = comparison / "runs" / "critmom" / "seed-42"
    attributed(run)
    folder = Path("attribution-digits")
    stored = read_results(folder)
    (result,) = stored.checkpoints
    assert (result.label, result.arm, result.seed) == ("critmom, seed 42", "critmom", 42)
    study = result.studies[0]
    assert list(study.attribution.groups) == list(SEVEN)
    assert study.attribution.total == 70 and study.attribution.selected == study.attribution.misclassified
    assert sum(found.selected for found in study.classes.values()) == study.attribution.selected
    tested = json.loads((run / "result.json").read_text())["evaluations"][-1]["accuracy"]
    assert study.attribution.accuracy == pytest.approx(tested)
    shown = capsys.readouterr().out
    assert all(group in shown for group in SEVEN) and "Report: attribution-digits/README.md" in shown
    section = (folder / "README.md").read_text()
    assert "{{" not in section and section.startswith("## ")
    assert all(f"| {group}" in section for group in SEVEN) and "--use_cpu" in section
    figures = re.findall(r"\((figures/[^)]+)\)", section)
    assert len(figures) == 2
    for figure in figures:
        height, width, _ = matplotlib.image.imread(folder / figure).shape
        assert 800 < width < 1000 and height > 300
    assert stored.settings.task.splits["validation"].examples == 70
    attributed(run, "--json")
    (printed,) = json.loads(capsys.readouterr().out)["checkpoints"]
    assert printed["label"] == "critmom, seed 42"
    assert printed["studies"][0]["shares"] == study.attribution.shares


def test_the_untrained_network_is_the_one_that_the_run_started_from(comparison, task):
    initial = build_model(task, ModelArguments(width=2), seed=43)
    initial.save_pretrained("untrained")
    task.processor.save_pretrained("untrained")
    attributed(comparison / "runs" / "constant" / "seed-43", "--output_dir", "trained")
    Path("cmp/runs/constant").mkdir(parents=True)
    (Path("cmp") / "comparison.json").write_bytes((comparison / "comparison.json").read_bytes())
    Path("untrained").rename("cmp/runs/constant/seed-43")
    attributed("cmp/runs/constant/seed-43", "--output_dir", "initial")
    study = the_study("initial")
    assert study.initial.shares == pytest.approx(study.attribution.shares, rel=1e-5)
    trained = the_study("trained")
    assert trained.initial.shares != pytest.approx(trained.attribution.shares, rel=1e-2)


def test_checkpoints_without_a_seed_have_untrained_networks_of_their_own(comparison):
    """Else agreement in untrained networks would be that of one network with itself."""
    for seed in (42, 43):
        shutil.copytree(comparison / "runs" / "constant" / f"seed-{seed}", f"plain-{seed}")
    attributed("plain-42", "plain-43", "--output_dir", "out")
    found = read_results(Path("out")).checkpoints
    assert [result.seed for result in found] == [None, None]
    assert len({result.initial_seed for result in found}) == 2
    first, second = (result.studies[0].initial.shares for result in found)
    assert first != pytest.approx(second, rel=1e-3)
    assert all(str(result.initial_seed) in Path("out/README.md").read_text() for result in found)
    attributed("plain-43", "--output_dir", "again")
    assert the_study("again").initial == found[1].studies[0].initial


def test_earlier_results_took_the_runs_seed_or_0(comparison):
    attributed(comparison / "runs" / "constant" / "seed-43", "--output_dir", "out")
    stored = json.loads(Path("out/attribution.json").read_text())
    assert stored["checkpoints"][0].pop("initial_seed") == 43
    Path("out/attribution.json").write_text(json.dumps(stored))
    write_attribution_report(Path("out"))
    assert "same configuration, seed 43" in Path("out/README.md").read_text()


def test_the_number_of_rows_of_largest_loss_is_a_setting_and_the_batch_size_is_not():
    current = {"dtype": "float32", "threads": 1, "check_labels": False, "num_top_rows": TOP_ROWS, "select": "top_loss"}
    stored = {name: current[name] for name in ("dtype", "threads", "check_labels", "select")}
    assert different_settings(stored, current) == []
    assert different_settings(stored, {**current, "num_top_rows": 50}) == ["num_top_rows"]


def test_the_rows_of_largest_loss_do_not_follow_the_batch_size(comparison):
    run = comparison / "runs" / "critmom" / "seed-42"
    for size in ("20", "70"):
        flags = ("--select", "top_loss", "--num_top_rows", "30", "--per_device_eval_batch_size", size)
        attributed(run, *flags, "--output_dir", f"of-{size}")
        assert the_study(f"of-{size}").attribution.selected == 30


def test_a_model_that_returns_tuples_is_timed(task, monkeypatch):
    model = build_model(task, ModelArguments(width=2), seed=0)
    model.forward = lambda **inputs: tuple(type(model).forward(model, **inputs).values())
    monkeypatch.setattr(runner, "load_checkpoint", lambda *_: (model, task))
    request = AttributionRequest([CheckpointSpec("x", "x")], AttributionArguments(), DataArguments())
    assert runner._pass_seconds(request, task) > 0.0


def test_several_checkpoints_get_a_table_of_agreement(comparison, capsys):
    runs = sorted((comparison / "runs").glob("*/*"))
    attributed(*runs, "--output_dir", "all", "--num_top_groups", "2")
    content = json.loads(Path("all/attribution.json").read_text())
    assert [result.label for result in read_results(Path("all")).checkpoints] == [
        f"{arm}, seed {seed}" for arm in ("constant", "critmom") for seed in (42, 43)
    ]
    assert content["agreement"].keys() == {"misclassified", "correct", "initial"}
    found = content["agreement"]["misclassified"]
    assert [(part["first"], part["second"], part["pairs"]) for part in found["arms"]] == [
        ("constant", "constant", 1), ("constant", "critmom", 4), ("critmom", "critmom", 1),
    ]  # fmt: skip
    assert found["full_by_chance"] == pytest.approx(1 / 21)
    section = Path("all/README.md").read_text()
    assert "agree in full once in 21 times" in section and "| constant and critmom | untrained | 4 |" in section
    assert Path("all/figures/checkpoints.png").exists()
    assert "Agreement between runs" in capsys.readouterr().out


def test_of_checkpoints_with_the_same_weights_one_is_studied_and_the_others_are_named(comparison, capfd):
    """As a final model is one that was saved after the last checkpoint."""
    run, another = (comparison / "runs" / arm / "seed-42" for arm in ("critmom", "constant"))
    for copy in ("final/checkpoint-16", "final/checkpoint-24"):
        shutil.copytree(run, copy)
    said = "critmom, seed 42, checkpoint-16 and checkpoint-24 have the same weights: only critmom, seed 42 is studied."
    attributed(run, "final/checkpoint-16", "final/checkpoint-24", another, "--output_dir", "out")
    assert said in " ".join(capfd.readouterr().err.split())
    same, other = read_results(Path("out")).checkpoints
    assert (same.label, same.same_weights) == ("critmom, seed 42", ("checkpoint-16", "checkpoint-24"))
    assert (other.label, other.same_weights) == ("constant, seed 42", ())
    assert said in Path("out/README.md").read_text() and said in Path("out/report.html").read_text()
    attributed("final/checkpoint-16", "final/checkpoint-24", "--output_dir", "pair")
    assert len(read_results(Path("pair")).checkpoints) == 1
    shown = capfd.readouterr()
    said = "checkpoint-16 and checkpoint-24 have the same weights: only checkpoint-16 is studied."
    assert said in " ".join(shown.out.split())


def test_the_same_command_continues_and_another_is_refused(comparison, refused, monkeypatch):
    runs = sorted((comparison / "runs").glob("*/*"))[:2]
    attributed(runs[0], "--output_dir", "out")
    (first,) = read_results(Path("out")).checkpoints
    made = []
    original = execution.make_study
    monkeypatch.setattr(execution, "make_study", lambda *args, **named: made.append(1) or original(*args, **named))
    attributed(*runs, "--output_dir", "out")
    assert len(made) == 1
    assert read_results(Path("out")).checkpoints[0] == first
    whole = json.loads(Path("out/attribution.json").read_text())
    Path("out/attribution.json").write_text(json.dumps({**whole, "agreement": "perfect"}))
    attributed(*runs, "--output_dir", "out")
    assert len(made) == 1 and json.loads(Path("out/attribution.json").read_text()) == whole
    assert "(seed)" in refused(*runs, "--output_dir", "out", "--seed", "3", *DATA)
    assert "(constant, seed 43)" in refused(runs[0], "--output_dir", "out", *DATA)
    assert "(task)" in refused("--output_dir", "out", "--split_seed", "0", "--max_train_samples", "300", "--", *runs)


def test_what_was_found_before_a_failure_is_kept(comparison, capsys):
    runs = sorted((comparison / "runs").glob("*/*"))
    calls = []
    original = execution.make_study

    def failing(*args, **named):
        calls.append(1)
        if len(calls) == 2:
            raise AttributionError("None of the 70 examples is misclassified.")
        return original(*args, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(execution, "make_study", failing)
        assert main(("attribute", *map(str, runs[:2]), "--output_dir", "out", *DATA)) == 2
    assert "constant, seed 43: None of the 70" in capsys.readouterr().err
    assert [result.label for result in read_results(Path("out")).checkpoints] == ["constant, seed 42"]


def test_a_corruption_is_followed_over_its_severities(comparison, capsys):
    attributed(
        comparison / "runs" / "critmom" / "seed-42",
        "--corruption",
        "contrast",
        "--initial",
        "false",
        "--output_dir",
        "out",
    )
    studies = read_results(Path("out")).checkpoints[0].studies
    assert [(study.corruption, study.severity) for study in studies] == [("contrast", s) for s in range(6)]
    assert len({study.attribution.loss for study in studies}) == 6
    section = Path("out/README.md").read_text()
    assert "CIFAR-10-C-style subset" in section and "| 5 |" in section
    assert Path("out/figures/severity-critmom-seed-42.png").exists()
    assert "contrast by severity" in capsys.readouterr().out


def test_one_severity_is_that_one(comparison):
    attributed(comparison / "runs" / "critmom" / "seed-42", "--corruption", "gaussian_blur:2", "--output_dir", "out")
    (study,) = read_results(Path("out")).checkpoints[0].studies
    assert (study.corruption, study.severity) == ("gaussian_blur", 2)
    assert "gaussian_blur of severity 2" in Path("out/README.md").read_text()


@pytest.mark.parametrize("select", ["correct", "all", "top_loss"])
def test_other_selections_come_without_controls(comparison, select):
    attributed(comparison / "runs" / "critmom" / "seed-42", "--select", select, "--output_dir", "out")
    study = the_study("out")
    assert study.attribution.select == select and not study.classes
    assert list(study.attributions) == [select]
    assert "problem group" not in Path("out/README.md").read_text().split("How to read it")[0]


def test_groups_of_ones_own_and_no_untrained_network(comparison):
    words = ("--groups", "stem=1\\.weight", "layer", "--initial", "false", "--split", "test", "--output_dir", "out")
    attributed(comparison / "runs" / "critmom" / "seed-42", *words)
    study = the_study("out")
    assert set(study.attribution.groups) == {"stem", "layer", "other"}
    assert study.initial is None and "untrained" not in Path("out/README.md").read_text()


def test_the_history_of_the_callback_becomes_a_heat_map(comparison, task):
    model, _ = load_checkpoint(str(comparison / "runs" / "critmom" / "seed-42"), task)
    args = ComparisonTrainingArguments(
        output_dir="watched", num_train_epochs=2, per_device_train_batch_size=64, use_cpu=True, save_strategy="epoch"
    )
    trainer = CritMomTrainer(
        model, args, train_dataset=task.train, eval_dataset=task.validation, data_collator=task.collator,
        processing_class=task.processor, callbacks=[AttributionCallback()],
    )  # fmt: skip
    trainer.train()
    (saved,) = Path("watched").glob("checkpoint-*")
    attributed(saved, "--output_dir", "out")
    (result,) = read_results(Path("out")).checkpoints
    assert [entry["epoch"] for entry in result.history] == [1.0, 2.0]
    assert f"figures/epochs-{saved.name}.png" in Path("out/README.md").read_text()


def test_the_report_follows_from_the_json_alone(comparison):
    attributed(comparison / "runs" / "critmom" / "seed-42", "--output_dir", "out")
    section = Path("out/README.md").read_text()
    Path("out/README.md").unlink()
    write_attribution_report(Path("out"))
    assert Path("out/README.md").read_text() == section


# ----------------------------------------------------------------------------------------- checkpoints and their names


def test_runs_are_recognised_by_their_folder(comparison):
    plan, arm, seed = find_run(comparison / "runs" / "critmom" / "seed-43")
    assert (arm, seed) == ("critmom", 43) and isinstance(plan, Plan)
    assert find_run(comparison / "runs" / "critmom" / "seed-43" / "checkpoint-7")[1:] == ("critmom", 43)
    assert find_run(comparison) is None and find_run("google/vit-base-patch16-224") is None


def test_labels_are_as_short_as_can_be(comparison):
    for folder in ("a/one", "b/one", "b/two"):
        Path(folder).mkdir(parents=True)
    asked, _ = parse_attribution(["a/one", "b/one", "b/two"])
    assert [spec.label for spec in asked.checkpoints] == ["a/one", "b/one", "two"]
    run = comparison / "runs" / "critmom" / "seed-43"
    asked, _ = parse_attribution([str(run), str(run / "checkpoint-7"), "org/name"])
    assert [spec.label for spec in asked.checkpoints] == [
        "critmom, seed 43",
        "critmom, seed 43, checkpoint-7",
        "name",
    ]


def test_images_are_normalised_as_the_checkpoint_was_trained(comparison, task):
    run = str(comparison / "runs" / "critmom" / "seed-42")
    _, same = load_checkpoint(run, task)
    assert same.validation.mean == task.validation.mean and same.validation.std == task.validation.std
    model = CifarResNetForImageClassification.from_pretrained(run)
    model.save_pretrained("other")
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.25]).save_pretrained("other")
    _, shifted = load_checkpoint("other", task)
    pixels = shifted.validation.__getitems__([0])["pixel_values"].numpy()
    assert np.allclose(pixels[0], (task.validation.images[0] / 255.0 - 0.5) / 0.25, atol=1e-6)
    model.save_pretrained("bare")
    assert load_checkpoint("bare", task)[1] is task


# ----------------------------------------------------------------------------------------------------------- bad input


def saved(folder, task, **fields):
    """A checkpoint that fits the task but for some fields of its configuration."""
    labels = dict(enumerate(fields.pop("label_names", task.label_names)))
    config = CifarResNetConfig(**{"width": 2, "num_channels": 1, "image_size": 8, "id2label": labels, **fields})
    CifarResNetForImageClassification(config).save_pretrained(folder)
    return folder


def test_a_checkpoint_of_another_task_is_refused(refused, task):
    animals = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    sentence = refused(saved("animals", task, label_names=animals), *DATA)
    assert "checkpoint of another task" in sentence and "airplane, automobile, bird and others" in sentence
    sentence = refused(saved("few", task, label_names=("0", "1", "2")), *DATA)
    assert "it has 3 classes" in sentence and "10 classes (0, 1, 2 and others)" in sentence
    assert "takes images of 32x32 pixels" in refused(saved("large", task, image_size=32), *DATA)
    assert "(1, 8, 8)" in refused(saved("coloured", task, num_channels=3), *DATA)
    saved("normalised", task)
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.2] * 3).save_pretrained(
        "normalised"
    )
    assert "normalises 3 channels" in refused("normalised", *DATA)


def test_the_same_classes_in_another_order_are_called_that(refused, task):
    sentence = refused(saved("turned", task, label_names=[*task.label_names[:3], *task.label_names[:2:-1]]), *DATA)
    assert "another task" not in sentence and "in another order" in sentence
    assert "its class 3 is 9, and that of the data is 3" in sentence


def test_names_of_classes_that_nobody_gave_fit_any(task):
    unnamed = saved("unnamed", task, label_names=[f"LABEL_{index}" for index in range(10)])
    model, _ = load_checkpoint(unnamed, task)
    assert model.config.num_labels == 10


def test_a_model_without_trained_head_is_refused(refused, task):
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        num_channels=1, id2label=dict(enumerate(task.label_names)),
    )  # fmt: skip
    ViTModel(config).save_pretrained("headless")
    assert "no weights for classifier.bias, classifier.weight" in refused("headless", *DATA)
    ViTForImageClassification(config).save_pretrained("whole")
    attributed("whole", "--output_dir", "out")
    assert list(the_study("out").attribution.groups) == ["embeddings", "block0", "norm", "head"]


def test_a_run_on_other_splits_is_refused_with_its_command(comparison, refused):
    sentence = refused(comparison / "runs" / "critmom" / "seed-42", "--split_seed", "9", *DATA)
    assert "was trained on other images" in sentence and "hf-critmom compare --arms constant critmom" in sentence


def test_models_of_different_groups_are_not_compared(comparison, refused, task):
    run = comparison / "runs" / "critmom" / "seed-42"
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        num_channels=1, id2label=dict(enumerate(task.label_names)),
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained("vit")
    assert "different layer groups" in refused(run, "vit", *DATA)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--select", "wrong"), "misclassified, correct, all, top_loss"),
        (("--split", "holdout"), "train, validation, test"),
        (("--groups", "layre3"), ", ".join(SEVEN)),
        (("--groups", "layer[3"), "not a regular expression"),
        (("--corruption", "fog"), "gaussian_noise, gaussian_blur"),
        (("--corruption", "contrast:9"), "from 1 to 5"),
        (("--num_top_groups", "0"), "--num_top_groups must be at least 1"),
        (("--num_top_groups", "9"), f"has 7 layer groups ({', '.join(SEVEN)}): choose fewer"),
        (("--gradient_batch_size", "0"), "--gradient_batch_size must be at least 1"),
        (("--per_device_eval_batch_size", "0"), "--per_device_eval_batch_size must be at least 1"),
        (("--seed", "-1"), "--seed must be between 0 and"),
        (("--seed", "one"), "--seed"),
        (("--colour", "red"), "unknown arguments --colour red"),
        (("--task", "/nothing/here"), "/nothing/here"),
    ],
)
def test_what_cannot_be_used_is_named(comparison, refused, words, expected):
    assert expected in refused(comparison / "runs" / "critmom" / "seed-42", *DATA, *words)


def test_a_checkpoint_must_exist_and_be_named_once(comparison, refused, tmp_path):
    run = comparison / "runs" / "critmom" / "seed-42"
    assert str(tmp_path / "nothing") in refused(tmp_path / "nothing")
    Path("empty").mkdir()
    assert "'empty'" in refused("empty")
    assert "named twice" in refused(run, run)
    assert "CHECKPOINT" in refused("--task", "digits")


def test_no_misclassified_example_is_said(refused, task, tmp_path):
    """A network that is told the label by its own bias: all examples are of one class."""
    saved("sure", task)
    model = CifarResNetForImageClassification.from_pretrained("sure")
    (label,) = load_task(DataArguments(max_eval_samples=1)).validation.labels
    with torch.no_grad():
        model.resnet.fc.bias[int(label)] = 1e6
    model.save_pretrained("sure")
    sentence = refused_after_folder(refused, "sure", "--max_eval_samples", "1")
    assert "sure: None of the 1 examples is misclassified" in sentence


def refused_after_folder(refused, *words):
    """The output folder is made before the first study, so it is there already: empty."""
    Path("attribution-digits").mkdir()
    return refused(*words)


def test_gradients_that_are_not_finite_are_said(refused, task):
    saved("broken", task)
    model = CifarResNetForImageClassification.from_pretrained("broken")
    with torch.no_grad():
        model.resnet.layer4[0].conv1.weight[0, 0, 0, 0] = float("nan")
    model.save_pretrained("broken")
    assert "broken: The gradient of conv1" in refused_after_folder(refused, "broken", *DATA)


def test_folders_with_other_things_are_left_alone(comparison, refused):
    run = comparison / "runs" / "critmom" / "seed-42"
    Path("thesis").mkdir()
    (Path("thesis") / "thesis.tex").write_text("years of work")
    assert "thesis holds files, but no attribution" in refused(run, "--output_dir", "thesis", *DATA)
    assert "thesis.tex is a file" in refused(run, "--output_dir", "thesis/thesis.tex", *DATA)
    assert "cannot be written" in refused(run, "--output_dir", "thesis/thesis.tex/below", *DATA)
    Path("corrupt").mkdir()
    (Path("corrupt") / "attribution.json").write_text("{")
    assert "corrupt/attribution.json is corrupt" in refused(run, "--output_dir", "corrupt", *DATA)


def test_a_task_with_an_unknown_split_is_refused(task):
    with pytest.raises(TaskError, match="There is no split 'dev': choose one of train, validation, test"):
        task.split("dev")
