"""A report as a single HTML file, which needs no network and has a light and a dark colour scheme.

Charts are Vega-Lite specifications, made with Altair. The scripts that draw them and the data are deflated and inlined
once. All major browsers can inflate them since 2023 (`DecompressionStream`); older ones show a notice and the tables.

The controls of a page (which arms, which axis) are plain form elements, which work with a keyboard and a screen
reader. Each sets the parameter of its name in every chart that has one.
"""

import functools
import importlib.metadata
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_critmom.reporting.page_data import deflate, to_columns
from hf_critmom.reporting.tables import Table
from hf_critmom.reporting.templates import render
from hf_critmom.storage.files import atomic_write

PAGE_FILE = "report.html"
MAX_PAGE_BYTES = 2_000_000
"""Largest size that a page should have, in bytes."""

BACKGROUNDS = {"light": "#ffffff", "dark": "#15181d"}
INK = {"light": "#1b1f24", "dark": "#e8eaed"}


@dataclass(frozen=True)
class Headline:
    """A statement at the top of a page.

    Attributes:
        word: The verdict in a word or two, shown as a coloured badge.
        tone: Colour of the badge: "good", "bad", "even" or "open".
        sentence: The statement.
        numbers: The numbers that support it, below the statement.
        reasons: Sentences of evidence, in a collapsed list.
        label: What the statement is about, such as a task, if the page covers several.
    """

    word: str
    tone: str
    sentence: str
    numbers: str = ""
    reasons: Sequence[str] = ()
    label: str = ""


@dataclass(frozen=True)
class Control:
    """A form element that sets the parameter of its name in every chart of the page.

    Attributes:
        name: Name of the parameter.
        label: Label of the element.
        options: Labels of the values, by value.
        multiple: Whether several values can be selected (checkboxes; the parameter is a list) or one (a menu).
        selected: The values that are selected at first; None: all of them, or the first for a menu.
        colors: Colours of the values; each is shown as a line beside the checkbox.
        dashes: Dash patterns of these lines, as ``stroke-dasharray`` of SVG; solid for values without one.
    """

    name: str
    label: str
    options: Mapping[str, str]
    multiple: bool = False
    selected: Sequence[str] | None = None
    colors: Mapping[str, str] = field(default_factory=dict)
    dashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def swatches(self) -> dict[str, dict[str, str]]:
        """Colour of each value in each colour scheme, the same as in the charts."""
        return {
            value: {scheme: readable_color(color, scheme) for scheme in BACKGROUNDS}
            for value, color in self.colors.items()
        }

    @property
    def initial(self) -> list[str] | str:
        """The parameter's initial value."""
        selected = list(self.options if self.selected is None else self.selected)
        return selected if self.multiple else selected[0]


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: Identifier, of letters, digits and "-".
        description: Caption, and description for screen readers.
        specification: A Vega-Lite specification, with the colours of the light scheme and the width of its container.
        title: Title above the chart.
    """

    name: str
    description: str
    specification: Mapping[str, Any]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page with its own heading.

    Attributes:
        title: The heading.
        paragraphs: Plain text at the top.
        controls: Form elements for its charts.
        charts: Charts.
        caption: Common caption below the charts; if empty, each chart has its description as caption.
        tables: Tables.
        code: A command, with a button that copies it.
    """

    title: str
    paragraphs: Sequence[str] = ()
    controls: Sequence[Control] = ()
    charts: Sequence[Chart] = ()
    caption: str = ""
    tables: Sequence[Table] = ()
    code: str = ""


def write_page(
    folder: Path,
    *,
    title: str,
    subtitle: str = "",
    notice: str = "",
    headlines: Sequence[Headline] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Writes ``report.html`` to a folder, completely or not at all.

    Args:
        folder: The folder.
        title: Title of the page.
        subtitle: A line below the title.
        notice: A sentence about unfinished work; empty if there is none.
        headlines: The statements at the top.
        sections: The other parts.

    Returns:
        Path of the file.
    """
    charts = {chart.name: chart.specification for section in sections for chart in section.charts}
    # Altair names datasets by their content, so one that several charts draw is stored once.
    datasets = {name: to_columns(rows) for chart in charts.values() for name, rows in chart.get("datasets", {}).items()}
    drawn = {"datasets": datasets, "charts": {name: _in_both_schemes(chart) for name, chart in charts.items()}}
    page = render(
        "page.html",
        title=title,
        subtitle=subtitle,
        notice=notice,
        headlines=headlines,
        sections=sections,
        script=_deflated_script() if charts else "",
        drawn=deflate(json.dumps(drawn, allow_nan=False, separators=(",", ":"))),
        backgrounds=BACKGROUNDS,
        ink=INK,
    )
    with atomic_write(folder / PAGE_FILE) as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / PAGE_FILE


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed (BSD-3-Clause) as one script, from the package vl-convert-python.

    Bundling them takes seconds, so the script is cached in the cache folder of the Hugging Face libraries.
    """
    import vl_convert
    from huggingface_hub.constants import HF_HOME

    version = importlib.metadata.version("vl-convert-python")
    cached = Path(HF_HOME) / "hf-critmom" / f"vega-embed-{version}.js"
    try:
        return cached.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cached.parent, delete=False, encoding="utf-8") as partial:
            partial.write(script)
        os.replace(partial.name, cached)  # noqa: PTH105
    except OSError:  # without a cache, the next call bundles it again
        return script
    return script


@functools.cache
def _deflated_script() -> str:
    return deflate(vega_script())


def readable_color(color: str, scheme: str, *, min_contrast: float = 3.0) -> str:
    """Darkens or lightens a colour until it has enough contrast with a scheme's background.

    Args:
        color: Hexadecimal colour, such as ``#0072B2``.
        scheme: "light" or "dark".
        min_contrast: Smallest contrast ratio; WCAG 2 requires 3 for graphics and 4.5 for text.
    """
    toward = (0.0, 0.0, 0.0) if scheme == "light" else (1.0, 1.0, 1.0)
    background = _luminance(_channels(BACKGROUNDS[scheme]))
    channels = _channels(color)
    for share in range(0, 101, 5):
        mixed = tuple(own + (goal - own) * share / 100 for own, goal in zip(channels, toward, strict=True))
        low, high = sorted((_luminance(mixed), background))
        if (high + 0.05) / (low + 0.05) >= min_contrast:
            break
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in mixed)


def _channels(color: str) -> tuple[float, ...]:
    return tuple(int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))


def _luminance(channels: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _in_both_schemes(specification: Mapping[str, Any]) -> dict[str, Any]:
    """Splits a specification into the names of its datasets and the rest, in the colours of each scheme."""
    rest = {name: value for name, value in specification.items() if name != "datasets"}
    return {"datasets": [*specification.get("datasets", {})], **{one: _in_scheme(rest, one) for one in BACKGROUNDS}}


def _in_scheme(specification: Mapping[str, Any], scheme: str) -> dict[str, Any]:
    text = re.sub(
        r'"(#[0-9A-Fa-f]{6})"', lambda found: json.dumps(readable_color(found[1], scheme)), json.dumps(specification)
    )
    ink, rule = INK[scheme], {"light": "#d0d5db", "dark": "#3a4149"}[scheme]
    axis = {"labelColor": ink, "titleColor": ink, "gridColor": rule, "domainColor": rule, "tickColor": rule}
    return {
        **json.loads(text),
        "background": None,
        "config": {
            "view": {"stroke": rule},
            "axis": {
                **axis,
                "labelFontSize": 12,
                "titleFontSize": 13,
                "titleFontWeight": "normal",
                "labelOverlap": True,
                "labelSeparation": 6,
            },
            "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 13},
            "header": {"labelColor": ink, "titleColor": ink, "labelFontSize": 13},
            "title": {"color": ink},
            "rule": {"color": ink},
            "text": {"color": ink, "fontSize": 13},
        },
    }
