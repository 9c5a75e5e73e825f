"""Claims about what the commands write: no secrets and no private paths, and every experiment can be continued."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_critmom.commands import main
from hf_critmom.storage.recorded_commands import shorten_paths
from hf_critmom.storage.redaction import REDACTED, find_secrets

TOKEN = "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi"
PLAIN = "Zz-not-like-a-token"
TINY = (
    *("--width", "2", "--num_train_epochs", "1", "--targets", "0.5", "--use_cpu", "--num_seeds", "1"),
    *("--per_device_train_batch_size", "8", "--arms", "constant", "critmom"),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images outside of the working directory, with a subfolder per class."""
    folder = tmp_path_factory.mktemp("elsewhere") / "home" / "alice" / "shapes"
    generator = np.random.default_rng(0)
    for split, number in (("train", 24), ("validation", 8), ("test", 8)):
        for label, level in (("dark", 110), ("light", 120)):
            (folder / split / label).mkdir(parents=True)
            for index in range(number):
                pixels = np.clip(generator.normal(level, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def comparison(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison whose command contains a token and absolute paths."""
    folder = tmp_path_factory.mktemp("work") / "out"
    compare(folder, images)
    return folder


def compare(folder: Path, images: Path, *more: str) -> None:
    secrets = ("--hub_token", PLAIN, "--run_name", f"run-{TOKEN}", "--report_to", "tensorboard")
    assert main(("compare", "--task", str(images), "--output_dir", str(folder), *TINY, *secrets, *more)) == 0


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def texts(folder: Path) -> dict[Path, str]:
    """Text files by path; pages without their scripts, parts of which look like paths."""
    found = {
        path: path.read_text() for path in files(folder) if path.suffix in (".json", ".md", ".txt", ".html", ".svg")
    }
    return {path: re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL) for path, text in found.items()}


def test_no_token_is_in_any_file_of_a_comparison(comparison: Path) -> None:
    assert len(files(comparison)) > 20 and any("events.out.tfevents" in path.name for path in files(comparison))
    for path in files(comparison):
        content = path.read_bytes()
        assert PLAIN.encode() not in content and TOKEN.encode() not in content, path
    for path, text in texts(comparison).items():
        assert find_secrets(text) == [], path


def test_no_absolute_path_is_in_any_text_of_a_comparison(comparison: Path, images: Path) -> None:
    for path, text in texts(comparison).items():
        assert shorten_paths(text) == text, path
        assert str(comparison) not in text and str(images) not in text and str(Path.home()) + "/" not in text, path


def test_the_command_is_recorded_with_its_flags(comparison: Path) -> None:
    command = json.loads((comparison / "comparison.json").read_text())["command"]
    assert command.startswith("hf-critmom compare --task shapes --output_dir out --width 2 ")
    assert f"--hub_token {REDACTED} --run_name run-{REDACTED}" in command
    assert command in (comparison / "README.md").read_text()


def results(folder: Path) -> dict[Path, Any]:
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("result.json")
    }


def test_the_same_command_continues_from_another_folder(
    comparison: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = results(comparison)
    monkeypatch.chdir(tmp_path)
    compare(Path(os.path.relpath(comparison)), Path(os.path.relpath(images)))
    assert results(comparison) == before


def test_drift_finds_the_data_of_an_absolute_path_from_another_folder(
    comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(("drift", os.path.relpath(comparison), "--corruptions", "contrast")) == 0
    assert json.loads((comparison / "runs/critmom/seed-42/drift.json").read_text())["accuracy"]["contrast"]


def test_a_comparison_that_was_moved_with_its_data_still_finds_it(
    comparison: Path, images: Path, tmp_path: Path
) -> None:
    root = Path(os.path.commonpath([comparison, images]))
    for part in (comparison, images):
        shutil.copytree(part, tmp_path / part.relative_to(root))
    moved = tmp_path / comparison.relative_to(root)
    assert main(("drift", str(moved), "--corruptions", "gaussian_blur")) == 0


def test_repair_and_attribute_record_neither_token_nor_paths(comparison: Path, images: Path, tmp_path: Path) -> None:
    checkpoint = comparison / "runs" / "critmom" / "seed-42"
    attribution, repair = tmp_path / "attribution", tmp_path / "repair"
    data = ("--task", str(images))
    attribute = ("attribute", str(checkpoint), *data, "--output_dir", str(attribution), "--use_cpu")
    assert main(attribute) == 0
    words = ("repair", str(checkpoint), *data, "--output_dir", str(repair), "--num_train_epochs", "1", "--use_cpu")
    secrets = ("--hub_token", PLAIN, f"--run_name={TOKEN}")
    assert main((*words, "--groups", "fc", "--num_seeds", "1", *secrets)) == 0
    for path in [*files(attribution), *files(repair)]:
        content = path.read_bytes()
        assert PLAIN.encode() not in content and TOKEN.encode() not in content, path
    for path, text in {**texts(attribution), **texts(repair)}.items():
        assert (shorten_paths(text), find_secrets(text)) == (text, []), path


def test_an_unknown_flag_with_a_token_is_refused_without_quoting_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("compare", "--my_token", PLAIN, "--other", TOKEN)) == 2
    shown = capsys.readouterr().err
    assert "--my_token" in shown and PLAIN not in shown and TOKEN not in shown
