"""Claims about the page of an attribution: it opens without network, obeys its controls, takes class names as text."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import needs_browser, opened, violations

from hf_critmom.experiments.diagnosis.page import write_attribution_page
from hf_critmom.experiments.diagnosis.results import agreements_of, read_results
from hf_critmom.reporting.page import MAX_PAGE_BYTES, PAGE_FILE

COMMITTED = Path(__file__).parents[3] / "model_cards" / "attribution-cifar10-constant-adamw" / "attribution.json"
HOSTILE = "</script><script>window.hacked = true</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed attribution one of whose classes has foreign text as its name."""
    folder = tmp_path_factory.mktemp("attribution")
    (folder / COMMITTED.name).write_text(COMMITTED.read_text(encoding="utf-8").replace("airplane", HOSTILE))
    found = read_results(folder)
    write_attribution_page(folder, found, agreements_of(found.checkpoints, found.settings.num_top_groups))
    return folder


@needs_browser
def test_it_opens_without_network_and_another_checkpoint_changes_the_charts(browser: Any, folder: Path) -> None:
    assert (folder / PAGE_FILE).stat().st_size < MAX_PAGE_BYTES
    with opened(browser, folder / PAGE_FILE, scheme="dark", width=400) as (page, said):
        assert said == [] and not page.evaluate("window.hacked")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert violations(page) == []
        assert len(page.query_selector_all("#checkpoints .mark-rect path")) > 0
        for chart in ("shares", "classes"):
            drawn = page.evaluate(f"document.querySelector('#{chart}').innerHTML")
            last = read_results(folder).checkpoints[-1 if chart == "shares" else 0].label
            page.locator("select[data-control=checkpoint]").select_option(last)
            page.wait_for_function(f"document.querySelector('#{chart}').innerHTML != {json.dumps(drawn)}")
        assert said == []
