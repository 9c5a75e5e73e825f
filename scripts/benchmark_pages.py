"""Prints how large pages of reports are, and how long a headless Chromium takes to draw them without network.

    python scripts/benchmark_pages.py model_cards/*/report.html
    python scripts/benchmark_pages.py PAGE --screenshots DIR     # also a picture in each colour scheme

Drawn means that every chart of the page stands; the time is from opening the file until then, in a fresh browser
context each time. It needs Chromium and Playwright (the extra "test").
"""

import argparse
import gzip
import os
import shutil
import statistics
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from hf_critmom.reporting.page import MAX_PAGE_BYTES
from hf_critmom.storage.environment import versions

FLAGS = ["--no-sandbox", "--disable-gpu"]


def main() -> None:
    """Measures the pages of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=3, help="how often each page is opened; default: 3")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1400, help="of the screenshots")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="where pictures of the pages go")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
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
    """Seconds until a page is drawn."""
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
