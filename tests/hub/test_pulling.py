"""Claims about pulling: a comparison in a repository is merged like one in a folder, and faults are sentences."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.hub_server import USER, HubServer
from helpers.launches import outcome
from helpers.pushing import Push
from huggingface_hub import HfApi, constants

from hf_critmom.commands import main
from hf_critmom.experiments.comparison.plan import Plan


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The sentence that a merge is answered with, which writes nothing."""

    def run(*sources: object) -> str:
        capsys.readouterr()
        assert main(("merge", *map(str, sources), "--output_dir", str(tmp_path / "merged"))) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hf-critmom merge: error: ") and line.endswith(".")
        assert not (tmp_path / "merged").exists()
        return line

    return run


def test_shares_are_merged_from_repositories(
    hub: HubServer, folder: Path, tmp_path: Path, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that push brought, and one that was uploaded as it is, with its models."""
    shares = {seed: shutil.copytree(folder, tmp_path / f"share-{seed}") for seed in (42, 43)}
    for seed, share in shares.items():
        for run in share.glob("runs/*/*"):
            if run.name != f"seed-{seed}":
                shutil.rmtree(run)
        plan = json.loads((share / "comparison.json").read_text())
        plan["seeds"] = plan["history"][0]["seeds"] = [seed]
        (share / "comparison.json").write_text(json.dumps(plan))
    push(shares[42], f"{USER}/share-42", "--repo_type", "dataset")
    api = HfApi()
    api.create_repo(f"{USER}/share-43", repo_type="dataset", private=True)
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_DISABLE_XET", True)
        api.upload_folder(repo_id=f"{USER}/share-43", repo_type="dataset", folder_path=shares[43])
    sources = [f"hf://datasets/{USER}/share-{seed}" for seed in shares]
    assert main(("merge", *sources, "--output_dir", str(tmp_path / "merged"))) == 0
    merged, whole = outcome(tmp_path / "merged"), outcome(folder)
    assert {path: content for path, content in whole.items() if path in merged} == merged
    assert {path for path in whole if "seed-42" not in path or path.endswith(".json")} == merged.keys()
    assert Plan.read(tmp_path / "merged").seeds == (42, 43)
    assert not list((tmp_path / "merged").glob("runs/**/training_args.bin"))
    asked = len(hub.requests)
    assert main(("merge", f"{sources[0]}@main", str(shares[43]), "--output_dir", str(tmp_path / "merged"))) == 0
    assert len(hub.requests) > asked and outcome(tmp_path / "merged") == merged


def test_what_cannot_be_pulled_is_a_sentence(
    hub: HubServer, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    HfApi().create_repo(f"{USER}/empty", repo_type="dataset")
    empty = f"hf://datasets/{USER}/empty"
    assert "holds no comparison: expected a repository with a comparison.json" in refusal(empty)
    assert f"shows no hf://datasets/{USER}/missing to this token" in refusal(f"hf://datasets/{USER}/missing")
    assert "has no such revision" in refusal(f"{empty}@trial")
    assert "names no repository: write hf://datasets/OWNER/NAME" in refusal("hf://datasets/missing")
    hub.fail("GET", "/api/datasets", 503, times=9)
    assert "could not be pulled" in refusal(empty) and waits
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE keeps this machine from reaching" in refusal(empty)
