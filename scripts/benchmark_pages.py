"""Measures the size of report pages, and how long a headless Chromium takes to draw them offline.

    python scripts/benchmark_pages.py model_cards/*/report.html
    python scripts/benchmark_pages.py PAGE --screenshots DIR     # also takes a screenshot in each colour scheme

The time is from opening the file, in a fresh browser context, until all charts of the page are drawn. Needs Chromium
and Playwright (the extra "test").
"""

import argparse
import gzip
import os
import shutil
import statistics
import time
from pathlib import Path

from command_line import positive_int
from playwright.sync_api import Browser, sync_playwright

from hf_critmom.reporting.page import MAX_PAGE_BYTES
from hf_critmom.storage.environment import versions

FLAGS = ["--no-sandbox", "--disable-gpu"]


def main() -> None:
    """Measures the given pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, help="HTML files")
    parser.add_argument("--runs", type=positive_int, default=3, help="how often to open each page; default: 3")
    parser.add_argument("--width", type=positive_int, default=1280, help="width of the window; default: 1280")
    parser.add_argument("--height", type=positive_int, default=1400, help="height of the window; default: 1400")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="folder for screenshots of the pages")
    args = parser.parse_args()
    if missing := [page for page in args.pages if not page.is_file()]:
        parser.error(f"{missing[0]} is not a file: expected report.html files.")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("there is no chromium or google-chrome on the PATH: install one of them.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        print(f"{'page':50} {'bytes':>10} {'gzip':>10} {'drawn, seconds: median (range)':>32}")
        for page in args.pages:
            content = page.read_bytes()
            seconds = [_draw(browser, page, args.width, args.height) for _ in range(args.runs)]
            spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            large = "  too large" if len(content) > MAX_PAGE_BYTES else ""
            name = f"{page.parent.name}/{page.name}"
            print(f"{name:50} {len(content):>10,} {len(gzip.compress(content)):>10,} {spread:>32}{large}")
            if args.screenshots:
                for scheme in ("light", "dark"):
                    file = args.screenshots / f"{page.parent.name}-{scheme}.png"
                    _draw(browser, page, args.width, args.height, scheme=scheme, screenshot=file)
        print(
            f"Chromium {browser.version}, {versions()['hardware']}; {args.runs} openings each, "
            f"load average {os.getloadavg()[0]:.0f}."
        )
        browser.close()


def _draw(
    browser: Browser, page: Path, width: int, height: int, *, scheme: str = "light", screenshot: Path | None = None
) -> float:
    """Seconds until a page is drawn; saves a screenshot if a file is given."""
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": height},
        offline=True,
        reduced_motion="reduce",
    )
    shown = context.new_page()
    started = time.perf_counter()
    shown.goto(page.resolve().as_uri())
    shown.wait_for_selector(f"body[data-drawn={scheme}]", timeout=120_000)
    seconds = time.perf_counter() - started
    if screenshot is not None:
        screenshot.parent.mkdir(parents=True, exist_ok=True)
        shown.screenshot(path=screenshot)
    context.close()
    return seconds


if __name__ == "__main__":
    main()
