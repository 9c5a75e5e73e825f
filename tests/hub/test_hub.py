"""Claims about pushing, made with the real huggingface_hub against a Hub on the loopback interface."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers import hub_server
from helpers.hub_server import WRITE_TOKEN, HubServer
from helpers.pushing import COMMITTED, MODEL, NAME, RECORDS, SEEDS, Push, card_of, edited, results_in
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries
from PIL import Image

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import ComparisonError
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.hub import (
    RETRY_WAITS,
    HubError,
    Repository,
    Upload,
    choose_run,
    finished_runs,
    prepare_upload,
    push_upload,
    sign_in,
)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def without_section(text: str, title: str) -> tuple[str, str]:
    """A card's text without one of its sections, and that section."""
    start = text.index(f"## {title}\n")
    end = text.index("\n## ", start) + 1
    return text[:start] + text[end:], text[start:end]


# --------------------------------------------------------------------------------------------------------- what arrives

PUSH_AND_LOAD = """
import json, sys
import torch
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification
from hf_critmom.commands import main

folder, name, run = sys.argv[1:]
assert main(["push", folder, name]) == 0
assert main(["push", folder, name, "--repo_type", "dataset"]) == 0
pictures = torch.linspace(-1.0, 1.0, 2 * 64).reshape(2, 1, 8, 8)
logits = [AutoModelForImageClassification.from_pretrained(source).eval()(pictures).logits for source in (name, run)]
assert torch.equal(*logits)
assert AutoImageProcessor.from_pretrained(name).to_dict() == AutoImageProcessor.from_pretrained(run).to_dict()
load_dataset(name, split="train").to_pandas().to_parquet(f"{folder}/loaded.parquet")
"""


@pytest.mark.slow
def test_what_was_pushed_loads_by_its_name(folder: Path, tmp_path: Path) -> None:
    best = folder / "runs" / "critmom" / "seed-43"
    stored = pd.read_parquet(folder / "results.parquet")
    for name in ("results.parquet", "README.md"):  # both are made anew, elsewhere
        (folder / name).unlink()
    with HubServer() as server:
        of_a_user = {"HF_ENDPOINT": server.url, "HF_TOKEN": WRITE_TOKEN, "HF_HOME": str(tmp_path / "home")}
        settings = {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PUSH_AND_LOAD, str(folder), NAME, str(best)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **of_a_user, **settings},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "loaded.parquet"), stored)
    assert not (folder / "results.parquet").exists() and not (folder / "README.md").exists()


def test_a_model_repository_gets_report_results_and_one_model_in_one_commit(
    finished: Path, hub: HubServer, push: Push
) -> None:
    printed = push(finished, NAME)
    repository = hub.repositories["model", NAME]
    files = repository.files()
    assert files.keys() - {".gitattributes"} == results_in(finished) | MODEL
    assert len(repository.messages()) == 2 and not repository.private
    best = finished / "runs" / "critmom" / "seed-43"
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert files[name] == (best / name).read_bytes()
    assert files["comparison.json"] == (finished / "comparison.json").read_bytes()
    for name in RECORDS:  # without the name of the machine
        record = json.loads((finished / name).read_text())
        assert json.loads(files[name]) == {**record, "load": {**record["load"], "node": None}}
    assert files["model.safetensors"] in hub.large_files.values()
    assert "critmom, seed 43, the best of 4 finished runs by final validation accuracy, 0.4000" in printed
    assert f"{hub.url}/{NAME}/commit/" in printed


def test_a_data_set_repository_gets_report_and_results_without_a_model(
    finished: Path, hub: HubServer, push: Push
) -> None:
    push(finished, NAME, "--repo_type", "dataset")
    files = hub.repositories["dataset", NAME].files()
    assert files.keys() - {".gitattributes"} == results_in(finished)
    card = DatasetCard(card_of(files))
    (config,) = card.data["configs"]
    assert config["data_files"] == [{"split": "train", "path": "results.parquet"}]
    assert card.data["task_categories"] == ["image-classification"] and "model-index" not in card.data
    text, section = without_section(card.text, "The data")
    assert text == ModelCard.load(finished / "README.md").text
    assert f'load_dataset("{NAME}", split="train")' in section


def test_the_card_is_the_report_and_says_which_model_it_is(finished: Path, upload: Upload) -> None:
    card, report = ModelCard(card_of(upload.files)), ModelCard.load(finished / "README.md")
    assert card.data.to_dict() == report.data.to_dict() and card.data.eval_results
    text, section = without_section(card.text, "The model in this repository")
    assert text == report.text
    assert "critmom, seed 43, the best of 4 finished runs" in section and "0.4000" in section
    assert f'AutoModelForImageClassification.from_pretrained("{NAME}")' in section
    for figure in re.findall(r"\]\((figures/[^)]+)\)", card.text):
        assert Image.open(io.BytesIO(upload.files[figure])).format == "PNG"


def test_the_test_result_stands_in_the_hubs_own_format(upload: Upload) -> None:
    content = yaml.safe_load(upload.files[".eval_results/digits.yaml"])  # type: ignore[arg-type]
    (entry,) = parse_eval_result_entries(content)
    assert (entry.dataset_id, entry.task_id, entry.value) == ("digits", "default", 0.4)
    assert "test split" in entry.notes and "critmom, seed 43" in entry.notes
    assert entry.source_url.endswith(f"/{NAME}/blob/main/runs/critmom/seed-43/result.json")
    assert any("not from the Hub" in note and "--dataset_id" in note for note in upload.notes)


@pytest.mark.parametrize(
    ("source", "given", "expected"),
    [
        ("uoft-cs/cifar10", None, "uoft-cs/cifar10"),
        ("local folder cifar10", None, "digits"),
        ("local folder cifar10", "uoft-cs/cifar10", "uoft-cs/cifar10"),
    ],
)
def test_a_test_result_names_the_data_set_of_the_hub(
    folder: Path, source: str, given: str | None, expected: str
) -> None:
    with edited(folder / "comparison.json") as plan:
        plan["task"]["source"] = source
    made = prepare_upload(folder, Repository(NAME), dataset_id=given)
    (entry,) = yaml.safe_load(made.files[".eval_results/digits.yaml"])  # type: ignore[arg-type]
    assert entry["dataset"] == {"id": expected, "task_id": "default"}
    assert any("not from the Hub" in note for note in made.notes) == (expected == "digits")


def test_a_push_only_reads_the_folder(finished: Path, hub: HubServer, push: Push) -> None:
    before = snapshot(finished)
    push(finished, NAME)
    assert snapshot(finished) == before


def test_nothing_but_results_and_model_leaves_the_machine(folder: Path) -> None:
    best = folder / "runs" / "critmom" / "seed-43"
    assert (best / "training_args.bin").exists()
    for name in (
        *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "pytorch_model.bin"),
        *(
            ".result.json.1.partial",
            "events.out.tfevents",
            "checkpoint-9/model.safetensors",
            "checkpoint-9/config.json",
        ),
    ):
        (best / name).parent.mkdir(exist_ok=True)
        (best / name).write_text("{}")
    (folder / ".locks").mkdir(exist_ok=True)
    (folder / ".locks" / "plan.lock").touch()
    (folder / "notes.txt").write_text("private")
    assert prepare_upload(folder, Repository(NAME)).files.keys() == results_in(folder) | MODEL


def test_a_tokenizer_goes_with_its_model(folder: Path) -> None:
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "spiece.model"}
    for name in names:
        (folder / "runs" / "critmom" / "seed-43" / name).write_text("{}")
    assert prepare_upload(folder, Repository(NAME)).files.keys() == results_in(folder) | MODEL | names


@pytest.mark.parametrize("stored", [{}, {"checkpoint_sha256": "0" * 64}])
def test_the_card_of_a_fine_tuned_checkpoint_states_its_origin_and_no_license(
    folder: Path, upload: Upload, stored: dict[str, str]
) -> None:
    assert ModelCard(card_of(upload.files)).data.license == "apache-2.0"
    with edited(folder / "comparison.json") as plan:
        plan["model"] = {"model_name_or_path": "google/vit-base-patch16-224", "dtype": "float32", **stored}
    made = prepare_upload(folder, Repository(NAME))
    data = ModelCard(card_of(made.files)).data
    assert data.license is None and any("no license" in note for note in made.notes)
    assert data.base_model == (None if stored else "google/vit-base-patch16-224")


# ---------------------------------------------------------------------------------------------------------- which model


def chosen(folder: Path, **given: Any) -> str | None:
    plan = Plan.read(folder)
    run = choose_run(plan, finished_runs(folder, plan), **given)
    return None if run is None else str(run)


def test_the_model_is_chosen_by_validation_and_never_by_the_test_split(finished: Path) -> None:
    assert chosen(finished) == "critmom, seed 43"  # constant, seed 42 is the best on the test split
    assert chosen(finished, arm="constant") == "constant, seed 42"
    assert chosen(finished, seed=42) == "constant, seed 42"
    assert chosen(finished, arm="critmom", seed=42) == "critmom, seed 42"


def test_a_diverged_run_is_never_chosen(folder: Path) -> None:
    for seed in SEEDS:
        with edited(folder / "runs" / "critmom" / f"seed-{seed}" / "result.json") as result:
            result["status"] = "diverged"
    assert chosen(folder) == "constant, seed 42"
    with pytest.raises(HubError, match="No run of arm critmom finished without diverging"):
        chosen(folder, arm="critmom")
    for seed in SEEDS:
        with edited(folder / "runs" / "constant" / f"seed-{seed}" / "result.json") as result:
            result["status"] = "diverged"
    assert chosen(folder) is None
    made = prepare_upload(folder, Repository(NAME))
    assert made.files.keys() == results_in(folder) and "every run diverged" in card_of(made.files)


def test_arm_and_seed_name_the_model(finished: Path, hub: HubServer, push: Push) -> None:
    printed = push(finished, NAME, "--arm", "critmom", "--seed", "42")
    files = hub.repositories["model", NAME].files()
    assert files["model.safetensors"] == (finished / "runs/critmom/seed-42/model.safetensors").read_bytes()
    assert "critmom, seed 42, the only finished run of arm critmom and seed 42" in printed


def test_results_whose_weights_were_not_kept_are_pushed_without_a_model(hub: HubServer, push: Push) -> None:
    printed = push(COMMITTED, NAME)
    files = hub.repositories["model", NAME].files()
    assert "No model: the weights of " in printed and "were not kept" in printed
    results = {path.relative_to(COMMITTED).as_posix() for path in COMMITTED.glob("runs/*/*/result.json")}
    assert "model.safetensors" not in files and {path for path in files if path.startswith("runs/")} == results
    card = ModelCard(card_of(files))
    assert "There is none, only results: the weights of " in card.text
    arms = {Path(path).parts[1] for path in results}
    assert card.data.get("library_name") is None and len(card.data.eval_results) == len(arms)


def test_missing_weights_are_not_replaced_in_silence(folder: Path) -> None:
    (folder / "runs" / "critmom" / "seed-43" / "model.safetensors").unlink()
    made = prepare_upload(folder, Repository(NAME))
    assert made.files.keys() == results_in(folder) | {".eval_results/digits.yaml"}
    assert "--arm and --seed choose another, such as constant, seed 42" in made.notes[0]
    with pytest.raises(HubError, match="holds no model"):
        prepare_upload(folder, Repository(NAME), arm="critmom", seed=43)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--arm", "adagrad"), "has no arm adagrad: choose --arm among constant, critmom"),
        (("--seed", "7"), "has no seed 7: choose --seed among 42, 43"),
        (("--repo_type", "dataset", "--arm", "constant"), "--arm is about the model"),
        (("--repo_type", "space", "--seed", "42"), "--seed is about the model, and a Space repository has none"),
        (("--repo_type", "bucket"), "invalid choice: 'bucket'"),
        (("--dataset_id", "my data"), "'my data' cannot name a dataset of the Hub"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(
    finished: Path, refused: Push, given: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refused(finished, NAME, "--dry_run", *given)


# ----------------------------------------------------------------------------------------------- unfinished, or nothing


def test_an_unfinished_comparison_says_so_in_its_card(folder: Path, hub: HubServer, push: Push) -> None:
    (folder / "runs" / "critmom" / "seed-43" / "result.json").unlink()
    printed = push(folder, NAME)
    assert "Unfinished: 3 of 4 runs" in printed
    repository = hub.repositories["model", NAME]
    assert "**Unfinished: 3 of 4 runs.**" in card_of(repository.files())
    assert "**Unfinished" not in (folder / "README.md").read_text()  # as it was left
    assert repository.messages()[-1] == "Comparison of constant, critmom on digits, 3 of 4 runs"


def test_without_a_finished_run_there_is_nothing_to_push(folder: Path) -> None:
    for record in RECORDS:
        (folder / record).unlink()
    with pytest.raises(ComparisonError, match=f"No run of the comparison in {re.escape(str(folder))} has finished"):
        prepare_upload(folder, Repository(NAME))


def test_a_folder_that_holds_no_comparison_is_refused(tmp_path: Path, machine: None, refused: Push) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert f"{folder} holds no comparison" in refused(folder, NAME)


# -------------------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_dry_run_lists_exactly_what_a_push_brings_without_network_or_token(
    finished: Path, hub: HubServer, push: Push, monkeypatch: pytest.MonkeyPatch, repo_type: str
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    printed = push(finished, NAME, "--dry_run", "--repo_type", repo_type)
    assert hub.requests == [] and hub.repositories == {}
    listed = {path: int(size.replace(",", "")) for size, path in re.findall(r"^ +([\d,]+)  (\S+)$", printed, re.M)}
    push(finished, NAME, "--repo_type", repo_type, "--token", WRITE_TOKEN)
    files = hub.repositories[repo_type, NAME].files()
    assert listed == {path: len(content) for path, content in files.items() if path != ".gitattributes"}


# ---------------------------------------------------------------------------------------------- repositories that exist


def test_a_push_repeated_uploads_and_commits_nothing(finished: Path, hub: HubServer, push: Push) -> None:
    assert "Pushed: " in push(finished, NAME)
    before = hub.repositories["model", NAME].messages()
    hub.requests.clear()
    printed = push(finished, NAME)
    assert "Nothing to push" in printed and "Pushed" not in printed
    assert hub.repositories["model", NAME].messages() == before
    assert not hub.asked("^PUT|/commit/|/repos/create")


def test_a_push_to_a_repository_that_exists_is_a_commit_on_top(
    folder: Path, hub: HubServer, push: Push, upload: Upload
) -> None:
    push_upload(sign_in(), Upload(Repository(NAME), {"extra.md": b"kept", "README.md": b"old"}, "before"))
    push(folder, NAME, "--message", "On top")
    repository = hub.repositories["model", NAME]
    assert repository.messages() == ["initial commit", "before", "On top"]
    assert repository.files()["extra.md"] == b"kept" and b"\n## " in repository.files()["README.md"]


@pytest.mark.parametrize("card", [b"---\nlicense: mit\n---\n# BERT, trained for three weeks\n", None])
def test_the_model_of_something_else_is_not_replaced(
    finished: Path, hub: HubServer, push: Push, refused: Push, card: bytes | None
) -> None:
    others = {"config.json": b"{}", "model.safetensors": b"weights", **({"README.md": card} if card else {})}
    push_upload(sign_in(), Upload(Repository(NAME), others, "before"))
    before = hub.repositories["model", NAME].files()
    sentence = refused(finished, NAME)
    assert "holds config.json, model.safetensors of something else" in sentence and "--revision" in sentence
    assert hub.repositories["model", NAME].files() == before
    for _ in range(2):  # a branch of its own, to which the second push is one of the same comparison
        push(finished, NAME, "--revision", "momentum")
    assert hub.repositories["model", NAME].files() == before


def test_only_what_has_changed_is_uploaded(upload: Upload, hub: HubServer) -> None:
    push_upload(sign_in(), upload)
    hub.requests.clear()
    changed = Upload(upload.repository, {**upload.files, "model.safetensors": b"other weights"}, "again")
    assert push_upload(sign_in(), changed).changed
    assert len(hub.asked("^PUT")) == 1


def test_private_makes_a_private_repository(hub: HubServer, upload: Upload) -> None:
    for _ in range(2):  # pushed again, it still is
        push_upload(sign_in(), upload, private=True)
    assert hub.repositories["model", NAME].private


def test_private_never_publishes_in_a_repository_that_is_public(
    finished: Path, hub: HubServer, upload: Upload, refused: Push
) -> None:
    push_upload(sign_in(), Upload(Repository(NAME), {"README.md": b"public"}, "before"))
    assert f"{NAME} exists and is public" in refused(finished, NAME, "--private")
    assert hub.repositories["model", NAME].messages()[-1] == "before"


def test_a_name_that_another_type_of_repository_has_taken_is_refused(
    finished: Path, hub: HubServer, push: Push, refused: Push, upload: Upload
) -> None:
    push(finished, NAME, "--repo_type", "dataset")
    push_upload(sign_in(), upload)  # on the Hub, types do not share names
    del hub.repositories["model", NAME]
    hub.names_are_shared_by_types = True
    assert f"{NAME} is a dataset repository: give --repo_type dataset" in refused(finished, NAME)


def test_a_revision_is_a_branch_of_its_own(finished: Path, hub: HubServer, push: Push) -> None:
    for expected in ("Pushed: ", "Nothing to push"):
        assert expected in push(finished, NAME, "--revision", "trial")
    repository = hub.repositories["model", NAME]
    assert repository.messages() == ["initial commit"] and len(repository.messages("trial")) == 2
    assert f'from_pretrained("{NAME}", revision="trial")' in card_of(repository.files("trial"))


def test_a_name_without_a_namespace_is_the_users(finished: Path, hub: HubServer, push: Push) -> None:
    push(finished, "digits", "--repo_type", "dataset")
    assert f'load_dataset("{NAME}"' in card_of(hub.repositories["dataset", NAME].files())


def test_weights_from_before_that_a_push_does_not_replace_are_named(hub: HubServer, upload: Upload) -> None:
    push_upload(sign_in(), upload)
    without = {path: content for path, content in upload.files.items() if path not in MODEL}
    pushed = push_upload(sign_in(), Upload(upload.repository, {**without, "new.md": b"new"}, "without a model"))
    assert pushed.notes == [
        f"{NAME} also holds model.safetensors, which is not part of this push: delete it if nobody needs it."
    ]


# ----------------------------------------------------------------------------------------------------- a Hub in trouble


def commits(hub: HubServer) -> int:
    """Commits beside the initial one."""
    return len(hub.repositories["model", NAME].messages()) - 1


@pytest.mark.parametrize("status", [500, 503, 412, 429, None])
def test_a_commit_that_fails_for_a_moment_is_tried_again(
    hub: HubServer, upload: Upload, waits: list[float], status: int | None
) -> None:
    hub.fail("POST", "/commit/", status, "Maintenance", times=2)
    assert push_upload(sign_in(), upload).changed
    assert (waits, commits(hub)) == (list(RETRY_WAITS[:2]), 1)
    assert upload.files.keys() <= hub.repositories["model", NAME].files().keys()


@pytest.mark.parametrize("status", [503, None])
def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    hub: HubServer, upload: Upload, waits: list[float], status: int | None
) -> None:
    hub.fail("POST", "/commit/", status, after=True)
    pushed = push_upload(sign_in(), upload)
    assert pushed.changed and commits(hub) == 1
    assert pushed.url.endswith(hub.repositories["model", NAME].branches["main"][-1].oid)


def test_a_commit_that_is_never_taken_leaves_the_repository_as_it_was_and_repeating_continues(
    finished: Path, hub: HubServer, push: Push, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail("POST", "/commit/", 503, "Maintenance", times=1 + len(RETRY_WAITS))
    assert main(("push", str(finished), NAME)) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "did not take the push (503 Maintenance): repeat the command later" in sentence
    assert waits == list(RETRY_WAITS) and commits(hub) == 0
    hub.requests.clear()
    assert "Pushed: " in push(finished, NAME)
    assert commits(hub) == 1 and not hub.asked("^PUT")


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(403, "may not write to"), (404, "has no place for"), (413, "refuses the push to"), (400, "refuses the push to")],
)
def test_a_refused_commit_is_not_repeated(
    hub: HubServer, upload: Upload, waits: list[float], status: int, sentence: str
) -> None:
    hub.fail("POST", "/commit/", status, "Storage limit reached")
    with pytest.raises(HubError, match=rf"{sentence} .* \({status} Storage limit reached\)"):
        push_upload(sign_in(), upload)
    assert waits == [] and commits(hub) == 0


def test_an_upload_that_is_dropped_half_way_once_goes_through(
    hub: HubServer, upload: Upload, waits: list[float]
) -> None:
    hub.fail("PUT", "/storage/", None)
    assert push_upload(sign_in(), upload).changed
    assert upload.files.keys() <= hub.repositories["model", NAME].files().keys()


@pytest.mark.parametrize("status", [503, None])
def test_an_upload_that_fails_half_way_commits_nothing_and_repeating_uploads_what_is_missing(
    hub: HubServer, upload: Upload, waits: list[float], status: int | None
) -> None:
    weights = upload.files["model.safetensors"]
    assert isinstance(weights, Path)
    missing = hub_server.Stored(weights.read_bytes(), lfs=True).sha256
    hub.fail("PUT", missing, status, "Slow down", times=100)
    with pytest.raises(HubError, match="repeat the command later, which uploads only what is missing"):
        push_upload(sign_in(), upload)
    assert commits(hub) == 0
    hub.faults.clear()
    hub.requests.clear()
    assert push_upload(sign_in(), upload).changed
    assert commits(hub) == 1 and f"PUT /storage/{missing}" in hub.asked("^PUT")


@pytest.mark.parametrize("path", ["/repos/create", "/validate-yaml", "GET /api/models", "/whoami"])
def test_whatever_else_fails_is_a_sentence(hub: HubServer, upload: Upload, waits: list[float], path: str) -> None:
    method, _, pattern = path.rpartition(" ")
    hub.fail(method or ("GET" if "whoami" in path else "POST"), pattern, 502, "Bad gateway", times=100)
    with pytest.raises(HubError, match=r"did not take the push \(502 Bad gateway\)"):
        push_upload(sign_in(), upload)
