"""A real browser without network, for the tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, such as Debian's package chromium")


@contextmanager
def started() -> Iterator[Any]:
    """A headless Chromium, for several pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, file: Path, *, scheme: str = "light", width: int = 1000) -> Iterator[tuple[Any, list[str]]]:
    """Opens a file with the network cut off; gives the page and the list of what its console said."""
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True, reduced_motion="reduce"
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    if page.query_selector("#drawn"):
        page.wait_for_selector(f"body[data-drawn={scheme}]", timeout=60_000)
    yield page, said
    context.close()


def violations(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds wrong with a page, contrasts among it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
