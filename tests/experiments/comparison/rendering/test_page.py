"""Claims about the page of a comparison: it says what the report says, and obeys its controls in a browser."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import needs_browser, opened, violations
from helpers.plans_by_hand import findings_of_size
from rich.console import Console, Group

from hf_critmom.experiments.comparison import write_report
from hf_critmom.experiments.comparison.findings.findings import findings_of, read_findings
from hf_critmom.experiments.comparison.rendering.page import describe_missing, write_comparison_page
from hf_critmom.experiments.comparison.rendering.terminal import terminal_report
from hf_critmom.experiments.comparison.results import Results
from hf_critmom.reporting.page import MAX_PAGE_BYTES, PAGE_FILE

COMMITTED = Path(__file__).parents[4] / "model_cards" / "digits-resnet18-w16"
HOSTILE = "digits</script><script>window.hacked = true</script>"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed comparison with foreign text as the names of the data, the model and an arm's description."""
    folder = tmp_path_factory.mktemp("page") / "digits"
    shutil.copytree(COMMITTED, folder)
    plan = json.loads((folder / "comparison.json").read_text())
    plan["task"] |= {"name": HOSTILE, "source": HOSTILE, "notes": [HOSTILE]}
    plan["arms"]["critmom"]["help"] = HOSTILE
    plan["command"] = f"hf-critmom compare --task '{HOSTILE}'"
    (folder / "comparison.json").write_text(json.dumps(plan))
    write_report(folder)
    return folder


def test_it_is_one_small_file(comparison: Path) -> None:
    assert 0 < (comparison / PAGE_FILE).stat().st_size < MAX_PAGE_BYTES


def test_an_unfinished_comparison_says_what_is_missing(comparison: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unfinished"
    shutil.copytree(comparison, folder)
    assert describe_missing(read_findings(folder)) == ""
    for seed in (43, 44):
        (folder / f"runs/critmom/seed-{seed}/result.json").unlink()
    said = describe_missing(read_findings(folder))
    runs = len(read_findings(folder).plan.runs())
    assert said.startswith(f"Unfinished: {runs - 2} of {runs} runs are finished. Missing: critmom with seeds 43, 44. ")
    for one, missing in ((comparison, False), (folder, True)):
        console = Console(width=400, record=True, file=io.StringIO())
        console.print(Group(*terminal_report(read_findings(one))))
        printed = console.export_text()
        assert (f"Unfinished: {runs - 2} of {runs} runs. This command continues it:" in printed) is missing
        assert ("--output_dir unfinished" in printed) is missing


def test_an_unfinished_comparison_gives_the_command_that_continues_it(tmp_path: Path) -> None:
    for name, own in (("comparison-digits", True), ("renamed", False)):
        folder = shutil.copytree(COMMITTED, tmp_path / name)
        (folder / "runs/critmom/seed-44/result.json").unlink()
        write_report(folder)
        card, page = ((folder / file).read_text() for file in ("README.md", PAGE_FILE))
        assert ("The command below continues it." in card) is own
        assert ("continues it:\n\n```\nhf-critmom compare --output_dir renamed\n```" in card) is not own
        assert ("The command at the end of this page continues it." in page) is own
        assert ("What continues it" in page) is not own


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_network_and_its_controls_change_the_charts(
    browser: Any, comparison: Path, scheme: str
) -> None:
    with opened(browser, comparison / PAGE_FILE, scheme=scheme, width=400) as (page, said):
        assert said == [] and not page.evaluate("window.hacked")
        assert HOSTILE in page.inner_text("h1") and page.get_by_text(f"{HOSTILE}.").count() >= 1
        assert len(page.query_selector_all(".headlines > li")) >= 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert violations(page) == []
        lines = "document.querySelectorAll('#curves .mark-line path').length"
        before = page.evaluate(lines)
        page.get_by_role("checkbox", name="critmom", exact=True).uncheck()
        page.wait_for_function(f"{lines} < {before}")
        for control, value in (("axis", "seconds"), ("metric", "loss"), ("shown", "median"), ("metric", "accuracy"),
                               ("range", "targets")):  # fmt: skip
            drawn = page.evaluate("document.querySelector('#curves').innerHTML")
            page.locator(f"select[data-control={control}]").select_option(value)
            page.wait_for_function(f"document.querySelector('#curves').innerHTML != {json.dumps(drawn)}")
        assert said == []


@needs_browser
def test_a_median_ends_where_most_seeds_have_diverged(browser: Any, tmp_path: Path) -> None:
    found = findings_of_size(arms=2, seeds=3, targets=1, evaluations=6)
    runs = dict(found.results.runs)
    for run, result in found.results.runs.items():
        if run.arm != "constant" and run.seed > 0:
            runs[run] = replace(result, status="diverged", evaluations=result.evaluations[:2])
    write_comparison_page(tmp_path, findings_of(tmp_path, found.plan, Results(runs, {}, [])))
    with opened(browser, tmp_path / PAGE_FILE) as (page, said):
        page.locator("select[data-control=shown]").select_option("median")
        page.wait_for_function("document.querySelectorAll('#curves .mark-line path').length == 2")
        lines = "[...document.querySelectorAll('#curves .mark-line path')].map((one) => one.getAttribute('d'))"
        assert sorted(line.count("L") + 1 for line in page.evaluate(lines)) == [2, 6] and said == []


@needs_browser
def test_a_bound_is_a_ring(browser: Any, tmp_path: Path) -> None:
    found = findings_of_size(arms=2, seeds=3, targets=2, evaluations=6)
    runs = dict(found.results.runs)
    for run, result in found.results.runs.items():
        if run.arm == "constant":  # it does not get to the second target
            low = tuple(replace(one, values={"accuracy": min(one.values["accuracy"] or 0.0, 0.75)})
                        for one in result.evaluations)  # fmt: skip
            runs[run] = replace(result, evaluations=low)
    write_comparison_page(tmp_path, findings_of(tmp_path, found.plan, Results(runs, {}, [])))
    with opened(browser, tmp_path / PAGE_FILE) as (page, _):
        fills = "[...document.querySelectorAll('#ratios .mark-symbol path')].map((one) => one.getAttribute('fill'))"
        filled = [fill not in ("none", "transparent", None) for fill in page.evaluate(fills)]
        assert filled[:3] == [True, True, False]  # over all targets, to the first, and to the second


@needs_browser
def test_hovering_shows_the_values(browser: Any, comparison: Path) -> None:
    with opened(browser, comparison / PAGE_FILE) as (page, _):
        page.locator("#curves .mark-symbol path").last.hover(force=True)
        page.wait_for_selector("#vg-tooltip-element.visible")
        told = page.inner_text("#vg-tooltip-element")
        assert all(name in told for name in ("arm", "seed", "step", "epoch", "seconds", "value"))
