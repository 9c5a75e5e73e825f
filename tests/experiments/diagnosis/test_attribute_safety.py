"""Claims about what an attribution reads and keeps: damaged files, several launches, doubtful labels."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.launches import launch, status_of
from PIL import Image

from hf_critmom.attribution.doubtful_labels import DoubtfulLabel
from hf_critmom.commands import main
from hf_critmom.commands.attribute import parse_attribution
from hf_critmom.experiments.diagnosis import execution
from hf_critmom.experiments.diagnosis.errors import DiagnosisError
from hf_critmom.experiments.diagnosis.report import write_attribution_report
from hf_critmom.experiments.diagnosis.results import read_results, store_result
from hf_critmom.experiments.diagnosis.tables import study_findings
from hf_critmom.tasks import CifarResNetConfig, CifarResNetForImageClassification

DATA = ("--max_train_samples", "300", "--max_eval_samples", "70")
COMMITTED = Path(__file__).parents[3] / "model_cards" / "attribution-cifar10-constant-adamw"


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two untrained networks, which make plenty of mistakes."""
    folder = tmp_path_factory.mktemp("checkpoints")
    labels = {index: str(index) for index in range(10)}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = CifarResNetConfig(width=2, num_channels=1, image_size=8, id2label=labels)
        CifarResNetForImageClassification(config).save_pretrained(folder / name)
    return [folder / "one", folder / "two"]


@pytest.fixture(scope="module")
def attributed(checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attributed") / "out"
    assert main(("attribute", *map(str, checkpoints), *DATA, "--use_cpu", "--output_dir", str(folder))) == 0
    return folder


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> str:
        capfd.readouterr()
        assert main(("attribute", *map(str, words), "--use_cpu")) == 2
        sentence = capfd.readouterr().err.strip().splitlines()[-1]
        assert sentence.startswith("hf-critmom attribute: error: ") and sentence.endswith(".")
        return sentence

    return run


DAMAGE: dict[str, Any] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "a list": lambda content: b"[]",
    "an empty object": lambda content: b"{}",
    "NaN": lambda content: content.replace(b": 0.", b': NaN, "x": 0.', 1),
    "deep": lambda content: b"[" * 200_000,
}


def test_a_damaged_file_is_one_sentence_that_names_it(
    refused: Any, checkpoints: list[Path], attributed: Path, tmp_path: Path
) -> None:
    shutil.copytree(attributed, "out")
    content = Path("out/attribution.json").read_bytes()
    for damage in DAMAGE.values():
        Path("out/attribution.json").write_bytes(damage(content))
        assert "out/attribution.json is corrupt" in refused(*checkpoints, *DATA, "--output_dir", "out")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("checkpoints",), []),
        (("checkpoints", 0, "studies"), []),
        (("checkpoints", 0, "label"), "two"),
        (("checkpoints", 0, "sha256"), 3),
        (("checkpoints", 0, "studies", 0, "num_top"), 0),
        (("checkpoints", 0, "studies", 0, "attribution", "loss"), "low"),
        (("checkpoints", 0, "studies", 0, "attribution", "groups", "fc", "share"), 0.9),
        (("checkpoints", 0, "studies", 0, "attribution", "groups", "fc"), None),
        (("checkpoints", 0, "history"), [{"step": 1}]),
        (("settings", "task"), "digits"),
        (("settings", "num_top_groups"), -1),
        (("versions",), []),
        (("command",), 7),
    ],
)
def test_a_file_that_was_tampered_with_is_not_believed(
    refused: Any, checkpoints: list[Path], attributed: Path, path: tuple[Any, ...], value: Any
) -> None:
    shutil.copytree(attributed, "out")
    content = json.loads(Path("out/attribution.json").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    Path("out/attribution.json").write_text(json.dumps(content))
    sentence = refused(*checkpoints, *DATA, "--output_dir", "out")
    assert "attribution.json is corrupt" in sentence or "other settings or checkpoints" in sentence


def test_left_over_partial_files_are_removed_by_the_next_launch(checkpoints: list[Path], attributed: Path) -> None:
    shutil.copytree(attributed, "out")
    left = Path("out/.attribution.0123456789abcdef0123456789abcdef.partial.json")
    left.write_text("half")
    before = Path("out/attribution.json").read_bytes()
    assert main(("attribute", *map(str, checkpoints), *DATA, "--use_cpu", "--output_dir", "out")) == 0
    assert not left.exists() and Path("out/attribution.json").read_bytes() == before


@pytest.mark.slow
def test_two_launches_at_once_lose_nothing(checkpoints: list[Path], tmp_path: Path) -> None:
    each = [("attribute", str(path), *DATA, "--use_cpu", "--output_dir", "out") for path in checkpoints]
    launches = [launch(*words, said=tmp_path / f"{number}.txt") for number, words in enumerate(each)]
    statuses = [status_of(process) for process in launches]
    said = [(tmp_path / f"{number}.txt").read_text() for number in range(2)]
    # Whoever begins after the other has stored its result is refused, as at any later time.
    refusals = sum("other settings or checkpoints" in text for text in said)
    assert statuses.count(0) >= 1 and statuses.count(0) + refusals == 2, said
    assert len(read_results(Path("out")).checkpoints) == statuses.count(0)
    both = ("attribute", *map(str, checkpoints), *DATA, "--use_cpu", "--output_dir", "both")
    launches = [launch(*both, said=tmp_path / f"both-{number}.txt") for number in range(2)]
    assert [status_of(process) for process in launches] == [0, 0], (tmp_path / "both-0.txt").read_text()
    assert [result.label for result in read_results(Path("both")).checkpoints] == ["one", "two"]


def test_a_folder_that_is_removed_meanwhile_is_a_sentence(
    refused: Any, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = execution.make_study

    def removing(*args: Any, **named: Any) -> Any:
        shutil.rmtree("out")
        return original(*args, **named)

    monkeypatch.setattr(execution, "make_study", removing)
    assert "out cannot be written any more (it was removed)" in refused(checkpoints[0], *DATA, "--output_dir", "out")


def test_a_checkpoint_in_half_precision_is_attributed(checkpoints: list[Path]) -> None:
    model = CifarResNetForImageClassification.from_pretrained(checkpoints[0])
    model.to(torch.bfloat16).save_pretrained("half")
    shares = []
    for dtype in ("float32", "bfloat16"):
        assert main(("attribute", "half", *DATA, "--use_cpu", "--dtype", dtype, "--output_dir", dtype)) == 0
        assert f"Weights: {dtype}." in Path(dtype, "README.md").read_text()
        shares.append(read_results(Path(dtype)).checkpoints[0].studies[0].attribution.shares)
    assert list(shares[1].values()) == pytest.approx(list(shares[0].values()), abs=0.05)


def test_flags_of_groups_are_called_by_what_they_are() -> None:
    request, _ = parse_attribution(["x", "--groups", "stem=conv1", "rest=."])
    assert request.attribution.layer_groups == ["stem=conv1", "rest=."]
    assert parse_attribution(["x", "--layer_groups", "."])[0].attribution.layer_groups == ["."]


def test_names_of_classes_and_folders_do_not_act_as_markup(tmp_path: Path) -> None:
    names = ("$a_b$", "[red]x", "c|d *e*")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(24):
            folder = Path(split, names[number % 3])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    config = CifarResNetConfig(width=2, num_channels=3, image_size=8, id2label=dict(enumerate(sorted(names))))
    CifarResNetForImageClassification(config).save_pretrained("model [1]")
    flags = ("--train_dir", "train", "--test_dir", "test", "--split", "test", "--use_cpu", "--output_dir", "out [2]")
    assert main(("attribute", "model [1]", *flags)) == 0
    assert "### model \\[1\\]" in Path("out [2]/README.md").read_text()


def test_doubtful_labels_are_listed_where_they_are_asked_for(checkpoints: list[Path]) -> None:
    pytest.importorskip("cleanlab")
    assert main(("attribute", str(checkpoints[0]), *DATA, "--use_cpu", "--check_labels", "--output_dir", "out")) == 0
    (result,) = read_results(Path("out")).checkpoints
    assert result.doubtful_labels is not None
    assert len(result.doubtful_labels) <= (result.studies[0].attribution.misclassified or 0)
    assert "by confident learning" in Path("out/README.md").read_text()


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "No misclassified example has a doubtful label by confident learning (cleanlab). The lower"),
        (1, "1 misclassified example has a doubtful label by confident learning (cleanlab): check it before"),
        (2, "2 misclassified examples have a doubtful label by confident learning (cleanlab): check those before"),
    ],
)
def test_only_labels_that_are_doubtful_are_to_be_checked(count: int, said: str) -> None:
    result = replace(read_results(COMMITTED).checkpoints[0], doubtful_labels=(DoubtfulLabel(0, 1, 2, 0.05),) * count)
    assert study_findings(result)[-1].startswith(said)


def test_labels_are_not_looked_at_where_the_network_knows_them(refused: Any, checkpoints: list[Path]) -> None:
    assert "was not trained on" in refused(checkpoints[0], *DATA, "--check_labels", "--split", "train")


def test_the_committed_attribution_keeps_its_figures() -> None:
    shutil.copytree(COMMITTED, "card")
    write_attribution_report(Path("card"))
    old, new = (folder.joinpath("README.md").read_text() for folder in (COMMITTED, Path("card")))
    tables = [[line for line in text.splitlines() if line.startswith("|")] for text in (old, new)]
    assert len(tables[0]) > 40 and tables[1] == tables[0]


def test_a_comparison_that_was_begun_meanwhile_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text("{}")
    result = read_results(COMMITTED).checkpoints[0]
    with pytest.raises(DiagnosisError, match="holds files, but no attribution"):
        store_result(tmp_path, {}, result, "hf-critmom attribute", [])
    assert not (tmp_path / "attribution.json").exists()
