"""Claims about the folders of comparisons: none is overwritten, and damaged files are named."""

import os
from pathlib import Path

import pytest
from helpers.command_line import TINY, Refused, files_below

from hf_critmom.commands import main

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def finished_comparison(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a finished comparison made in a folder called ``out``."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    assert main(("compare", "--arms", "constant", "--num_seeds", "1", "--output_dir", str(folder), *TINY)) == 0
    return files_below(folder)


def placed(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        (("--learning_rate", "0.05"), ("training.learning_rate: 0.1 and 0.05",)),
        (("--width", "4"), ("model.width: 2 and 4", "model.num_parameters")),
        (("--max_train_samples", "40"), ("task.splits.train.examples: 32 and 40",)),
        (("--crop_padding", "2"), ("task.augmentation.crop_padding: 1 and 2",)),
        (("--split_seed", "5"), ("task.splits.test.sha256",)),
        (
            ("--per_device_train_batch_size", "16", "--dataloader_drop_last", "true"),
            ("training.dataloader_drop_last", "training.total_train_batch_size: 64 and 16"),
        ),
        (("--warmup_steps", "3"), ("training.warmup_steps",)),
    ],
)
def test_a_different_plan_is_refused_with_what_differs(
    refused: Refused,
    tmp_path: Path,
    finished_comparison: dict[str, bytes],
    words: tuple[str, ...],
    differing: tuple[str, ...],
) -> None:
    placed(finished_comparison, tmp_path / "out")
    given = ("--arms", "constant", "--num_seeds", "1", "--output_dir", "out", *TINY)
    sentence = refused("compare", *given, *words)
    assert "different plan" in sentence
    assert all(difference in sentence for difference in differing), sentence
    changed_names = {difference.partition(":")[0] for difference in sentence.partition("(")[2].split("; ")}
    assert not changed_names & {"versions", "command"}


def test_a_folder_with_foreign_files_is_refused(refused: Refused, tmp_path: Path) -> None:
    placed({"thesis.tex": b"years of work", "runs/old/result.json": b"{}"}, tmp_path / "out")
    assert "out holds files, but no comparison" in refused("compare", "--output_dir", "out", *TINY)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'{"task": 1}', b"\xff\xfe"])
def test_a_corrupt_plan_is_refused(refused: Refused, tmp_path: Path, content: bytes) -> None:
    placed({"comparison.json": content}, tmp_path / "out")
    assert "comparison.json" in refused("compare", "--output_dir", "out", *TINY)
    assert "comparison.json" in refused("report", "out")


def test_a_corrupt_result_is_named(refused: Refused, tmp_path: Path, finished_comparison: dict[str, bytes]) -> None:
    out = placed(finished_comparison, tmp_path / "out")
    (out / "runs" / "constant" / "seed-42" / "result.json").write_text('{"arm": "cons')
    assert "result.json is corrupt" in refused("report", "out")
    given = ("--arms", "constant", "--num_seeds", "1", "--output_dir", "out", *TINY)
    assert "result.json is corrupt" in refused("compare", *given)


def test_an_output_folder_that_cannot_be_made_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in ("file/below", "/proc/nothing"):
        assert f"{folder} cannot be written" in refused("compare", "--output_dir", folder, *TINY)
    assert "file is a file" in refused("compare", "--output_dir", "file", *TINY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in refused("compare", "--output_dir", "locked/out", *TINY)


@pytest.mark.parametrize("words", [("nothing",), ("file",), ("empty",), (), ("empty", "more"), ("--colour",)])
def test_a_report_needs_the_folder_of_a_comparison(refused: Refused, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    sentence = refused("report", *words)
    if len(words) == 1 and not words[0].startswith("-"):
        assert f"{words[0]} holds no comparison" in sentence


def test_a_report_without_finished_runs_says_how_to_go_on(
    refused: Refused, tmp_path: Path, finished_comparison: dict[str, bytes]
) -> None:
    placed({"comparison.json": finished_comparison["comparison.json"]}, tmp_path / "out")
    sentence = refused("report", "out")
    assert "No run of the comparison in out has finished" in sentence and "hf-critmom compare --arms" in sentence


def test_a_plan_with_an_arm_of_another_version_is_refused(
    refused: Refused, tmp_path: Path, finished_comparison: dict[str, bytes]
) -> None:
    plan = placed(finished_comparison, tmp_path / "out") / "comparison.json"
    plan.write_text(plan.read_text().replace('"optimizer": "sgd"', '"optimizer": "sgd", "quantum": 1', 1))
    assert "arms.constant.quantum" in refused("report", "out")
