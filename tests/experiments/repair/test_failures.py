"""Claims about a repair that cannot be made as a whole: what can be made is, and the rest is said in a sentence."""

from pathlib import Path
from typing import Any

import pytest
from helpers.small_repairs import small_repair
from transformers import TrainerCallback

from hf_critmom.experiments.repair.errors import RepairError
from hf_critmom.experiments.repair.plan import RepairSettings


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
