"""A page to look at: one HTML file that opens anywhere, without network, in light and dark.

Charts are Vega-Lite specifications (made with Altair); the scripts that draw them are inlined once, deflated like the
data. Browsers inflate them since 2023 (`DecompressionStream`); an older one says so and shows the tables.

The controls of a page (which arms, which axis) are ordinary form elements, so that they work by keyboard and with a
screen reader, and set parameters of the same name in every chart that has one.
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
"""Bytes that a page should stay below."""

BACKGROUNDS = {"light": "#ffffff", "dark": "#15181d"}
INK = {"light": "#1b1f24", "dark": "#e8eaed"}


@dataclass(frozen=True)
class Headline:
    """A statement at the top of a page.

    Attributes:
        word: Its word, shown as a coloured badge.
        tone: What the word means: "good", "bad", "even" or "open".
        sentence: The statement.
        numbers: The numbers behind it, in small print.
        reasons: Sentences with its evidence, folded away.
        label: Subject of the statement, such as a task, if the page has several.
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
        options: Values, with the label of each.
        multiple: Whether several values can be chosen (check boxes; the parameter is a list) or one (a menu).
        chosen: The initial values; None: all of them, or the first.
        colors: Colour of each value, as a line beside its check box.
        dashes: Dashes of these lines, as SVG has them; empty: none.
    """

    name: str
    label: str
    options: Mapping[str, str]
    multiple: bool = False
    chosen: Sequence[str] | None = None
    colors: Mapping[str, str] = field(default_factory=dict)
    dashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def swatches(self) -> dict[str, dict[str, str]]:
        """Colour of each value in each colour scheme, as its chart draws it."""
        return {
            value: {scheme: readable_color(color, scheme) for scheme in BACKGROUNDS}
            for value, color in self.colors.items()
        }

    @property
    def initial(self) -> list[str] | str:
        """The parameter's initial value."""
        chosen = list(self.options if self.chosen is None else self.chosen)
        return chosen if self.multiple else chosen[0]


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: Identifier, of letters, digits and "-".
        description: Caption, and description for readers who cannot see the chart.
        specification: A Vega-Lite specification; its colours are those of the light scheme, and its width is that of
            its container, so that it fits every screen.
        title: Shown above it; charts with titles are placed side by side if there is room.
    """

    name: str
    description: str
    specification: Mapping[str, Any]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading.

    Attributes:
        title: The heading.
        paragraphs: Plain text before everything else.
        controls: Form elements for its charts.
        charts: Charts.
        caption: Common caption below the charts; empty: each chart shows its description.
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
    """Writes ``report.html`` into a folder, completely or not at all.

    Args:
        folder: The folder.
        title: Title of the page.
        subtitle: A line below it.
        notice: A sentence on what is unfinished; empty if nothing is.
        headlines: The statements at the top.
        sections: The rest.

    Returns:
        The file.
    """
    charts = {chart.name: chart.specification for section in sections for chart in section.charts}
    # Altair names a dataset after its content, so what several charts draw is here once.
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

    Putting it together takes seconds, so it is kept in the cache folder of the Hugging Face libraries.
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
    except OSError:  # a cache that cannot be written only costs these seconds again
        return script
    return script


@functools.cache
def _deflated_script() -> str:
    return deflate(vega_script())


def readable_color(color: str, scheme: str, *, min_contrast: float = 3.0) -> str:
    """A colour that stands out from a scheme's background: lightened or darkened until the contrast suffices.

    Args:
        color: Hexadecimal, such as ``#0072B2``.
        scheme: "light" or "dark".
        min_contrast: Smallest contrast ratio, as WCAG 2 defines it; it requires 3 of graphics, 4.5 of text.
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
    """The names of a specification's data, and its remainder in the colours of each scheme."""
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
