"""Claims about nonsensical arguments: they are refused in one line, before any work, and nothing is written."""

from pathlib import Path

import pytest

from hf_critmom.commands import main

TINY = ("--width", "2", "--max_train_samples", "64", "--use_cpu")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The line with which a command refuses its arguments."""
    assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.count(": error: ") == 1
    return line


@pytest.mark.parametrize("command", ["compare", "report", "attribute", "repair", "drift", "push"])
@pytest.mark.parametrize("argument", ["a\0b", "a\udcff"])
def test_arguments_that_are_not_utf8_are_refused(
    capsys: pytest.CaptureFixture[str], command: str, argument: str
) -> None:
    assert f"the argument {argument!r} is not valid UTF-8" in refused(capsys, command, argument)


def test_quoted_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert r"There is no folder \x1b[31mred\nand more: expected" in refused(
        capsys, "compare", "--train_dir", "\x1b[31mred\nand more", *TINY
    )


@pytest.mark.parametrize("flag", ["output_dir", "arms_file", "baseline", "run_name", "task"])
def test_an_empty_text_is_refused(capsys: pytest.CaptureFixture[str], flag: str, tmp_path: Path) -> None:
    assert f"--{flag} is empty: give a value, or leave it out." in refused(capsys, "compare", f"--{flag}", "", *TINY)
    assert not list(tmp_path.iterdir())


def test_a_list_that_is_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "compare", "--arms", "constant", "--arms=critmom", *TINY)
    assert "--arms is given twice: give it once, with all of its values." in line


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--learning_rate", "1e14"), "--learning_rate must be positive and at most 1,000,000"),
        (("--weight_decay", "1e14"), "--weight_decay must be at least 0 and at most 1,000,000"),
        (("--learning_rate_grid", "1e300"), "factors that are positive and at most 1,000,000"),
        (("--split_seed", "4294967296"), "--split_seed must be between 0 and 4294967295"),
        (("--arms", "constant[lr=1e300]"), "learning_rate is 1e+300 instead of a number above 0 and at most 1,000,000"),
        (("--arms_file", "/dev/zero"), "/dev/zero cannot be read ([Errno 22] it is not a regular file"),
        (("--accelerator_config", "/dev/zero"), "--accelerator_config must be a JSON object or the path of a file"),
    ],
    ids=str,
)
def test_absurd_values_and_endless_files_are_refused(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    assert sentence in refused(capsys, "compare", *args, *TINY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x" * 300, "cannot be a folder (File name too long)"),
        ("loop", "cannot be a folder"),
        ("loop/x", "cannot be a folder"),
        ("nowhere", "cannot be a folder (the link leads nowhere)"),
        ("data.txt", "data.txt is a file"),
        ("data/out", "--output_dir data/out lies in the data of --train_dir data"),
        ("linked/a/out", "--output_dir linked/a/out lies in the data of --train_dir data"),
    ],
    ids=lambda text: text[:10],
)
@pytest.mark.parametrize("command", [("compare",), ("attribute", "x"), ("repair", "x")], ids=lambda args: args[0])
def test_an_impossible_output_folder_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], name: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("nothing/at/all")
    (tmp_path / "data.txt").write_text("words")
    (tmp_path / "data").mkdir()
    (tmp_path / "linked").symlink_to("data")
    assert sentence in refused(capsys, *command, "--train_dir", "data", "--output_dir", name)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("command", ["report", "drift", "attribute", "repair", "push"])
@pytest.mark.parametrize("name", ["loop", "x" * 300], ids=["loop", "too long"])
def test_a_path_that_no_file_can_have_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, name: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert name in refused(capsys, command, name, *(["a/b"] if command == "push" else []))


@pytest.mark.parametrize("args", [("report", ""), ("doctor", ""), ("merge", "x", "--output_dir", "")], ids=" ".join)
def test_an_empty_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    assert "it is empty, expected a path" in refused(capsys, *args)


@pytest.mark.parametrize(("file", "kind"), [("attribution.json", "an attribution"), ("repair.json", "a repair")])
def test_what_push_leaves_out_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str, kind: str) -> None:
    (tmp_path / file).write_text("{}")
    line = refused(capsys, "push", ".", "a/b")
    assert f". holds {kind}, and push publishes comparisons" in line and "hf upload" in line
