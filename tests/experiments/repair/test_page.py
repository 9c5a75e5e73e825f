"""Claims about the page of a repair: it opens without network, says what was found, and takes class names as text."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import needs_browser, opened, violations

from hf_critmom.experiments.repair.page import write_repair_page
from hf_critmom.experiments.repair.results import Repair, read_repair
from hf_critmom.experiments.repair.sentences import outcome
from hf_critmom.reporting.page import MAX_PAGE_BYTES, PAGE_FILE

COMMITTED = Path(__file__).parents[3] / "model_cards" / "repair-cifar10-constant"
HOSTILE = "</script><script>window.hacked = true</script>"


@pytest.fixture(scope="module")
def repair(tmp_path_factory: pytest.TempPathFactory) -> Repair:
    """A committed repair one of whose classes has foreign text as its name."""
    folder = tmp_path_factory.mktemp("repair") / "repair"
    shutil.copytree(COMMITTED, folder, ignore=shutil.ignore_patterns("figures", "*.html"))
    plan = folder / "repair.json"
    plan.write_text(plan.read_text(encoding="utf-8").replace("airplane", HOSTILE))
    found = read_repair(folder)
    write_repair_page(found)
    return found


@needs_browser
def test_it_opens_without_network_and_a_seed_changes_the_charts(browser: Any, repair: Repair) -> None:
    file = repair.folder / PAGE_FILE
    assert file.stat().st_size < MAX_PAGE_BYTES
    with opened(browser, file, scheme="dark", width=400) as (page, said):
        assert said == [] and not page.evaluate("window.hacked")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert violations(page) == []
        assert page.get_by_text(outcome(repair)).count() == 1 and page.get_by_text(HOSTILE).count() >= 1
        points = "document.querySelectorAll('#net .mark-symbol path').length"
        before = page.evaluate(points)
        page.get_by_role("checkbox", name=str(repair.plan.seeds[-1])).uncheck()
        page.wait_for_function(f"{points} < {before}")
        assert said == []
