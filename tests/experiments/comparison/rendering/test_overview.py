"""Claims about several comparisons on one page: performance profile, geometric means of speed-ups, the page itself."""

import errno
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.browser import needs_browser, opened, violations

from hf_critmom.commands import main
from hf_critmom.experiments.comparison.rendering.overview import Overview, read_overview
from hf_critmom.experiments.comparison.rendering.overview_page import write_overview
from hf_critmom.experiments.comparison.statistics.claims import claim_title
from hf_critmom.reporting.intervals import mean_interval
from hf_critmom.reporting.page import MAX_PAGE_BYTES, PAGE_FILE

CARDS = Path(__file__).parents[4] / "model_cards"
FOLDERS = [CARDS / "digits-resnet18-w16", CARDS / "cifar10-vit-20000images"]


@pytest.fixture(scope="module")
def overview() -> Overview:
    return read_overview(FOLDERS)


def test_a_speed_up_is_the_geometric_mean_of_the_inverse_headlines(overview: Overview) -> None:
    assert overview.baseline == "constant"
    found = {one.arm: one for one in overview.speed_ups}["critmom"]
    headlines = [
        relative.headline.ratio.estimate
        for workload in overview.workloads
        for relative in workload.analysis.relative
        if relative.arm == "critmom"
    ]
    expected = mean_interval(-np.log(headlines)).exp()
    assert (found.ratio.estimate, found.ratio.low, found.ratio.high) == pytest.approx(
        (math.prod(headlines) ** -0.5, expected.low, expected.high)
    )
    assert found.ratio.n == len(FOLDERS)
    alone = {one.arm: one for one in overview.speed_ups}["adamw"]
    assert alone.ratio.n == 1 and math.isinf(alone.ratio.high)


def test_a_profile_counts_the_tasks_within_a_factor_of_the_fastest(overview: Overview) -> None:
    profile = overview.profile()
    assert set(profile) == set(overview.compared) and {"constant", "critmom"} <= set(profile)
    for arm, points in profile.items():
        factors, shares = zip(*points, strict=True)
        assert factors[0] == 1.0 and factors[-1] == 4.0 and list(shares) == sorted(shares)
        for factor, share in points:
            within = [
                one.times[arm] <= factor * min(one.times[other] for other in profile) for one in overview.workloads
            ]
            assert share == pytest.approx(np.mean(within))
    assert max(points[0][1] for points in profile.values()) > 0.0


def test_a_target_that_was_reached_before_the_first_step_has_a_profile(overview: Overview) -> None:
    """As with --eval_on_start and a trained network: 0 steps have no multiple but themselves."""
    times = {arm: 0.0 if arm == "constant" else 10.0 for arm in overview.compared}
    profile = replace(overview, workloads=(SimpleNamespace(target=0.9, times=times),)).profile()  # type: ignore[arg-type]
    assert profile["constant"][0] == (1.0, 1.0) and profile["critmom"][-1][1] == 0.0


def test_the_same_comparison_twice_and_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(FOLDERS[0]), str(FOLDERS[0])]) != 0
    assert "is given twice: name every comparison once." in capsys.readouterr().err
    assert main(["report", str(FOLDERS[0]), str(tmp_path)]) != 0
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["report", str(FOLDERS[0]), "--output_dir", str(tmp_path)]) != 0
    assert "--output_dir is for the page of several comparisons" in capsys.readouterr().err


def test_programs_get_the_same_as_json(overview: Overview, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *map(str, FOLDERS), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["workloads"]] == [one.name for one in overview.workloads]
    assert {one["arm"] for one in found["speed_ups"]} == {one.arm for one in overview.speed_ups}


def test_every_claim_is_listed_that_to_be_first_too(overview: Overview, tmp_path: Path) -> None:
    write_overview(overview, tmp_path)
    page = (tmp_path / PAGE_FILE).read_text(encoding="utf-8")
    claims = [verdict.claim for one in overview.workloads for verdict in one.analysis.verdicts]
    assert any(claim.first for claim in claims)
    for claim in claims:
        assert f">{claim_title(claim)}</td>" in page


@needs_browser
def test_the_page_opens_without_network_and_takes_foreign_names_as_text(browser: Any, tmp_path: Path) -> None:
    hostile = "</script><script>window.hacked = true</script>"
    for folder in FOLDERS:
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("figures", "*.html"))
    plan = json.loads((tmp_path / FOLDERS[0].name / "comparison.json").read_text())
    plan["task"]["name"] = hostile
    (tmp_path / FOLDERS[0].name / "comparison.json").write_text(json.dumps(plan))
    write_overview(read_overview([tmp_path / folder.name for folder in FOLDERS]), tmp_path / "all")
    assert (tmp_path / "all" / PAGE_FILE).stat().st_size < MAX_PAGE_BYTES
    with opened(browser, tmp_path / "all" / PAGE_FILE, width=400) as (page, said):
        assert said == [] and not page.evaluate("window.hacked") and violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert len(page.query_selector_all(".headlines > li")) == len(FOLDERS)
        lines = "document.querySelectorAll('#profile .mark-line path').length"
        before = page.evaluate(lines)
        page.get_by_role("checkbox", name="critmom", exact=True).uncheck()
        page.wait_for_function(f"{lines} < {before}")


def test_it_takes_no_folder_of_an_experiment_and_none_that_cannot_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(FOLDERS[0], own, ignore=shutil.ignore_patterns("figures"))
    page = (own / PAGE_FILE).read_bytes()
    (tmp_path / "file").write_text("mine")
    secret = "hf_" + "abcDEF123" * 4
    for name, sentence in (
        ("own", "holds a comparison, whose page this would replace"),
        ("file", "is a file: --output_dir must be a folder"),
        ("file/below", "cannot be written (Not a directory)"),
        (secret, "holds what looks like a Hugging Face token"),
    ):
        assert main(["report", *map(str, FOLDERS), "--output_dir", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert sentence in said and len(said.splitlines()) == 1 and secret not in said
    assert (own / PAGE_FILE).read_bytes() == page

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hf_critmom.experiments.comparison.rendering.overview_page.write_page", full)
    assert main(["report", *map(str, FOLDERS), "--output_dir", str(tmp_path / "new")]) == 2
    assert "cannot be written any more (No space left on device)" in capsys.readouterr().err
