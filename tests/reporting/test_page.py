"""Claims about pages: they work offline, follow their controls, are accessible, and show foreign text as text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
from helpers.browser import needs_browser, opened, violations

from hf_critmom.reporting.page import (
    BACKGROUNDS,
    MAX_PAGE_BYTES,
    Chart,
    Control,
    Headline,
    Section,
    _channels,
    _luminance,
    readable_color,
    write_page,
)
from hf_critmom.reporting.tables import Table

HOSTILE = "</script><script>window.hacked = true</script><img src=x onerror='window.hacked = true'>$|`[x](y)"
ARMS = {"constant": "#0072B2", HOSTILE: "#D55E00"}
LONG = "x" * 94


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"arm": arm, "step": step, "value": step * (1 + place)} for place, arm in enumerate(ARMS) for step in (0, 1, 2)
    ]
    scale = alt.Scale(domain=list(ARMS), range=list(ARMS.values()))
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .transform_filter("indexof(arms, datum.arm) >= 0")
        .mark_line()
        .encode(
            alt.X("step:Q"),
            alt.Y("value:Q"),
            alt.Color("arm:N", scale=scale).legend(None),
        )
        .properties(width="container", height=120)
        .add_params(alt.param(name="arms", value=list(ARMS)))
    )
    section = Section(
        f"Curves of {HOSTILE}",
        paragraphs=[HOSTILE],
        controls=[
            Control("arms", "arms", {arm: arm for arm in ARMS}, multiple=True, colors=ARMS),
            Control("seeds", "seeds", {LONG: LONG}, multiple=True),
            Control("axis", "x axis", {"step": "steps", "epoch": "epochs"}),
        ],
        charts=[Chart("curves", f"Values over steps of {HOSTILE}", chart.to_dict())],
        tables=[
            Table(["arm", HOSTILE], [["constant", "1.0\n2 s"], [HOSTILE, HOSTILE]], title=HOSTILE),
            Table(["arm", *"abcdefgh"], [[LONG, *["0.83 (0.51 to 1.36)"] * 8]]),
        ],
        code=f"hf-critmom compare --task '{HOSTILE}'",
    )
    return write_page(
        tmp_path_factory.mktemp("page"),
        title=HOSTILE,
        subtitle="six arms",
        notice="Unfinished: 3 of 6 runs.",
        headlines=[Headline(word, tone, f"{HOSTILE} is {word}.", HOSTILE, [HOSTILE], HOSTILE) for word, tone in
                   (("faster", "good"), ("slower", "bad"), ("no difference", "even"), ("not decided yet", "open"))],
        sections=[section],
    )  # fmt: skip


@needs_browser
@pytest.mark.parametrize("scheme", BACKGROUNDS)
def test_a_page_is_accessible_offline_and_does_not_execute_foreign_text(browser: Any, page: Path, scheme: str) -> None:
    with opened(browser, page, scheme=scheme) as (shown, said):
        assert said == []
        assert not shown.evaluate("window.hacked")
        assert shown.title() == HOSTILE and shown.inner_text("h1") == HOSTILE
        assert violations(shown) == []


@needs_browser
def test_toggling_an_arm_changes_the_chart(browser: Any, page: Path) -> None:
    def lines(shown: Any) -> int:
        return len([path for path in shown.query_selector_all("#curves .mark-line path") if path.get_attribute("d")])

    with opened(browser, page) as (shown, said):
        assert lines(shown) == 2
        shown.get_by_role("checkbox", name="constant").uncheck()
        shown.wait_for_function("document.querySelectorAll('#curves .mark-line path').length == 1")
        shown.get_by_role("checkbox", name="constant").focus()
        shown.keyboard.press("Space")
        shown.wait_for_function("document.querySelectorAll('#curves .mark-line path').length == 2")
        assert said == []


@needs_browser
def test_the_command_is_copied_by_keyboard(browser: Any, page: Path) -> None:
    with opened(browser, page) as (shown, said):
        shown.context.grant_permissions(["clipboard-read", "clipboard-write"])
        shown.get_by_role("button", name="Copy the command").focus()
        shown.keyboard.press("Enter")
        shown.get_by_text("copied", exact=True).wait_for()
        assert shown.evaluate("navigator.clipboard.readText()") == f"hf-critmom compare --task '{HOSTILE}'"
        assert said == []


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_a_page_fits_the_screen(browser: Any, page: Path, width: int) -> None:
    with opened(browser, page, width=width) as (shown, _):
        assert shown.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
def test_a_change_of_the_colour_scheme_redraws_the_charts(browser: Any, page: Path) -> None:
    with opened(browser, page, scheme="light") as (shown, said):
        shown.emulate_media(color_scheme="dark")
        shown.wait_for_selector("body[data-drawn=dark]")
        assert said == []


@needs_browser
@pytest.mark.parametrize("scheme", BACKGROUNDS)
def test_a_printed_page_is_legible_and_cuts_nothing_off(browser: Any, page: Path, scheme: str) -> None:
    with opened(browser, page, scheme=scheme, width=1280) as (shown, _):
        shown.emulate_media(media="print", color_scheme=scheme)
        shown.evaluate("document.querySelector('main').style.width = '700px'")  # nothing draws charts again for paper
        ends = "[...document.querySelectorAll({!r})].map((one) => one.getBoundingClientRect().right)"
        (paper,) = shown.evaluate(ends.format("main"))
        assert max(shown.evaluate(ends.format(".chart svg, table"))) < paper
        style = "getComputedStyle(document.querySelector({!r})).{}"
        assert shown.evaluate(style.format("body", "color")) == "rgb(27, 31, 36)"
        behind = shown.evaluate(style.format(".chart", "backgroundColor"))
        assert behind == {"light": "rgba(0, 0, 0, 0)", "dark": "rgb(21, 24, 29)"}[scheme]


class _Links(HTMLParser):
    """Collects everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_a_page_fetches_nothing_and_is_small(page: Path) -> None:
    links = _Links()
    links.feed(re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert [link for link in links.fetched if not link.startswith(("data:", "#"))] == []
    assert page.stat().st_size < MAX_PAGE_BYTES


@pytest.mark.parametrize("scheme", BACKGROUNDS)
@pytest.mark.parametrize("color", ["#000000", "#ffffff", "#332288", "#F0E442", "#0072B2", "#777777"])
def test_colours_stand_out_from_the_background(color: str, scheme: str) -> None:
    pair = [_luminance(_channels(one)) for one in (readable_color(color, scheme), BACKGROUNDS[scheme])]
    assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 2.95  # rounded to 8 bits
