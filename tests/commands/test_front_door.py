"""Claims about the entry points: what works without importing torch, registration on import, signals and errors."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hf_critmom
from hf_critmom import commands

HEAVY = ("torch", "transformers", "datasets", "matplotlib", "pandas")
LIGHT = [("--help",), ("-h",), ("--version",), ("comprae",), ("run", "--help"), ("report", "--help")]


@pytest.mark.parametrize("args", LIGHT, ids=" ".join)
def test_it_answers_without_importing_torch(run_python, args: tuple[str, ...]) -> None:
    code = f"""
import contextlib, json, sys
from hf_critmom.commands import main
with contextlib.suppress(SystemExit):
    main({args!r})
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    assert json.loads(run_python("-c", code).stdout.splitlines()[-1]) == []


def test_importing_the_package_imports_neither_torch_nor_transformers(run_python) -> None:
    code = f"import hf_critmom, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "order", [*(pytest.param(order, marks=pytest.mark.slow) for order in ("before", "after")), "between"]
)
def test_names_are_registered_whichever_is_imported_first(run_bare, order: str) -> None:
    ours, theirs = "import hf_critmom", "from transformers import AutoConfig, Trainer, TrainingArguments"
    imports = {
        "before": [ours, theirs],
        "after": [theirs, ours],
        "between": ["import transformers.training_args", ours, theirs],
    }[order]
    code = "\n".join(
        [
            *imports,
            "args = TrainingArguments('x', optim='critmom_adamw', use_cpu=True)",
            "print(Trainer.get_optimizer_cls_and_kwargs(args)[0].__name__)",
            "print(AutoConfig.for_model('cifar_resnet', width=4).width)",
        ]
    )
    finished = run_bare("-c", code)
    assert finished.stdout.split() == ["CritMomAdamW", "4"], finished.stderr


@pytest.mark.slow
def test_importing_twice_is_harmless(run_bare) -> None:
    code = """
import importlib, sys
import hf_critmom
import transformers.training_args as arguments
before = [name.value for name in arguments.OptimizerNames]
del sys.modules["hf_critmom"]
importlib.import_module("hf_critmom").register()
print(before == [name.value for name in arguments.OptimizerNames])
"""
    assert run_bare("-c", code).stdout.strip() == "True"


@pytest.mark.parametrize("name", hf_critmom.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(hf_critmom, name) is getattr(hf_critmom, name)
    assert name in dir(hf_critmom)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"attribute.*CritMomADAM"):
        _ = hf_critmom.CritMomADAM


def test_it_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-critmom {hf_critmom.__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("comprae", "compare"), ("reprot", "report"), ("atribute", "attribute")])
def test_an_unknown_command_is_answered_with_a_near_one(
    capsys: pytest.CaptureFixture[str], typed: str, meant: str
) -> None:
    assert commands.main([typed]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"did you mean {meant}?" in error


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        ("/usr/bin/hf-critmom", "hf-critmom"),
        ("/lib/python/site-packages/hf_critmom/__main__.py", "python -m hf_critmom"),
        ("/home/me/.local/share/hf/extensions/hf-critmom/venv/bin/hf-critmom", "hf critmom"),
    ],
)
def test_messages_name_the_program_as_it_was_called(monkeypatch: pytest.MonkeyPatch, called: str, shown: str) -> None:
    monkeypatch.setattr(sys, "argv", [called, "--help"])
    assert commands.program() == shown
    assert commands.usage().startswith(f"usage: {shown} COMMAND")


def test_it_works_as_an_extension_of_the_hubs_command_line(tmp_path: Path) -> None:
    """As installed by `hf extensions install`: a manifest names the executable in the extension's folder."""
    folder = tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-critmom"
    executable = folder / "venv" / "bin" / "hf-critmom"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!{sys.executable}\nimport sys\nfrom hf_critmom.commands import main\nsys.exit(main())\n")
    executable.chmod(0o755)
    manifest = {
        **{"owner": "someone", "repo": "hf-critmom", "repo_id": "someone/hf-critmom", "short_name": "critmom"},
        **{"executable_path": str(executable), "type": "python", "installed_at": "2026-01-01T00:00:00+00:00"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    hub = Path(sys.executable).with_name("hf")
    environment = {**os.environ, "HOME": str(tmp_path), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(hf_critmom.__file__).parents[1])

    def call(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([hub, "critmom", *args], env=environment, capture_output=True, text=True, timeout=120)

    overview = call("--help")
    assert overview.returncode == 0 and "usage: hf critmom COMMAND" in overview.stdout, overview.stderr
    refused = call("run", str(tmp_path / "nothing.py"))
    assert refused.returncode == 2 and refused.stderr.startswith("hf critmom run: error: "), refused.stderr


SLEEPER = """
import sys, time
from hf_critmom import commands
import types
module = types.ModuleType("hf_critmom.commands.compare")
def main(argv):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
module.main = main
sys.modules["hf_critmom.commands.compare"] = module
sys.exit(commands.main(["compare"]))
"""


def default_sigint() -> None:
    """Background jobs of a shell ignore Ctrl-C, and children inherit that: restores the default."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("sent", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupted_command_says_that_it_can_be_continued(
    tmp_path: Path, sent: signal.Signals, status: int, word: str
) -> None:
    command = [sys.executable, "-c", SLEEPER]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=default_sigint,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(0.1)
        process.send_signal(sent)
        out, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == "cleaned up\n"
    assert error.count("\n") == 1 and f"{word}: repeat the command to continue it" in error


def test_a_closed_pipe_causes_no_traceback(tmp_path: Path) -> None:
    code = "from hf_critmom.commands import main\nimport sys\nsys.exit(main(['--help']))"
    shell = f'{sys.executable} -c "{code}" | true'
    finished = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "Traceback" not in finished.stderr


def test_help_shows_our_own_flags_and_help_all_those_of_the_trainer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = {}
    for flag in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            commands.main(["compare", flag])
        shown[flag] = capsys.readouterr().out
        assert all(len(line) <= 80 for line in shown[flag].splitlines())
    assert "--arms" in shown["--help"] and "--learning_rate " in shown["--help"]
    assert shown["--help"].index("--arms") < shown["--help"].index("--learning_rate ")
    assert "--adam_beta1" not in shown["--help"] and "--adam_beta1" in shown["--help_all"]


def test_characters_that_the_terminal_cannot_show_are_escaped(run_bare) -> None:
    code = """
import io, sys
sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii")
sys.stderr = io.TextIOWrapper(sys.stderr.buffer, encoding="ascii")
from hf_critmom.commands import main
sys.exit(main(["report", "caf\u00e9 \u00b1"]))
"""
    finished = run_bare("-c", code)
    assert finished.returncode == 2 and "caf\\xe9 \\xb1 holds no" in finished.stderr


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "A file of this command cannot be written (No space left"),
        (OSError(errno.EROFS, "Read-only file system", "out/x"), "out/x cannot be written (Read-only file system)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "out/x"), "out/x cannot be used (No such file"),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), "out/x cannot be used (Permission denied)"),
        (OSError(errno.ELOOP, "Too many levels", "loop"), "loop is not a valid path (Too many levels)"),
    ],
)
def test_file_errors_are_one_sentence_in_every_command(
    error: OSError, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("hf_critmom.commands.doctor.main", fail)
    assert commands.main(("doctor", "out")) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    monkeypatch.setattr("hf_critmom.commands.run.main", fail)
    with pytest.raises(OSError, match=re.escape(str(error.strerror))):  # a script's errors are its own
        commands.main(("run", "train.py"))


@pytest.mark.parametrize(("file", "function"), [("attribution.json", "diagnosis"), ("repair.json", "repair")])
def test_a_report_that_cannot_be_written_is_a_sentence(
    file: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / file).write_text("{}")
    writing = {"diagnosis": "write_attribution_report", "repair": "write_repair_report"}[function]
    monkeypatch.setattr(f"hf_critmom.experiments.{function}.report.{writing}", full)
    monkeypatch.setattr("hf_critmom.experiments.repair.results.read_repair", lambda folder: folder)
    assert commands.main(("report", str(tmp_path))) == 2
    assert f"{tmp_path} cannot be written any more (No space left on device)" in capsys.readouterr().err
