"""Claims about the page of a comparison: it says what the report says, and obeys its controls in a browser."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.browser import needs_browser, opened

from hf_critmom.experiments.comparison import write_report
from hf_critmom.reporting.page import LARGEST_PAGE, PAGE_FILE

COMMITTED = Path(__file__).parents[3] / "model_cards" / "digits-resnet18-w16"
HOSTILE = "digits</script><script>window.hacked = true</script>"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "digits"
    shutil.copytree(COMMITTED, folder)
    plan = json.loads((folder / "comparison.json").read_text())
    plan["task"]["name"] = HOSTILE
    (folder / "comparison.json").write_text(json.dumps(plan))
    write_report(folder)
    return folder


def test_it_is_one_small_file(comparison: Path) -> None:
    assert 0 < (comparison / PAGE_FILE).stat().st_size < LARGEST_PAGE


def test_an_unfinished_comparison_says_what_is_missing(comparison: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unfinished"
    shutil.copytree(comparison, folder)
    next(folder.glob("runs/*/*/result.json")).unlink()
    write_report(folder)
    assert "Unfinished: 1 of " in (folder / PAGE_FILE).read_text(encoding="utf-8")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_network_and_its_controls_change_the_charts(comparison: Path, scheme: str) -> None:
    with opened(comparison / PAGE_FILE, scheme=scheme) as (page, said):
        assert said == [] and not page.evaluate("window.hacked")
        assert HOSTILE in page.inner_text("h1")
        assert len(page.query_selector_all(".headlines li")) >= 1
        lines = "document.querySelectorAll('#curves .mark-line path').length"
        before = page.evaluate(lines)
        page.get_by_role("checkbox", name="critmom", exact=True).uncheck()
        page.wait_for_function(f"{lines} < {before}")
        axis = "document.querySelector('#curves').textContent"
        in_steps = page.evaluate(axis)
        page.get_by_label("x axis").select_option("epoch")
        page.wait_for_function(f"{axis} != {json.dumps(in_steps)}")
        assert said == []
