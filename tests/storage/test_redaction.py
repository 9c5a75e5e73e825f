"""Claims about redaction: every form of secret is redacted, and nothing else."""

import doctest
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_critmom.storage import recorded_commands, redaction
from hf_critmom.storage.redaction import REDACTED, find_secrets, redact

HUB_TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"
WANDB_KEY = "0123456789abcdef0123456789abcdef01234567"

SECRET_TEXTS = {
    f"run_name {HUB_TOKEN}": HUB_TOKEN,
    f"api_org_{HUB_TOKEN[3:]}": HUB_TOKEN[3:],
    "hf_oauth_eyJhbGciOiJFZERTQSJ9abcdefgh": "eyJhbGciOiJFZERTQSJ9abcdefgh",
    f"({WANDB_KEY})": WANDB_KEY,
    f"WANDB_API_KEY={WANDB_KEY}": WANDB_KEY,
    f"local-{WANDB_KEY}": WANDB_KEY,
    "wandb_v1_Abcdefghij0123456789klmnop": "Abcdefghij0123456789klmnop",
    "api_key=zzz": "zzz",
    "apiKey: 'zz z'": "zz z",
    '{"hub_token": "zzz"}': "zzz",
    r'"{\"hub_token\": \"zzz\"}"': "zzz",
    "{'password': 'zzz'}": "zzz",
    "hub_token: zzz": "zzz",
    "--push_to_hub_token zzz": "zzz",
    "--push-to-hub-token=zzz": "zzz",
    "COMET_API_KEY=zzz1 python train.py": "zzz1",
    "export DB_PASSWORD='zzz'": "zzz",
    "AWS_SECRET_ACCESS_KEY=zzz/zz+z": "zzz/zz+z",
    "client_secret_value=zzz": "zzz",
    "https://alice:zzz@host/path": "zzz",
    "https://zzz@host/path": "zzz",
    "postgresql://alice:zz%40z@[::1]:5432/db": "zz%40z",
    "https://host/data?token=zzz&split=train": "zzz",
    "https://host/data?split=train&api_key=zzz": "zzz",
    "Authorization: Bearer abcdefgh12345678abcd": "abcdefgh12345678abcd",
    **{line: line.rpartition("=")[2] for line in ("https://h/x?X-Amz-Signature=abcdef", "az://h/x?sv=1&sig=abcdef")},
    "AKIAIOSFODNN7EXAMPLE": "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "sk-proj-abcDEF1234567890abcd": "abcDEF1234567890abcd",
    "-----BEGIN RSA PRIVATE KEY-----\nzzz\n-----END RSA PRIVATE KEY-----": "zzz",
    "-----BEGIN PRIVATE KEY-----\nzzz": "zzz",
    "NEPTUNE_API_TOKEN eyJhcGlfYWRkcmVzcyI6Imh0dHBzOi8": "eyJhcGlfYWRkcmVzcyI6Imh0dHBzOi8",
}

HEADERS = {
    "Authorization: Bearer abcdefghijklmnopqrstuvwxyz": "abcdefghijklmnopqrstuvwxyz",
    "authorization: bearer zzz": "zzz",
    "curl -H 'Authorization: token zzz' x": "zzz",
    "-H Authorization:Bearer\\ zzz": "zzz",
    '{"Authorization": "ApiKey zzz"}': "zzz",
    r'"{\"authorization\": \"Bearer zzz\"}"': "zzz",
    "HTTP_AUTHORIZATION=Basic zzz": "zzz",
    "Proxy-Authorization: Basic zzz": "zzz",
    "auth: Bearer zzz": "zzz",
    "X-Api-Key: zzz": "zzz",
    "'x-auth-token': 'zzz'": "zzz",
    "Cookie: name=value; session=zzz": "zzz",
    "-H 'Set-Cookie: zzz=zzz; Path=/'": "zzz",
}

HARMLESS = (
    "Authorization: Bearer $HF_TOKEN, auth: Bearer <TOKEN>, invalid authorization token provided, Cookie: dough",
    "hf_critmom hf_transformers hf_xet hf_hub_download HF_TOKEN hf-critmom",
    f"commit {WANDB_KEY}, revision={WANDB_KEY}, https://github.com/a/b/commit/{WANDB_KEY}",
    f'{{"sha256": "{WANDB_KEY}{WANDB_KEY[:24]}"}}',
    '{"eos_token": "</s>", "pad_token": "<pad>", "num_tokens": 128, "loss_per_token": 2.5, "hub_token": null}',
    "--max_new_tokens 50 --eos_token <s> --tokenizer_name bytes --label_key label",
    "use_auth_token=True token=$HF_TOKEN password=${PASSWORD} token=<HUB_TOKEN> token=None token=...",
    "Without a token there is nothing to push: run hf auth login. The key: momentum.",
    "user@example.org, git@github.com:owner/name.git, http://host/a@b, http://127.0.0.1:8000/x",
    f"--hub_token {REDACTED} https://{REDACTED}@host api_key={REDACTED}",
    "--token --private",
)


@pytest.mark.parametrize("text", [*SECRET_TEXTS, *HEADERS])
def test_no_form_of_a_secret_survives(text: str) -> None:
    redacted, secret = redact(text), (SECRET_TEXTS | HEADERS)[text]
    assert secret not in redacted and REDACTED in redacted
    assert find_secrets(text) and not find_secrets(redacted)
    assert not any(secret in description for description in find_secrets(text))


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_holds_a_secret_also_in_a_sentence(header: str) -> None:
    redacted = redact(f"The server refused it ({header}): log in.", sentence=True)
    assert HEADERS[header] not in redacted and REDACTED in redacted and redacted.endswith("log in.")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text and find_secrets(text) == []


def test_a_switch_after_a_secret_flag_is_no_secret() -> None:
    assert redact("--use_auth_token True") == "--use_auth_token True"


@pytest.mark.parametrize("form", ["{}", "x {} y", '"{}"', "name={}", "/{}/", "[{}]", "`{}`", "{},", "{}\n"])
def test_a_token_is_found_anywhere_in_a_text(form: str) -> None:
    assert HUB_TOKEN not in redact(form.format(HUB_TOKEN))


def test_secrets_of_the_environment_are_known_in_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "plain-looking-words")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/service.json")
    monkeypatch.setenv("SOME_KEY", "momentum")
    assert redact("a=plain-looking-words.") == f"a={REDACTED}."
    assert find_secrets("xplain-looking-wordsx") == ["a known secret"]
    assert redact("momentum in /etc/service.json") == "momentum in /etc/service.json"


def test_known_secrets_are_found() -> None:
    assert find_secrets("abc open sesame", known={"open sesame"}) == ["a known secret"]
    assert redact("abc open sesame", known={"open sesame"}) == f"abc {REDACTED}"


def test_vocabularies_are_searched_by_form_only() -> None:
    vocabulary = json.dumps({"password": 17, "_token": 18, "api_key": "x9"})
    assert find_secrets(vocabulary) and find_secrets(vocabulary, names=False) == []
    assert find_secrets(f"{vocabulary} {HUB_TOKEN}", names=False) == ["a Hugging Face token"]


@given(st.text(max_size=80))
def test_redaction_is_idempotent_and_takes_any_text(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text("abcXYZ0189_-!?*", min_size=1, max_size=20).filter(lambda text: text.strip("-")))
def test_a_secret_in_json_is_replaced_and_the_json_stays_json(secret: str) -> None:
    text = json.dumps({"name": "run", "hub_token": secret, "command": shlex.join(["compare", f"--api_key={secret}"])})
    assert json.loads(redact(text)).keys() == {"name", "hub_token", "command"}


def test_committed_results_hold_no_secrets_and_no_paths() -> None:
    for file in (Path(__file__).parents[2] / "model_cards").rglob("*"):
        if file.suffix in (".json", ".md", ".txt"):
            text = file.read_text()
            assert (find_secrets(text), recorded_commands.shorten_paths(text)) == ([], text), file


@pytest.mark.parametrize("module", [redaction, recorded_commands])
def test_examples_in_docstrings_are_right(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_credentials_are_found_in_an_address_that_was_taken_for_a_path() -> None:
    assert redaction.redact(str(Path("https://user:pa55word@host/x"))) == "https:/REDACTED@host/x"
