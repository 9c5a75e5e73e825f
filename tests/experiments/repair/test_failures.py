"""Claims about a repair that cannot be made as a whole: what can be made is, and the rest is said in a sentence."""

from pathlib import Path
from typing import Any

import pytest
from helpers.small_repairs import small_classifier, small_examples, small_repair
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainingArguments

from hf_critmom import repair_layers
from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairSettings
from hf_critmom.experiments.repair.selection import CONTROLS


class Fails(TrainerCallback):
    """Fails at the start of the treatments in some folders, and notes every attempt beside them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.folder in args.output_dir:
            with (Path(args.output_dir).parents[2] / "attempts.txt").open("a") as attempts:
                attempts.write("attempt\n")
            raise RuntimeError("out of memory")


def finished(folder: Path) -> list[str]:
    return sorted(str(file.parent.relative_to(folder / "runs")) for file in folder.glob("runs/*/*/result.json"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_treatment_that_fails_leaves_the_others_to_be_finished(tmp_path: Path, workers: int) -> None:
    settings = RepairSettings(groups=["d"], num_seeds=3)
    with pytest.raises(RepairError) as failed:
        small_repair(tmp_path, settings=settings, seed=0, callbacks=(Fails("/d/seed-0"),), workers=workers)
    sentence = str(failed.value)
    assert sentence.startswith("The run d, seed 0 failed (out of memory)") and "damaged" not in sentence
    assert finished(tmp_path) == ["d/seed-1", "d/seed-2"]
    assert (tmp_path / "attempts.txt").read_text().splitlines() == ["attempt"], "no other worker repeats it"
    assert "out of memory" in (tmp_path / "runs" / "d" / "seed-0" / "error.txt").read_text()
    repair = small_repair(tmp_path, settings=settings, seed=0, workers=workers)  # as the sentence says
    assert [one.seed for one in repair.roles["chosen"]] == [0, 1, 2]
    assert not (tmp_path / "error.txt").exists(), "the failure is no part of the model"


def test_every_failure_is_said_once(tmp_path: Path) -> None:
    settings = RepairSettings(groups=["d"], num_seeds=3)
    with pytest.raises(RepairError) as failed:
        small_repair(tmp_path, settings=settings, seed=0, callbacks=(Fails("/d/"),))
    assert [f"seed {seed} failed" in str(failed.value) for seed in range(3)] == [True, True, True]
    assert str(failed.value).count("out of memory") == 3 and not finished(tmp_path)


def test_seeds_that_do_not_exist_are_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RepairError, match="2 seeds from 4294967295 on would include 4294967296"):
        small_repair(tmp_path / "out", settings=RepairSettings(groups=["d"], num_seeds=2), seed=2**32 - 1)
    with pytest.raises(RepairError, match="a seed must be between 0 and 4294967295"):
        small_repair(tmp_path / "out", seed=-1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"eval_strategy": "epoch"}, "--eval_strategy epoch: a treatment is verified once"),
        ({"data_seed": 3}, "--data_seed is set by each treatment's seed"),
        ({"num_train_epochs": 0}, "--num_train_epochs must be positive, got 0"),
        ({"push_to_hub": True}, "--push_to_hub would push every treatment"),
        ({"save_strategy": "best"}, "The Trainer refuses these arguments"),
        ({"report_to": ["no such tracker"]}, "The Trainer refuses these arguments"),
    ],
)
def test_arguments_that_no_treatment_can_have_are_said_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RepairError, match=expected):
        small_repair(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


class Stream(IterableDataset):
    """Training data of no known length."""

    def __iter__(self) -> Any:
        return iter(small_examples(256, seed=1))


def test_training_data_without_a_length_needs_a_number_of_steps(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to=[], remove_unused_columns=False)
    splits = {"diagnosis_dataset": small_examples(60, seed=2), "test_dataset": small_examples(60, seed=3)}
    with pytest.raises(RepairError, match="does not implement __len__"):
        repair_layers(small_classifier(), args=args, train_dataset=Stream(), **splits)
    assert not (tmp_path / "out").exists()


def test_groups_that_are_frozen_already_are_said_at_once(tmp_path: Path) -> None:
    model = small_classifier()
    model.a.requires_grad_(False)
    for named in (["a"], ["a", "b"]):
        settings = RepairSettings(groups=named, controls=True)
        with pytest.raises(RepairError, match=r"All parameters of a are frozen .*: choose among b, c, d\."):
            small_repair(tmp_path / "out", model, settings=settings)
    with pytest.raises(RepairError, match="num_groups is 4, but this model has 3 layer groups with trainable"):
        small_repair(tmp_path / "out", model, settings=RepairSettings(num_groups=4))
    model.requires_grad_(False)
    with pytest.raises(RepairError, match="All parameters of SmallClassifier are frozen"):
        small_repair(tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_random_groups_are_as_many_others_and_none_if_there_is_no_other_choice() -> None:
    draw = CONTROLS["random"].groups
    drawn = {draw(("a", "b", "c"), ("b",), None, seed) for seed in range(50)}  # type: ignore[arg-type]
    assert drawn == {("a",), ("c",)}
    for role in ("random", "relative_norm"):
        for chosen in ((), ("a", "b", "c")):
            assert CONTROLS[role].groups(("a", "b", "c"), chosen, None, 0) is None  # type: ignore[arg-type]
