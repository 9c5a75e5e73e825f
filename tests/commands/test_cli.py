"""Claims about the command line: invalid input is answered with one sentence, and nothing on disk is lost."""

import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from helpers.command_line import TINY, Refused, status_of, the_sentence
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from hf_critmom.attribution.predictions import SELECTIONS
from hf_critmom.commands import COMMANDS, main
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.experiments.comparison.arms.arm import ARM_SETS, ARMS
from hf_critmom.experiments.comparison.running import execution
from hf_critmom.experiments.repair.plan import GRANULARITIES
from hf_critmom.experiments.repair.selection import SELECTIONS as RULES
from hf_critmom.tasks import MODELS, CifarResNetConfig, ImageTask, TextTask
from hf_critmom.tasks.models import ModelSpec

pytestmark = pytest.mark.usefixtures("own_folder")

# ------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize("words", [("--help",), ("-h",), *((command, "--help") for command in COMMANDS)])
def test_help_is_not_empty_and_exits_with_0(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(words) == 0
    shown = capsys.readouterr()
    assert "hf-critmom" in shown.out + shown.err and "Traceback" not in shown.err


def test_the_programs_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(("--help",)) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  hf-critmom {command}\b", shown, flags=re.MULTILINE) for command in COMMANDS)


def test_a_flag_that_turns_another_off_has_a_help_text_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(("attribute", "--help")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--no_initial, --no-initial Turns off --initial." in shown
    assert shown.count("Compare with the untrained network") == 1


def shown_help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert status_of((*words, "--help")) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [("attribute",), ("compare", "--script", "train.py")], ids=" ".join)
def test_help_of_all_training_arguments_is_offered_only_where_there_is_more_to_show(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--help_all" not in shown_help(capsys, *words)
    assert "--help_all" in shown_help(capsys, "repair")


def test_help_shows_the_values_of_a_choice_and_that_a_boolean_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    attribute, repair = shown_help(capsys, "attribute"), shown_help(capsys, "repair")
    for one in ("--split validation|test|train ", f"--select {'|'.join(SELECTIONS)} ", "--engine local|ray "):
        assert one in attribute
    for one in (f"--select_by {'|'.join(RULES)} ", f"--granularity {'|'.join(GRANULARITIES)} ", "--seed N "):
        assert one in repair
    assert "--check_labels [true|false] " in attribute and "--random_flip true|false " in attribute


def test_help_states_a_default_once_and_shows_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    compare = shown_help(capsys, "compare")
    assert "default: 16 for digits, else 64. --hidden_size" in compare and "--seed N First seed" in compare
    assert "sets them. --learning_rate_grid" in compare


def test_the_help_of_compare_names_our_flags_and_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(("compare", "--help")) == 0
    shown = capsys.readouterr().out
    for flag in ("--task", "--arms", "--num_seeds", "--targets", "--output_dir", "--train_dir", "--learning_rate"):
        assert flag in shown


def test_without_arguments_the_usage_is_shown_and_the_status_is_not_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(()) != 0
    assert "usage: hf-critmom COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_answered_with_the_known_ones(refused: Refused) -> None:
    sentence = refused("comprae")
    assert "'comprae'" in sentence and all(command in sentence for command in COMMANDS)


@pytest.mark.parametrize("words", [("--num_sedes", "3"), ("--width", "2", "stray"), ("--wid", "2")])
def test_unknown_arguments_are_named(refused: Refused, words: tuple[str, ...]) -> None:
    sentence = refused("compare", *words)
    assert next(word for word in words if word in ("--num_sedes", "stray", "--wid")) in sentence


@pytest.mark.parametrize(
    "words",
    [
        ("--num_seeds", "three"),
        ("--learning_rate", "fast"),
        ("--learning_rate",),
        ("--max_train_samples", "1.5"),
        ("--train_val_split", "half"),
        ("--lr_scheduler_type", "cosinus"),
        ("--eval_strategy", "never"),
        ("--targets", "90%"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(refused: Refused, words: tuple[str, ...]) -> None:
    sentence = refused("compare", *words)
    assert words[-1] in sentence


# ------------------------------------------------------------------------------------------------------------- values


def test_an_unknown_arm_is_answered_with_the_known_ones(refused: Refused) -> None:
    sentence = refused("compare", "--arms", "constant", "critmon", *TINY)
    assert "'critmon'" in sentence and all(name in sentence for name in (*ARMS, *ARM_SETS))


def test_an_arm_may_be_named_once(refused: Refused) -> None:
    assert "constant critmom constant" in refused("compare", "--arms", "constant", "critmom", "constant", *TINY)


@pytest.mark.parametrize("rate", ["0", "-0.1", "nan", "inf"])
def test_a_learning_rate_must_be_positive_and_finite(refused: Refused, rate: str) -> None:
    sentence = refused("compare", "--learning_rate", rate, *TINY)
    assert "--learning_rate must be positive and at most 1,000,000" in sentence and str(float(rate)) in sentence


@pytest.mark.parametrize("target", ["0", "1.5", "-1", "nan", "90"])
def test_targets_are_accuracies_above_0_and_up_to_1(refused: Refused, target: str) -> None:
    sentence = refused("compare", "--targets", "0.5", target, *TINY)
    assert "--targets" in sentence and target in sentence


@pytest.mark.parametrize("count", ["0", "-1"])
def test_there_must_be_a_seed(refused: Refused, count: str) -> None:
    assert f"--num_seeds must be at least 1, got {count}" in refused("compare", "--num_seeds", count, *TINY)


@pytest.mark.parametrize("flag", [("--optim", "critmom"), ("--optim", "sgd"), ("--optim_args", "momentum=0.9")])
def test_the_optimizer_is_decided_by_the_arm(refused: Refused, flag: tuple[str, str]) -> None:
    assert "--arms" in refused("compare", *flag, *TINY)


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "comparison-digits"),
        (["--task", "data/cifar10"], "comparison-cifar10"),
        (["--task", "data/cifar10/"], "comparison-cifar10"),
        (["--dataset_name", "uoft-cs/cifar10"], "comparison-cifar10"),
        (["--train_dir", "photos/pets"], "comparison-pets"),
        (["--output_dir", "mine"], "mine"),
    ],
)
def test_the_default_output_folder_is_named_after_the_data(words: list[str], folder: str) -> None:
    assert parse_comparison(words).training.output_dir == folder


def test_the_tasks_defaults_hold_where_no_flag_is_given() -> None:
    alone, told = parse_comparison([]), parse_comparison(["--num_train_epochs", "3", "--width", "4"])
    assert (alone.training.num_train_epochs, alone.model.width) == (15.0, 16)
    assert (told.training.num_train_epochs, told.model.width) == (3.0, 4)
    elsewhere = parse_comparison(["--task", "some/folder"])
    assert (elsewhere.training.num_train_epochs, elsewhere.model.width) == (30.0, 64)


def test_the_order_of_the_data_is_decided_by_the_seed(refused: Refused) -> None:
    assert "--seed" in refused("compare", "--data_seed", "7", *TINY)


def test_a_comparison_needs_evaluations(refused: Refused) -> None:
    assert "--eval_strategy" in refused("compare", "--eval_strategy", "no", *TINY)


def test_a_negative_weight_decay_is_refused(refused: Refused) -> None:
    assert "--weight_decay" in refused("compare", "--weight_decay", "-0.1", *TINY)


@pytest.mark.parametrize("length", [("--num_train_epochs", "0"), ("--num_train_epochs", "-1")])
def test_a_comparison_trains(refused: Refused, length: tuple[str, str]) -> None:
    assert "--num_train_epochs" in refused("compare", *TINY, *length)


@pytest.mark.parametrize("flag", ["--per_device_train_batch_size", "--per_device_eval_batch_size"])
def test_a_batch_holds_at_least_one_image(refused: Refused, flag: str) -> None:
    assert flag in refused("compare", flag, "0", *TINY)


@pytest.mark.parametrize("batch", [("32", "33"), ("1", "8")])
def test_a_batch_that_batch_norm_cannot_train_on_is_refused_before_training(
    refused: Refused, batch: tuple[str, str]
) -> None:
    flags = ("--per_device_train_batch_size", batch[0], "--max_train_samples", batch[1])
    sentence = refused("compare", *TINY, *flags)
    assert "a batch of one image" in sentence and "--per_device_train_batch_size" in sentence


def test_a_run_takes_a_step_and_is_evaluated(refused: Refused) -> None:
    assert "--dataloader_drop_last" in refused("compare", *TINY, "--dataloader_drop_last", "true")
    sentence = refused("compare", *TINY, "--eval_strategy", "steps", "--eval_steps", "10")
    assert "about 1 steps" in sentence and "--eval_steps 10" in sentence
    assert "--max_steps" not in sentence


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_a_run_outlasts_the_delay_of_its_evaluations(refused: Refused, strategy: str) -> None:
    delayed = ("--eval_strategy", strategy, "--eval_steps", "1", "--eval_delay", "2")
    sentence = refused("compare", *TINY, *delayed)
    assert "--eval_delay 2" in sentence and f"about 1 {strategy.rstrip('s')}s" in sentence
    budgets = ("--num_train_epochs", "1", "3")  # the longer one alone would be evaluated
    assert "--eval_delay 2" in refused("compare", *TINY, *budgets, *delayed)


@pytest.mark.parametrize("epochs", [("1", "1"), ("0", "2"), ("2", "-1")])
def test_each_budget_is_positive_and_given_once(refused: Refused, epochs: tuple[str, str]) -> None:
    assert "--num_train_epochs" in refused("compare", *TINY, "--num_train_epochs", *epochs)


def test_max_steps_and_several_budgets_contradict_each_other(refused: Refused) -> None:
    assert "--max_steps" in refused("compare", *TINY, "--num_train_epochs", "1", "2", "--max_steps", "3")


@pytest.mark.parametrize(
    ("kind", "arms", "said"),
    [
        ("cosine_with_min_lr", ("constant",), "min_lr"),
        ("warmup_stable_decay", ("critmom",), "num_decay_steps"),
        ("reduce_lr_on_plateau", ("constant", "demon"), "--lr_scheduler_type reduce_lr_on_plateau"),
        ("greedy", ("demon",), "--lr_scheduler_type greedy"),
    ],
)
def test_a_schedule_that_an_arm_cannot_follow_is_refused_before_anything_is_written(
    refused: Refused, kind: str, arms: tuple[str, ...], said: str
) -> None:
    assert said in refused("compare", *TINY, "--lr_scheduler_type", kind, "--arms", *arms)


def test_a_file_of_arms_that_cannot_be_used_is_named(refused: Refused, tmp_path: Path) -> None:
    assert "nothing.toml" in refused("compare", *TINY, "--arms_file", "nothing.toml")
    (tmp_path / "arms.toml").write_text('[odd]\noptimizer = "lion"\n')
    sentence = refused("compare", *TINY, "--arms_file", "arms.toml", "--arms", "constant")
    assert "'odd'" in sentence and "arms.toml" in sentence


def test_persistent_workers_need_workers(refused: Refused) -> None:
    assert "--dataloader_num_workers" in refused("compare", *TINY, "--dataloader_persistent_workers", "true")


def test_what_the_trainer_refuses_is_refused_before_anything_is_written(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "metric_for_best_model" in refused("compare", *TINY, "--save_strategy", "best")

    def trainer_without_its_tracker(*words: Any, **named: Any) -> None:
        raise RuntimeError("TrackerCallback requires tracker to be installed.\nRun pip.")

    monkeypatch.setattr(execution, "ArmTrainer", trainer_without_its_tracker)
    assert "(TrackerCallback requires tracker to be installed)" in refused("compare", *TINY, "--report_to", "all")


# --------------------------------------------------------------------------------------------------------------- data


def labelled_pictures(count: int = 30) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]


def cifar_like(folder: Path) -> Path:
    """A folder of Parquet laid out like the one of scripts/fetch_cifar10.py; returns the training file."""
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {"img": labelled_pictures(), "label": [0, 1] * 15}
    file = folder / "data" / "train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    return file


@pytest.mark.parametrize("flag", ["--task", "--dataset_name", "--train_dir"])
def test_a_missing_folder_is_named(refused: Refused, tmp_path: Path, flag: str) -> None:
    assert str(tmp_path / "nothing") in refused("compare", flag, str(tmp_path / "nothing"))


@pytest.mark.parametrize("content", [{}, {"notes.txt": b"no pictures"}, {"program.xyz": b"\x00"}])
def test_a_folder_that_is_no_dataset_is_named(refused: Refused, tmp_path: Path, content: dict[str, bytes]) -> None:
    (tmp_path / "stuff").mkdir()
    for name, written in content.items():
        (tmp_path / "stuff" / name).write_bytes(written)
    sentence = refused("compare", "--task", str(tmp_path / "stuff"))
    assert "stuff" in sentence or "text" in sentence


def test_a_dataset_without_labels_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for index, image in enumerate(labelled_pictures(4)):
        image.save(tmp_path / "pictures" / f"{index}.png")
    assert "--label_column_name" in refused("compare", "--task", "pictures")
    assert "--label_column_name" in refused("compare", "--train_dir", "pictures")


@pytest.mark.parametrize("left", [0.5, 0.0])
def test_a_truncated_parquet_file_is_refused(refused: Refused, tmp_path: Path, left: float) -> None:
    file = cifar_like(tmp_path / "cifar10")
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    sentence = refused("compare", "--task", "cifar10-like", "--dataset_name", "cifar10")
    assert "'cifar10'" in sentence and "Parquet" in sentence


def test_a_corrupt_image_is_named(refused: Refused, tmp_path: Path) -> None:
    for index, image in enumerate(labelled_pictures()):
        (tmp_path / "pets" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "pets" / str(index % 2) / f"{index}.png")
    (tmp_path / "pets" / "1" / "7.png").write_bytes(b"")
    assert "cannot be decoded" in refused("compare", "--train_dir", "pets")


# -------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("width", ["0", "1", "3", "-4"])
def test_an_odd_width_is_refused(refused: Refused, width: str) -> None:
    assert f"even number of channels, got {width}" in refused("compare", *TINY, "--width", width)


def test_an_unknown_model_is_answered_with_the_known_ones(refused: Refused) -> None:
    for task, kind in (((), ImageTask), (("--task", "text"), TextTask)):
        sentence = refused("compare", *task, *TINY, "--model", "vgg")
        assert "'vgg'" in sentence
        assert all((name in sentence) == (spec.task is kind) for name, spec in MODELS.items())


def test_a_model_that_does_not_exist_is_named(refused: Refused, tmp_path: Path) -> None:
    missing = str(tmp_path / "no-model")
    assert missing in refused("compare", *TINY, "--model_name_or_path", missing)


def test_a_model_that_returns_no_loss_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lossless(PreTrainedModel):
        config_class = CifarResNetConfig

        def __init__(self) -> None:
            super().__init__(CifarResNetConfig(num_labels=10))
            self.classifier = nn.Linear(64, 10)

        def forward(self, pixel_values: torch.Tensor, labels: Any = None) -> ImageClassifierOutput:
            return ImageClassifierOutput(logits=self.classifier(pixel_values.flatten(1)))

    monkeypatch.setitem(MODELS, "lossless", ModelSpec("lossless", ImageTask, lambda *_: Lossless(), {"width": 1}))
    assert "Lossless returned no loss" in refused("compare", *TINY, "--model", "lossless")


def test_a_saved_model_for_other_images_is_refused(refused: Refused, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = ViTConfig(**sizes, image_size=16, patch_size=8, num_channels=1, num_labels=10)
    ViTForImageClassification(config).save_pretrained(tmp_path / "saved")
    assert "(1, 8, 8)" in refused("compare", *TINY, "--model_name_or_path", str(tmp_path / "saved"))


# ------------------------------------------------------------------------------------------------ run, and the process


@pytest.mark.parametrize("words", [("missing.py",), ("missing.py", "--flag")])
def test_a_missing_script_is_named(refused: Refused, words: tuple[str, ...]) -> None:
    assert "missing.py" in refused("run", *words)


@pytest.mark.slow
def test_the_process_answers_as_the_function_does(run_python: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    done = run_python("-m", "hf_critmom", "compare", "--output_dir", "out", *TINY)
    assert done.returncode == 2 and done.stdout == ""
    assert the_sentence(done.stderr).startswith(
        "python -m hf_critmom compare: error: out holds files, but no comparison"
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_the_process_answers_a_truncated_dataset_with_one_sentence(run_python: Any, tmp_path: Path) -> None:
    file = cifar_like(tmp_path / "cifar10")
    file.write_bytes(file.read_bytes()[:-100])
    done = run_python("-m", "hf_critmom", "compare", "--task", "./cifar10")
    assert done.returncode == 2 and done.stdout == ""
    assert "./cifar10" in the_sentence(done.stderr)


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*words: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("hf_critmom.commands.compare.run_comparison", broken)
    with pytest.raises(ZeroDivisionError):
        main(("compare", *TINY))
