"""Claims about a Hub in trouble: whatever fails at whatever stage, a push arrives, or says so in one sentence and ends.

Every combination of a stage and a fault is a push by the command line, against the Hub on the loopback interface.
"""

import time
from dataclasses import replace
from typing import Any

import pytest
from helpers.hub_server import WRITE_TOKEN, HubServer
from helpers.pushing import NAME, Push

from hf_critmom.commands import main
from hf_critmom.hub import Repository, Upload, push, session

STAGES = {
    "whoami": ("GET", "/whoami"),
    "find the Space": ("GET", "/api/spaces/"),
    "find the model": ("GET", "/api/models/"),
    "create": ("POST", "/repos/create"),
    "create the branch": ("POST", "/branch/"),
    "validate the card": ("POST", "/validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "LFS batch": ("POST", "/objects/batch"),
    "store": ("PUT", "/storage/"),
    "verify": ("POST", "/verify"),
    "commit": ("POST", "/commit/"),
}

FAULTS: dict[str, dict[str, Any]] = {
    **{str(status): {"status": status} for status in (401, 403, 404, 409, 413, 422, 429, 500, 503)},
    "an hour to wait": {"status": 429, "headers": {"Retry-After": "3600"}},
    "cut connection": {"status": None},
    "no answer": {"status": None, "hangs": True},
    "byte after byte": {"status": None, "drips": True},
    "truncated": {"status": 200, "content": b'{"a": ', "truncates": True},
    "a page": {"status": 200, "content": b"<html>Welcome to the airport</html>"},
    "a list": {"status": 200, "content": b"[]"},
    "null": {"status": 200, "content": b"null"},
    "an empty object": {"status": 200, "content": b"{}"},
    "wrong types": {
        "status": 200,
        "content": b'{"name": 3, "sha": [], "siblings": 7, "private": "no", "files": {"a": 1}, "url": null,'
        b' "objects": 0, "commitUrl": 0, "commitOid": {}, "errors": 5, "warnings": 9}',
    },
    "bytes that are no text": {"status": 200, "content": b"\xff\xfe\x00\x80"},
}

PASSING = ("429", "500", "503", "cut connection", "no answer", "truncated")
"""Faults that a push outlives if they happen once."""


@pytest.fixture(scope="module")
def small(upload: Upload) -> Upload:
    """A push of files of every kind, to a branch."""
    kept = ("README.md", "comparison.json", "model.safetensors")
    files = {path: upload.files[path] for path in kept}
    return replace(upload, repository=Repository(NAME, revision="trial"), files=files)


@pytest.fixture
def faulty(hub: HubServer, small: Upload, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A Hub to which ``push`` brings the small upload, with short time limits."""
    monkeypatch.setattr(push, "prepare_upload", lambda *_, **__: small)
    monkeypatch.setenv("HF_CRITMOM_HUB_TIMEOUT", "0.4")
    return hub


def push_to_branch() -> int:
    return main(("push", ".", NAME, "--revision", "trial"))


@pytest.fixture(autouse=True)
def in_a_comparison(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)


def has_arrived(hub: HubServer, upload: Upload) -> bool:
    repository = hub.repositories.get(("model", NAME))
    is_there = repository is not None and "trial" in repository.branches
    return is_there and upload.files.keys() <= repository.files("trial").keys()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_that_stays_ends_in_one_sentence_and_nothing_half_done(
    faulty: HubServer, small: Upload, capsys: pytest.CaptureFixture[str], stage: str, fault: str
) -> None:
    faulty.fail(*STAGES[stage], **FAULTS[fault], times=1000)
    began = time.monotonic()
    status = push_to_branch()
    assert time.monotonic() - began < 20.0
    shown = capsys.readouterr()
    assert WRITE_TOKEN not in shown.err + shown.out and "Traceback" not in shown.err
    if status == 0:  # what the fault denied was not needed, such as a repository that is not there yet
        assert has_arrived(faulty, small) and "Pushed: " in shown.out
        return
    (line,) = shown.err.splitlines()
    assert status == 2 and shown.out == ""
    assert line.startswith("hf-critmom push: error: ") and line.endswith(".") and line.count(": error: ") == 1
    assert not has_arrived(faulty, small)
    if fault == "503":
        faulty.faults.clear()
        assert push_to_branch() == 0 and has_arrived(faulty, small)  # the same command goes on from there


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_that_passes_is_outlived(
    faulty: HubServer,
    small: Upload,
    push: Push,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    fault: str,
) -> None:
    monkeypatch.setattr(session, "UNANSWERED_ATTEMPTS", 4)  # time limits are short here, and the machine may be busy
    faulty.fail(*STAGES[stage], **FAULTS[fault])
    assert "Pushed: " in push(".", NAME, "--revision", "trial")
    assert has_arrived(faulty, small)
    assert len(faulty.repositories["model", NAME].messages("trial")) == 2


@pytest.mark.parametrize("fault", ["503", "cut connection"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_that_is_lost_after_the_work_was_done_does_no_harm(
    faulty: HubServer, small: Upload, push: Push, stage: str, fault: str
) -> None:
    faulty.fail(*STAGES[stage], **FAULTS[fault], after=True)
    assert "Pushed: " in push(".", NAME, "--revision", "trial")
    assert has_arrived(faulty, small)
    assert len(faulty.repositories["model", NAME].messages("trial")) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_is_repeated_with_growing_waits_and_not_for_ever(
    faulty: HubServer, waits: list[float], stage: str
) -> None:
    method, pattern = STAGES[stage]
    faulty.fail(method, pattern, 503, times=1000)
    assert push_to_branch() == 2
    requests = faulty.asked(f"^{method} .*{pattern}")
    assert 0 < max(map(requests.count, requests)) <= 1 + len(session.RETRY_WAITS)
    assert waits == sorted(waits) and len(waits) >= len(session.RETRY_WAITS)


def test_creating_waits_for_another_creation(faulty: HubServer, waits: list[float], push: Push) -> None:
    conflict = "Cannot create repo: another conflicting operation is in progress"
    faulty.fail(*STAGES["create"], 409, conflict, times=2)
    assert "Pushed: " in push(".", NAME, "--revision", "trial")
    assert waits == list(session.RETRY_WAITS[:2])
    faulty.repositories.clear()
    faulty.fail(*STAGES["create"], 409, conflict, times=1000)
    assert push_to_branch() == 2 and len(waits) == 2 + len(session.RETRY_WAITS)


def test_what_the_hub_asks_to_wait_is_waited_if_it_is_not_long(
    faulty: HubServer, waits: list[float], push: Push
) -> None:
    faulty.fail("GET", "/whoami", 429, headers={"Retry-After": "30"})
    assert "Pushed: " in push(".", NAME, "--revision", "trial")
    assert waits == [30.0]


def test_a_hub_that_does_not_answer_is_said_with_what_it_did_not_answer(
    faulty: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty.fail("POST", "/preupload/", None, hangs=True, times=1000)
    assert push_to_branch() == 2
    assert f"{faulty.url} did not answer in time (POST /api/models/{NAME}/preupload/trial" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["", "soon", "0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none_is_refused(
    faulty: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    monkeypatch.setenv("HF_CRITMOM_HUB_TIMEOUT", given)
    assert push_to_branch() == 2
    assert f"HF_CRITMOM_HUB_TIMEOUT is {given!r}" in capsys.readouterr().err and faulty.requests == []


def test_a_message_of_the_hub_that_holds_the_token_does_not_show_it(
    faulty: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty.fail("POST", "/repos/create", 403, f"Invalid token {WRITE_TOKEN}, {{braces}}")
    assert push_to_branch() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert WRITE_TOKEN not in line and "Invalid token REDACTED, {braces}" in line


def test_the_session_of_others_keeps_neither_time_limits_nor_patience(faulty: HubServer, push: Push) -> None:
    from huggingface_hub import get_session

    push(".", NAME, "--revision", "trial")
    faulty.requests.clear()
    faulty.fail("GET", "/whoami", 503, times=10)
    assert get_session().get(f"{faulty.url}/api/whoami-v2").status_code == 503
    assert len(faulty.requests) == 1
