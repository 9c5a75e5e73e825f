"""Claims about Spaces, trackers' tags and JSON for programs."""

import json
from pathlib import Path

import pytest
import yaml
from helpers.hub_server import HubServer
from helpers.pushing import NAME, Push, card_of, edited
from huggingface_hub import ModelCard, SpaceCard

from hf_critmom.hub import Repository, Upload, prepare_upload, push_upload, sign_in

PAGE = b"<!doctype html><html lang=en><title>Report</title><p>constant, critmom</p></html>"
SPACE = ("--repo_type", "space")


@pytest.fixture
def with_page(folder: Path) -> Path:
    """A comparison that has its page."""
    if not (folder / "report.html").exists():
        (folder / "report.html").write_bytes(PAGE)
    return folder


def test_a_space_is_static_and_shows_the_page(with_page: Path, hub: HubServer, push: Push) -> None:
    printed = push(with_page, NAME, *SPACE)
    space = hub.repositories["space", NAME]
    assert space.sdk == "static" and ("model", NAME) not in hub.repositories
    files = space.files()
    assert files.keys() - {".gitattributes"} == {"README.md", "index.html"}
    assert b"<html" in files["index.html"] and b"critmom" in files["index.html"]
    assert f"{hub.url}/spaces/{NAME}/commit/" in printed
    assert "Nothing to push" in push(with_page, NAME, *SPACE)


def test_the_card_of_a_space_is_valid(with_page: Path) -> None:
    card = prepare_upload(with_page, Repository(NAME, "space")).files["README.md"]
    assert isinstance(card, bytes)
    data = SpaceCard(card.decode()).data
    assert (data.sdk, data.app_file, data.license) == ("static", "index.html", "apache-2.0")
    assert len(data.get("short_description")) <= 60 and "hf-critmom" in data.tags
    assert "digits" in data.title


def test_long_and_foreign_names_keep_a_spaces_card_valid(with_page: Path) -> None:
    with edited(with_page / "comparison.json") as plan:
        plan["task"]["name"] = "a: very 'long' \"name\" <script>alert(1)</script> # " + 20 * "and longer "
    card = prepare_upload(with_page, Repository(NAME, "space")).files["README.md"]
    assert isinstance(card, bytes)
    front = yaml.safe_load(card.decode().split("---")[1])
    assert len(front["short_description"]) <= 60 and "<script>" not in card.decode().split("---", 2)[2]


def test_without_a_page_there_is_no_space(
    folder: Path, hub: HubServer, refused: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_critmom.hub.files.PAGE_FILE", "none.html")
    monkeypatch.setattr("hf_critmom.hub.upload.PAGE_FILE", "none.html")
    assert f"has no none.html, which is what a Space shows: write it with hf-critmom report {folder}" in refused(
        folder, NAME, *SPACE
    )
    assert ("space", NAME) not in hub.repositories


def test_a_page_that_is_a_link_is_refused(folder: Path, tmp_path: Path, hub: HubServer) -> None:
    from hf_critmom.hub import HubError
    from hf_critmom.hub.files import regular_file

    (tmp_path / "page.html").write_bytes(PAGE)
    (folder / "report.html").unlink(missing_ok=True)
    (folder / "report.html").symlink_to(tmp_path / "page.html")
    with pytest.raises(HubError, match=r"report\.html is a link"):
        regular_file(folder, Path("report.html"))


@pytest.mark.parametrize("order", [("space", "model"), pytest.param(("model", "space"), marks=pytest.mark.slow)])
def test_the_model_card_links_to_the_space_in_whatever_order_they_are_pushed(
    with_page: Path, hub: HubServer, push: Push, order: tuple[str, str]
) -> None:
    for repo_type in order:
        printed = push(with_page, NAME, "--repo_type", repo_type)
    card = card_of(hub.repositories["model", NAME].files())
    link = f"[{NAME}]({hub.url}/spaces/{NAME})"
    assert card.count(link) == 1 and card.index(link) < card.index("\n## ")
    assert ModelCard(card).data.eval_results
    if order[-1] == "space":
        assert "links here" in printed
        assert hub.repositories["model", NAME].messages()[-1] == "Link to the Space"
        assert NAME in yaml.safe_load(card_of(hub.repositories["space", NAME].files()).split("---")[1])["models"]
    for repo_type in ("model", "space"):  # both know each other now, and nothing changes any more
        push(with_page, NAME, "--repo_type", repo_type)
    for repo_type in ("model", "space"):
        assert "Nothing to push" in push(with_page, NAME, "--repo_type", repo_type)


def test_without_a_space_no_card_links_to_one(upload: Upload) -> None:
    assert "/spaces/" not in card_of(upload.files)


def test_a_model_that_is_not_of_this_program_is_left_as_it_is(with_page: Path, hub: HubServer, push: Push) -> None:
    push_upload(sign_in(), Upload(Repository(NAME), {"README.md": b"# mine\n"}, "before"))
    printed = push(with_page, NAME, *SPACE)
    assert "is not from hf-critmom, and was left unchanged" in printed
    assert hub.repositories["model", NAME].files()["README.md"] == b"# mine\n"


def test_a_link_that_cannot_be_set_is_said_and_the_space_is_there(with_page: Path, hub: HubServer, push: Push) -> None:
    push(with_page, NAME)
    hub.fail("POST", f"/api/models/{NAME}/commit/", 403, "Not here", times=9)
    assert "could not be linked here" in push(with_page, NAME, *SPACE)
    assert "index.html" in hub.repositories["space", NAME].files()


# ------------------------------------------------------------------------------------------------------------- trackers

TRACKIO = "trackio:https://huggingface.co/spaces/tester/trackio"


def trainer_card(*tags: str) -> str:
    return "---\ntags:\n" + "".join(f"- {tag}\n" for tag in ("generated_from_trainer", *tags)) + "---\n\n# run\n"


@pytest.mark.parametrize("run", ["critmom/seed-43", "constant/seed-42"])
def test_the_tag_that_shows_training_metrics_is_kept(folder: Path, run: str) -> None:
    (folder / "runs" / run / "README.md").write_text(trainer_card("trackio", TRACKIO))
    made = prepare_upload(folder, Repository(NAME))
    tags = ModelCard(card_of(made.files)).data.tags
    assert tags.count("trackio") == tags.count(TRACKIO) == 1
    assert "hf-critmom" in tags and "generated_from_trainer" not in tags
    with_metrics = set(tags) - set(ModelCard.load(folder / "README.md").data.tags)
    assert with_metrics == {"trackio", TRACKIO}


def test_a_tag_in_the_comparisons_own_card_is_kept(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("tags:\n", f"tags:\n- '{TRACKIO}'\n", 1))
    assert TRACKIO in ModelCard(card_of(prepare_upload(folder, Repository(NAME)).files)).data.tags


@pytest.mark.parametrize(
    "card",
    [
        "no metadata\n- trackio\n",
        "---\n{[:\n---\n",
        trainer_card("trackio:javascript:alert(1)", "trackio:https://a:b@host", "trackio x", "mytrackio"),
        "\xff",
    ],
)
def test_a_card_that_somebody_else_wrote_changes_no_tags(folder: Path, card: str) -> None:
    (folder / "runs" / "critmom" / "seed-43" / "README.md").write_bytes(card.encode("latin-1"))
    tags = ModelCard(card_of(prepare_upload(folder, Repository(NAME)).files)).data.tags
    assert tags == ModelCard.load(folder / "README.md").data.tags


# ----------------------------------------------------------------------------------------------------------------- JSON


def test_json_is_all_that_is_printed_and_says_what_was_pushed(finished: Path, hub: HubServer, push: Push) -> None:
    dry = json.loads(push(finished, NAME, "--dry_run", "--json"))
    first = json.loads(push(finished, NAME, "--json"))
    again = json.loads(push(finished, NAME, "--json"))
    files = hub.repositories["model", NAME].files()
    assert {one["path"]: one["bytes"] for one in first["files"]} == {
        path: len(content) for path, content in files.items() if path != ".gitattributes"
    }
    assert (dry["dry_run"], dry["changed"], dry["commit_url"]) == (True, None, None)
    assert (first["dry_run"], first["changed"], again["changed"]) == (False, True, False)
    assert first["commit_url"] == again["commit_url"] and first["commit_url"].startswith(first["url"])
    assert first["url"] == f"{hub.url}/{NAME}" and first["repo_id"] == NAME and first["repo_type"] == "model"
    assert dry["files"] == first["files"] and any("critmom, seed 43" in note for note in first["notes"])
    assert first["message"] == hub.repositories["model", NAME].messages()[-1]


def test_json_does_not_change_how_errors_are_said(finished: Path, hub: HubServer, refused: Push) -> None:
    assert "does not accept the token" in refused(finished, NAME, "--json", "--token", "hf_wrong")
