"""Claims about values that nobody means: each is answered with one sentence, before anything is computed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.image_data import labels_in_turn, random_images, write_folder
from PIL import Image

from hf_critmom.commands import main
from hf_critmom.tasks import DataArguments, ModelArguments, Task, TaskError, build_model, load_task
from hf_critmom.tasks.paths import is_file, is_folder
from hf_critmom.tasks.tables import read_table


def error_of(model: ModelArguments | None = None, **flags: Any) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(DataArguments(**flags), model)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


@pytest.mark.parametrize("flag", ["task", "dataset_name", "train_dir", "train_file", "image_column_name", "metric"])
def test_an_empty_value_is_no_path_to_the_current_folder(flag: str) -> None:
    assert f"--{flag} is empty" in error_of(**{flag: ""})


def test_an_empty_model_is_refused() -> None:
    assert "--model_name_or_path is empty" in error_of(ModelArguments(model_name_or_path=""))


@pytest.mark.parametrize("task", ["digits", "text"])
def test_a_seed_below_zero_is_refused(task: str) -> None:
    assert "--split_seed must be between 0 and 4294967295, got -1" in error_of(task=task, split_seed=-1)


@pytest.mark.parametrize("size", [10**6, 10**12])
def test_images_that_do_not_fit_into_memory_are_refused(tmp_path: Path, size: int) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    assert f"30 images of {size}x{size} pixels do not fit in memory" in error_of(task=str(folder), image_size=size)


@pytest.mark.parametrize("flag", ["width", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"])
@pytest.mark.parametrize("value", [10**9, 10**30])
def test_models_of_absurd_sizes_are_refused_at_once(digits: Task, flag: str, value: int) -> None:
    model = ModelArguments(model="resnet18" if flag == "width" else "vit", **{flag: value})  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=f"--{flag} must be at most"):
        build_model(digits, model, seed=0)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "/" + "y" * 300])
def test_names_that_no_file_can_have_are_no_files(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_file(name) and not is_folder(name)
    assert "There is no file" in error_of(train_file=name)
    assert "There is no folder" in error_of(train_dir=name)
    assert main(("compare", "--train_dir", name)) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("hf-critmom compare: error: ")


def test_special_files_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "There is no file" in error_of(train_file=str(tmp_path / "pipe"))
    folder = write_folder(tmp_path / "images", random_images(30), labels_in_turn(30))
    os.mkfifo(folder / "cat" / "pipe.png")
    assert sum(map(len, load_task(DataArguments(task=str(folder))).splits.values())) == 30


@pytest.mark.parametrize("name", [b"\xff.png", b"two\nlines.png"])
def test_a_file_whose_name_is_no_text_is_named(tmp_path: Path, name: bytes) -> None:
    folder = write_folder(tmp_path, random_images(30), labels_in_turn(30))
    (folder / "cat" / "0000.png").rename(folder / "cat" / os.fsdecode(name))
    assert "rename it" in error_of(task=str(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("null", "no rows"),
        ("3", "no rows"),
        ("[]", "no rows"),
        ("", "no rows"),
        ('["a", "b"]', "row 1 is not an object"),
        ('{"text": "a"}\nnull\n', "row 2 is not an object"),
        ('{"text": "a"}\n{"te', "line 2 is not JSON"),
        ('{"text": "a"}\n{"text": 1}\n', "cannot be read"),
        ("[" * 100_000, "recursion"),
        ('{"n": 1' + "0" * 400 + "}", "cannot be read"),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    assert words in error_of(train_file=str(tmp_path / "a.jsonl"))


def test_tables_in_json_may_be_lines_lists_or_columns(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1}, {"text": "b\u2028\x85b"}, {"text": "größer", "m": [1]}]
    for name, content in (
        ("lines", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)),
        ("list", json.dumps(rows, indent=2, ensure_ascii=False)),
        ("columns", json.dumps({"text": [row["text"] for row in rows]})),
        ("mark", "\N{ZERO WIDTH NO-BREAK SPACE}" + "\n".join(map(json.dumps, rows))),
    ):
        (tmp_path / f"{name}.json").write_text(content, encoding="utf-8")
        assert read_table(tmp_path / f"{name}.json")["text"][:] == [row["text"] for row in rows]


def test_a_cell_without_image_is_named_by_its_place(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = tmp_path / "x.png"
    Image.new("RGB", (6, 6)).save(picture)
    cells = [{"bytes": picture.read_bytes(), "path": None}, {"bytes": None, "path": None}]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": cells, "label": ["a", "b"]}), tmp_path / "data" / "train.parquet")
    assert "Image 1 of split train is missing" in error_of(task=str(tmp_path / "data"), image_column_name="image")
