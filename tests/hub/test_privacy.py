"""Claims about what never leaves the machine: secrets, links, strangers' files, and where things lie on it."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers.hub_server import WRITE_TOKEN, HubServer
from helpers.pushing import MODEL, NAME, Push, edited, results_in

from hf_critmom.hub import HubError, Repository, prepare_upload
from hf_critmom.hub.privacy import publishable
from hf_critmom.storage.recorded_commands import shorten_paths
from hf_critmom.storage.redaction import find_secrets

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"
BEST = Path("runs", "critmom", "seed-43")

# -------------------------------------------------------------------------------------------------------------- secrets


def put_in_command(folder: Path, secret: str) -> None:
    with edited(folder / "comparison.json") as plan:
        plan["command"] += f" {secret}"


def put_in_source(folder: Path, secret: str) -> None:
    with edited(folder / "comparison.json") as plan:
        plan["task"]["source"] = f"local folder {secret}"


def put_in_result(folder: Path, secret: str) -> None:
    with edited(folder / BEST / "result.json") as result:
        result["versions"]["hardware"] = secret


def put_in_config(folder: Path, secret: str) -> None:
    with edited(folder / BEST / "config.json") as config:
        config["_name_or_path"] = secret


def put_in_tokenizer(folder: Path, secret: str) -> None:
    (folder / BEST / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {secret: 0}}}))


def put_in_vocabulary(folder: Path, secret: str) -> None:
    (folder / BEST / "vocab.txt").write_text(f"the\n{secret}\n")


def put_in_template(folder: Path, secret: str) -> None:
    (folder / BEST / "chat_template.jinja").write_text(f"{{# {secret} #}}")


PLACES = {
    "comparison.json": (put_in_command, put_in_source),
    f"{BEST}/result.json": (put_in_result,),
    "config.json": (put_in_config,),
    "tokenizer.json": (put_in_tokenizer,),
    "vocab.txt": (put_in_vocabulary,),
    "chat_template.jinja": (put_in_template,),
}


@pytest.mark.parametrize(("file", "put"), [(file, put) for file, puts in PLACES.items() for put in puts])
def test_a_file_that_holds_a_secret_is_refused_by_name_without_saying_it(
    folder: Path, hub: HubServer, refused: Push, file: str, put: object
) -> None:
    put(folder, TOKEN)  # type: ignore[operator]
    sentence = refused(folder, NAME)
    assert f"{file} holds what looks like a Hugging Face token, so nothing was pushed" in sentence
    assert TOKEN not in sentence and not hub.asked("^PUT|/commit/|/repos/create")


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        ("--hub_token abc12345", "a value of hub_token"),
        ('--tracker \'{"api_key": "abc"}\'', "a value of api_key"),
        ("https://alice:abc@host/data", "credentials in a URL"),
        ("WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567", "a key of 40 hexadecimal digits"),
        (WRITE_TOKEN, "a known secret"),
    ],
)
def test_every_kind_of_secret_in_an_old_command_is_refused(
    folder: Path, hub: HubServer, refused: Push, secret: str, kind: str
) -> None:
    put_in_command(folder, secret)
    for more in ((), ("--dry_run",), ("--repo_type", "dataset")):
        assert kind in refused(folder, NAME, *more)


def test_the_token_of_the_push_is_refused_whatever_it_looks_like(
    folder: Path, hub: HubServer, refused: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    put_in_command(folder, f"--x {WRITE_TOKEN}y")
    sentence = refused(folder, NAME, "--token", WRITE_TOKEN)
    assert "a known secret" in sentence and WRITE_TOKEN not in sentence


def test_a_message_that_holds_a_secret_is_refused(finished: Path, hub: HubServer, refused: Push) -> None:
    sentence = refused(finished, NAME, "--message", f"trained with {TOKEN}")
    assert "--message holds what looks like a Hugging Face token" in sentence and TOKEN not in sentence


def test_secrets_are_found_in_tables_and_in_the_metadata_of_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    pd.DataFrame({"arm": ["constant", TOKEN], "step": [1, 2]}).to_parquet(tmp_path / "results.parquet")
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"from": TOKEN})
    for name in ("results.parquet", "model.safetensors"):
        with pytest.raises(HubError, match=f"{name} holds what looks like a Hugging Face token"):
            publishable({name: tmp_path / name})
    with pytest.raises(HubError, match=r"results\.parquet holds"):
        publishable({"results.parquet": (tmp_path / "results.parquet").read_bytes()})


def test_words_of_a_vocabulary_and_of_program_text_are_no_secrets() -> None:
    files = {
        "tokenizer.json": b'{"vocab": {"password": 5, "_token": 6, "api_key": 7}}',
        "tokenizer_config.json": b'{"eos_token": "</s>", "image_token": "<image>", "mask_token": {"content": "[M]"}}',
        "report.html": b"<script>const token = parse(key); if (password === 'x1') { secret = api_key }</script>",
    }
    assert publishable(files) == files


# ---------------------------------------------------------------------------------------------------------------- paths


def test_absolute_paths_are_shortened_in_what_is_pushed_and_nowhere_else(folder: Path) -> None:
    home = str(Path.home())
    put_in_command(folder, f"--task {home}/data/cats --output_dir {folder} --other /data/dogs")
    put_in_config(folder, f"{home}/checkpoints/final")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    made = prepare_upload(folder, Repository(NAME))
    for path, content in made.files.items():
        if path.endswith((".json", ".md", ".yaml")):
            text = content.decode() if isinstance(content, bytes) else content.read_text()
            assert (shorten_paths(text), find_secrets(text)) == (text, []), path
            assert f"{home}/" not in text and str(folder) not in text, path
    assert b"--task cats" in made.files["comparison.json"]  # type: ignore[operator]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_classes_keep_their_names_even_if_these_look_like_paths(folder: Path) -> None:
    names = ["/m/0a", "/n/0a", "and/or", *map(str, range(7))]
    config = folder / "runs" / "critmom" / "seed-43" / "config.json"
    with edited(config) as content:
        content["id2label"], content["label2id"] = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        content["_name_or_path"] = "/home/jane doe/her models/final"
    with edited(folder / "comparison.json") as plan:
        plan["task"]["label_names"] = names
        plan["task"]["script"] = {"arguments": ["--train_file", "/home/jane doe/a.csv", "--x=/home/jane/b.csv", "c"]}
        plan["task"]["greater_is_better"] = True
    made = publishable({"config.json": config, "comparison.json": folder / "comparison.json"})
    published = {path: json.loads(content) for path, content in made.items() if isinstance(content, bytes)}
    assert list(published["config.json"]["id2label"].values()) == list(published["config.json"]["label2id"]) == names
    assert published["config.json"]["_name_or_path"] == "final"
    assert published["comparison.json"]["task"]["label_names"] == names
    assert published["comparison.json"]["task"]["script"]["arguments"] == ["--train_file", "a.csv", "--x=b.csv", "c"]


def test_where_the_data_lies_beside_a_comparison_is_not_published(folder: Path) -> None:
    with edited(folder / "comparison.json") as plan:
        plan["arguments"] = {"data": {"task": "../../home/alice/shapes", "block_size": 5}, "model": {"width": 2}}
    content = prepare_upload(folder, Repository(NAME)).files["comparison.json"]
    assert isinstance(content, bytes)
    assert json.loads(content)["arguments"] == {"data": {"task": "shapes", "block_size": 5}, "model": {"width": 2}}


# ------------------------------------------------------------------------------------------------- links, and strangers


def test_strangers_files_stay_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "system").write_text("root:x:0:0")
    strangers = (
        *("notes.txt", "notes.json", "README.txt", "secrets.yaml", "figures/mine.png", "figures/accuracy.svg.txt"),
        *("runs/mine/seed-42/result.json", "runs/critmom/seed-99/result.json", "runs/critmom/result.json"),
        *("runs/critmom/seed-43/sub/result.json", "runs/critmom/seed-43/notes.txt", "runs/critmom/seed-43/mine.json"),
        *("runs/critmom/seed-43/all_results.json", "runs/critmom/seed-43/trainer_state.json", "runs/result.json"),
        *("runs/critmom/seed-43/pytorch_model.bin", "runs/critmom/seed-43/other.safetensors", ".hidden.json"),
        *("runs/critmom/seed-43/modeling_mine.py", "runs/critmom/seed-43/model.safetensors.bak", "result.json"),
        *("runs/critmom/seed-43/checkpoint-5/config.json", "runs/critmom/seed-43/runs/events.out.tfevents.1"),
    )
    before = prepare_upload(folder, Repository(NAME)).files.keys()
    for name in strangers:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / BEST / "result.json", folder / name)
    for name in ("passwd.txt", "passwd.json", f"{BEST}/passwd.txt", f"{BEST}/passwd.json", "figures/passwd.png"):
        (folder / name).symlink_to(tmp_path / "system")
    made = prepare_upload(folder, Repository(NAME)).files
    assert made.keys() == before == MODEL | results_in_report(folder)


def results_in_report(folder: Path) -> set[str]:
    """What `results_in` says, without figures that the report did not draw."""
    return results_in(folder) - {"figures/mine.png", "figures/accuracy.svg.txt", "figures/passwd.png"}


LINKED_FILES = (
    "comparison.json",
    "runs/constant/seed-42/result.json",
    f"{BEST}/config.json",
    f"{BEST}/model.safetensors",
    f"{BEST}/preprocessor_config.json",
    f"{BEST}/vocab.txt",
)


@pytest.mark.parametrize("name", LINKED_FILES)
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_in_the_place_of_a_file_is_refused_by_name(
    folder: Path, tmp_path: Path, name: str, relative: bool
) -> None:
    target = tmp_path / "target"
    if (folder / name).exists():
        (folder / name).rename(target)
    else:
        target.write_text("root:x:0:0")
    (folder / name).symlink_to(os.path.relpath(target, (folder / name).parent) if relative else target)
    with pytest.raises(HubError, match=f"{folder / name} is a link, which a push does not follow"):
        prepare_upload(folder, Repository(NAME))


@pytest.mark.parametrize("name", ["runs", "runs/constant", "runs/constant/seed-42", "runs/critmom/seed-43"])
def test_a_folder_that_is_a_link_is_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "target")
    (folder / name).symlink_to(tmp_path / "target")
    with pytest.raises(HubError, match=f"{folder / name} is a link, which a push does not follow"):
        prepare_upload(folder, Repository(NAME))


def test_a_comparison_that_is_itself_reached_by_a_link_is_pushed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    made, linked = (prepare_upload(path, Repository(NAME)) for path in (folder, tmp_path / "link"))
    assert made.files.keys() == linked.files.keys()


@pytest.mark.parametrize("arm", ["../../elsewhere", "{elsewhere}", "../critmom", "critmom/../../../x"])
def test_arms_of_an_edited_plan_do_not_lead_out_of_the_folder(
    folder: Path, tmp_path: Path, refused: Push, machine: None, arm: str
) -> None:
    name = arm.format(elsewhere=tmp_path / "elsewhere")
    shutil.copytree(folder / "runs" / "critmom", folder / "runs" / name, dirs_exist_ok=True)
    with edited(folder / "comparison.json") as plan:
        plan["arms"][name] = plan["arms"]["critmom"]
    refused(folder, NAME, "--dry_run")


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / BEST / "config.json").unlink()
    (folder / BEST / "config.json").mkdir()
    with pytest.raises(HubError, match=r"config\.json is not a regular file"):
        prepare_upload(folder, Repository(NAME))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_sentence(folder: Path) -> None:
    (folder / BEST / "model.safetensors").chmod(0)
    with pytest.raises(HubError, match=r"model\.safetensors cannot be read"):
        prepare_upload(folder, Repository(NAME))


def test_damaged_weights_are_not_published(folder: Path) -> None:
    (folder / BEST / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(HubError, match="has no readable weights"):
        prepare_upload(folder, Repository(NAME))


def test_drift_of_planned_runs_is_pushed_with_the_card_that_shows_it(folder: Path) -> None:
    for run in ("constant/seed-42", "constant/seed-43", "critmom/seed-42", "critmom/seed-43"):
        accuracy = {"clean": [0.5], "contrast": [0.4, 0.3, 0.2, 0.1, 0.1]}
        (folder / "runs" / run / "drift.json").write_text(json.dumps({"examples": 64, "accuracy": accuracy}))
    made = prepare_upload(folder, Repository(NAME))
    assert "runs/critmom/seed-43/drift.json" in made.files and "figures/drift.png" in made.files
    assert b"64 corrupted test images" in made.files["README.md"]  # type: ignore[operator]


def test_the_machine_that_made_a_run_is_not_published() -> None:
    result = {"arm": "critmom", "load": {"mean": 1.0, "node": "gpu-7.internal", "device": "cpu"}}
    (text,) = publishable({"runs/critmom/seed-0/result.json": json.dumps(result).encode()}).values()
    assert isinstance(text, bytes)
    assert json.loads(text) == {"arm": "critmom", "load": {"mean": 1.0, "node": None, "device": "cpu"}}
