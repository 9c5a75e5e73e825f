"""Claims about ``--json``: it prints the results of the report."""

import json
from pathlib import Path

import pytest
from helpers.small_repairs import small_repair

from hf_critmom.commands import main
from hf_critmom.commands.output import print_json
from hf_critmom.experiments.repair.plan import RepairSettings

CARDS = Path(__file__).parents[2] / "model_cards"


def printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert main(("report", str(folder), "--json")) == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    return strict(capsys.readouterr().out)


def strict(text: str) -> dict:
    """Reads what every JSON parser can read."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_an_attribution_names_the_groups_of_every_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    folder = CARDS / "attribution-cifar10-constant-adamw"
    found = printed(folder, capsys)
    assert len(found["checkpoints"]) == 6 and found["agreement"]
    report = (folder / "README.md").read_text()
    for checkpoint in found["checkpoints"]:
        (study,) = checkpoint["studies"]
        assert sum(study["shares"].values()) == pytest.approx(1.0)
        assert study["top"] == sorted(study["shares"], key=lambda name: -study["shares"][name])[:3]
        assert checkpoint["label"] in report


def test_a_repair_counts_what_its_card_counts(capsys: pytest.CaptureFixture[str]) -> None:
    folder = CARDS / "repair-cifar10-constant"
    found = printed(folder, capsys)
    card = (folder / "README.md").read_text()
    assert found["outcome"] in card and all(finding in card for finding in found["findings"])
    for treatments in found["roles"].values():
        assert [one["seed"] for one in treatments] == found["seeds"]
        assert all(one["net"] == one["fixed"] - one["broken"] for one in treatments)


def test_an_interval_that_one_seed_leaves_open_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_repair(tmp_path, settings=RepairSettings(groups=["d"], controls=True))
    found = printed(tmp_path, capsys)
    assert all((one["n"], one["low"], one["high"]) == (1, None, None) for one in found["advantages"].values())
    assert "whole" in found["advantages"]


def test_whatever_a_command_prints_as_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"interval": (float("-inf"), 1.0), "deep": [{"value": float("nan")}], "steps": 3})
    assert strict(capsys.readouterr().out) == {"interval": [None, 1.0], "deep": [{"value": None}], "steps": 3}
