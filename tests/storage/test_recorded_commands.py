"""Claims about recorded commands: no secrets, no home directories, and otherwise the same command."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_critmom.storage.recorded_commands import (
    recorded_arguments,
    recorded_command,
    recorded_path,
    recorded_value,
    shorten_paths,
)
from hf_critmom.storage.redaction import REDACTED, find_secrets

SECRET = "zzTop-Secret"


@pytest.mark.parametrize(
    "argv",
    [
        ["--hub_token", SECRET],
        ["--hub-token", SECRET],
        [f"--hub_token={SECRET}"],
        [f"--hub-token={SECRET}"],
        ["--push_to_hub_token", SECRET],
        [f"--push-to-hub-token={SECRET}"],
        ["--token", SECRET],
        ["-token", SECRET],
        ["--api_key", SECRET],
        ["--wandb-api-key", SECRET],
        ["--HUB_TOKEN", SECRET],
        ["--hubToken", SECRET],
        ["--password", SECRET],
        ["--db_passwd", SECRET],
        ["--my_secret", SECRET],
        ["--client-secret-id", SECRET],
        ["--ssh_key", SECRET],
        ["--credentials", SECRET],
        ["--hub_tok", SECRET],
        ["--hub_t", SECRET],
        ["--push_to_hub_tok", SECRET],
        ["--tok", SECRET],
        ["--passw", SECRET],
        ["--hub_token", f"-{SECRET}"],
        ["--api_keys", SECRET, SECRET],
        ["--", "--hub_token", SECRET],
        [f"hub_token={SECRET}"],
        [f"tracker.api_key={SECRET}"],
        ["--config", json.dumps({"tracker": {"api_key": SECRET}})],
        ["--env", f"A=b,HF_TOKEN={SECRET}"],
        ["--train_file", f"https://alice:{SECRET}@host/data.csv"],
        [f"--dataset_name=https://host/x?token={SECRET}"],
    ],
    ids=" ".join,
)
def test_the_value_of_a_secret_flag_is_never_recorded(argv: list[str]) -> None:
    command = recorded_command("hf-critmom compare", [*argv, "--arms", "critmom"])
    assert SECRET not in command and REDACTED in command
    assert command.endswith(" --arms critmom") and find_secrets(command) == []
    assert len(shlex.split(command)) == 4 + len(argv)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--arms", "constant", "critmom", "--learning_rate", "-0.1", "--targets", ".9", "--lr", "1e-3"],
        ["--tokenizer_name", "google/canine-s", "--include_num_input_tokens_seen", "all", "--block_size", "128"],
        ["--dataset_name", "uoft-cs/cifar10", "--train_dir", "data/train", "--output_dir", "./out", "../other"],
        ["--optim_args", "rule=exact,nesterov=true", "--lr_scheduler_kwargs", '{"min_lr": 0.1}'],
        ["--token", "--private", "--max_new_tokens", "5"],
        ["--help", "-h", "--", "x=y"],
    ],
    ids=" ".join,
)
def test_everything_else_is_recorded_as_it_was_typed(argv: list[str]) -> None:
    assert recorded_arguments(argv) == argv


@given(st.lists(st.text(max_size=20), max_size=6))
def test_any_arguments_can_be_recorded_and_split_again(argv: list[str]) -> None:
    command = recorded_command("hf-critmom compare", argv)
    assert shlex.split(command) == ["hf-critmom", "compare", *recorded_arguments(argv)]
    assert len(recorded_arguments(argv)) == len(argv)


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory below a home directory."""
    home = tmp_path / "home" / "alice"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "project")
    return home / "project"


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("{here}/out", "out"),
        ("{here}/data/cats and dogs", "data/cats and dogs"),
        ("{here}", "."),
        ("{here}/", "."),
        ("{here}/../project/out", "out"),
        ("{here}/../other", "other"),
        ("~/project/out", "out"),
        ("~/data/cats", "cats"),
        ("~", "~"),
        ("~bob/data/cats", "cats"),
        ("/data/cats", "cats"),
        ("/data/cats/", "cats"),
        ("/home/bob", "~"),
        ("/", "/"),
        ("data/cats", "data/cats"),
        ("./cats", "./cats"),
        ("../cats", "../cats"),
        ("../../alice/cats", "cats"),
        ("../../../home/bob/cats", "cats"),
        ("google/vit-base", "google/vit-base"),
        (r"C:\Users\bob\cats", "cats"),
        ("C:/Users/bob/cats", "cats"),
    ],
)
def test_a_path_is_relative_below_the_working_directory_else_its_last_part(
    here: Path, typed: str, recorded: str
) -> None:
    assert recorded_path(typed.format(here=here)) == recorded


def test_a_working_directory_reached_through_a_link_is_recognised(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(here)
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    assert recorded_path(link / "out") == recorded_path(here / "out") == "out"


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("--output_dir={here}/out", "--output_dir=out"),
        ("path=/data/cats,other=/data/dogs", "path=cats,other=dogs"),
        ("/data/cats:/data/dogs", "cats:dogs"),
        ('{{"deepspeed": "/data/zero.json"}}', '{{"deepspeed": "zero.json"}}'),
        ("file:///data/cats.csv", "cats.csv"),
        ("[/data/cats, ~/dogs]", "[cats, dogs]"),
        ("https://host/data/cats", "https://host/data/cats"),
        ("s3://bucket/data/cats", "s3://bucket/data/cats"),
        ("hf://datasets/a/b", "hf://datasets/a/b"),
    ],
)
def test_paths_within_an_argument_are_shortened(here: Path, typed: str, recorded: str) -> None:
    assert recorded_arguments([typed.format(here=here)]) == [recorded.format()]


def test_paths_in_a_card_are_shortened_and_nothing_else(here: Path) -> None:
    card = (
        f"Fine-tuned from [{here}/checkpoints/final](https://huggingface.co/{'/home/bob'}/x), see `/data/cats.csv`.\n"
        "1/2 of the steps/s, and/or </div> <br/> a // b; (/tmp)\n"
    )
    shortened = shorten_paths(card)
    assert "[checkpoints/final](https://huggingface.co//home/bob/x), see `cats.csv`." in shortened
    assert shortened.splitlines()[1:] == card.splitlines()[1:]
    assert shorten_paths(shortened) == shortened


def test_in_source_code_only_paths_through_home_count(here: Path) -> None:
    program = f"const r = /a/b/.test(x); load('/lib/x/y.js'); open('{here}/out.json', '/home/bob/x/y')"
    assert shorten_paths(program, home_only=True) == (
        "const r = /a/b/.test(x); load('/lib/x/y.js'); open('out.json', 'y')"
    )


def test_nested_values_are_recorded_the_same(here: Path) -> None:
    value = {
        "deepspeed": str(here / "zero.json"),
        "config": {"hub_token": SECRET, "steps": 3, "files": ["/data/a", "b", None], "api_key": None},
        "rate": 0.1,
    }
    assert recorded_value(value) == {
        "deepspeed": "zero.json",
        "config": {"hub_token": REDACTED, "steps": 3, "files": ["a", "b", None], "api_key": None},
        "rate": 0.1,
    }
