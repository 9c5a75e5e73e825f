"""What tests of pushing share: a finished comparison, a Hub on the loopback interface, and ``push`` as it is typed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub_server import WRITE_TOKEN, HubServer
from helpers.pushing import ARMS, NAME, TINY, Push, edited
from huggingface_hub import close_session, constants

from hf_critmom.commands import main
from hf_critmom.hub import Repository, Upload, prepare_upload


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nobody changes: its best run by validation is critmom, seed 43, by test constant, seed 42."""
    folder = tmp_path_factory.mktemp("pushed") / "out"
    assert main(("compare", *TINY, "--arms", *ARMS, "--output_dir", str(folder))) == 0
    validation = {("constant", 42): 0.3, ("constant", 43): 0.2, ("critmom", 42): 0.1, ("critmom", 43): 0.4}
    for (arm, seed), accuracy in validation.items():
        with edited(folder / "runs" / arm / f"seed-{seed}" / "result.json") as result:
            result["evaluations"][-1]["accuracy"] = accuracy
            result["test"]["accuracy"] = {("constant", 42): 0.9}.get((arm, seed), accuracy)
    assert main(("report", str(folder))) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture(scope="module")
def upload(finished: Path) -> Upload:
    return prepare_upload(finished, Repository(NAME))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nobody has signed in, and whose huggingface_hub would upload by Xet, which is not served."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()


@pytest.fixture
def hub(machine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The Hub that huggingface_hub is set to, signed in."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
        yield server
        close_session()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def push(capsys: pytest.CaptureFixture[str]) -> Push:
    """Runs ``push`` with words and returns what it prints; it must succeed."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main(("push", *map(str, words))) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Push:
    """Runs ``push`` with words and returns the one sentence that it must fail with."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main(("push", *map(str, words))) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        assert line.startswith("hf-critmom push: error: ") and line.endswith(".")
        return line

    return run
