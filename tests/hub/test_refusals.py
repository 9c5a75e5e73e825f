"""Claims about pushes that are refused: one sentence, and what to do now."""

from pathlib import Path

import pytest
from helpers import hub_cards
from helpers.hub_server import READ_TOKEN, USER, WRITE_TOKEN, HubServer
from helpers.pushing import NAME, Push
from huggingface_hub import constants

from hf_critmom.hub import Repository, Upload, push_upload, sign_in


def test_without_a_token_a_push_says_how_to_get_one(finished: Path, machine: None, refused: Push) -> None:
    sentence = refused(finished, NAME)
    assert "There is no token" in sentence and "hf auth login" in sentence and "--token" in sentence


def test_a_wrong_token_is_refused(finished: Path, hub: HubServer, refused: Push) -> None:
    assert "does not accept the token (401 " in refused(finished, NAME, "--token", "hf_wrong")
    assert hub.repositories == {}


@pytest.mark.parametrize("token", ["hf_secret", "hf_sec ret", "hf_secret\nhf_secret", "hf_secr\u00e9t"])
def test_a_token_is_never_shown(finished: Path, hub: HubServer, refused: Push, token: str) -> None:
    assert "hf_sec" not in refused(finished, NAME, "--token", token)


def test_a_token_that_may_only_read_is_refused(finished: Path, hub: HubServer, refused: Push, upload: Upload) -> None:
    sentence = f"{USER} may not write to the model repository {NAME} with this token (403 This token has no write"
    assert sentence in refused(finished, NAME, "--token", READ_TOKEN)
    push_upload(sign_in(), Upload(Repository(NAME), {"README.md": b"mine"}, "before"))
    assert sentence in refused(finished, NAME, "--token", READ_TOKEN)
    assert hub.repositories["model", NAME].messages()[-1] == "before"


def test_somebody_elses_namespace_is_refused(finished: Path, hub: HubServer, refused: Push) -> None:
    assert (
        "may not write to the model repository google/digits with this token (403 You don't have the rights"
        in refused(finished, "google/digits")
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--message", value) for value in ("", " ", "\n\t")),
        *(("--task_id", value) for value in ("", " ", "a b", "a/b", "'x'", "x\ny", "../x", "{x}")),
        *(("--revision", value) for value in ("", " ", "a b", 'a"b', "a'b", "a..b", "-x", "/x", "x/", "x.lock", "x.")),
        *(
            ("--revision", value)
            for value in ("a~1", "a^", "a:b", "a?b", "a*", "a[b", "a\\b", "a\nb", "@{1}", "HEAD", "é")
        ),
        *(("--dataset_id", value) for value in ("", "a b", "a/b/c", "'x'", "x\ny")),
        *(("--token", value) for value in ("", "  ")),
        *(("--arm", value) for value in ("", "../constant", "constant ")),
    ],
)
def test_values_that_nothing_can_have_are_refused_before_the_hub_hears_of_them(
    finished: Path, hub: HubServer, refused: Push, flag: str, value: str
) -> None:
    sentence = refused(finished, NAME, f"{flag}={value}")
    assert flag in sentence
    assert flag == "--arm" or hub.requests == []


@pytest.mark.parametrize("name", ["trial", "trial-2", "v1.0", "feature/a_b", "refs/pr/1"])
def test_branches_that_git_takes_are_taken(finished: Path, push: Push, name: str) -> None:
    assert f"(revision {name})" in push(finished, NAME, "--dry_run", "--revision", name)


@pytest.mark.parametrize("name", ["a/b/c", "tester/", "tester/two words", "tester/dig--its", "x" * 97])
def test_a_name_that_no_repository_can_have_is_refused(finished: Path, machine: None, refused: Push, name: str) -> None:
    assert f"{name!r} cannot name a repository" in refused(finished, name)


def test_a_hub_that_cannot_be_reached_is_named_without_waiting_long(
    finished: Path, machine: None, refused: Push, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    with HubServer() as server:
        url = server.url
    monkeypatch.setattr(constants, "ENDPOINT", url)
    assert f"{url} cannot be reached" in refused(finished, NAME, "--token", WRITE_TOKEN)
    assert waits == [1.0]


@pytest.mark.parametrize("endpoint", ["http://[bad", "localhost:1", "http://", "http://127.0.0.1:99999", "nonsense"])
def test_an_address_that_is_none_is_a_sentence(
    finished: Path, machine: None, refused: Push, monkeypatch: pytest.MonkeyPatch, waits: list[float], endpoint: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert f"{endpoint} cannot be reached" in refused(finished, NAME, "--token", WRITE_TOKEN)


def test_a_server_that_is_no_hub_is_named(finished: Path, hub: HubServer, refused: Push) -> None:
    hub.fail("GET", "/whoami", 200, "Hello")
    assert f"{hub.url} gave an answer that no Hub gives" in refused(finished, NAME)


def test_offline_mode_is_named(finished: Path, hub: HubServer, refused: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(finished, NAME) and hub.requests == []


def test_a_card_that_the_hub_refuses_stops_the_push_before_anything_is_uploaded(
    finished: Path, hub: HubServer, refused: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_cards, "LICENSES", ("mit",))
    assert "does not accept the card" in (sentence := refused(finished, NAME)) and '"license" must be' in sentence
    assert not hub.asked("^PUT|/commit/")
