"""Foreign text (names of classes, groups, arms, paths) in each medium, where its characters must not act as markup."""

import re

from rich.markup import escape

MAX_LABEL_LENGTH = 60
"""Characters of a text in a figure."""


def console_text(text: object) -> str:
    """Text for a rich console that reads markup: ``[...]`` is shown as it is."""
    return escape(printable(str(text)))


def figure_text(text: object) -> str:
    r"""Text for matplotlib, in which ``$`` would begin a formula, and a long name leave no room for the figure.

    Example:
        >>> print(figure_text("$5 to $10"))
        \$5 to \$10
    """
    line = _one_line(text)
    shortened = line if len(line) <= MAX_LABEL_LENGTH else f"{line[: MAX_LABEL_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    return shortened.replace("$", r"\$")


def markdown_text(text: object) -> str:
    """Text within a sentence or heading of Markdown: one line in which nothing is markup, a formula or HTML.

    Example:
        >>> markdown_text("a*b* <script>")
        'a\\\\*b\\\\* &lt;script&gt;'
    """
    escaped = re.sub(r"([\\`*\[\]~#$])", r"\\\1", _one_line(text))
    # An underscore within a word is no emphasis on the Hub, and most names have some.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    escaped = re.sub(r"&(?=#?\w+;)", "&amp;", escaped)
    return escaped.replace("<", "&lt;").replace(">", "&gt;")


def markdown_cell(text: object) -> str:
    """Text of a cell of a Markdown table, which ``|`` and line breaks would end."""
    return markdown_text(text).replace("|", r"\|")


def markdown_code(text: object) -> str:
    """Text as inline code, with a fence longer than any run of backticks in it; ``|`` is safe in tables."""
    line = _one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}".replace("|", r"\|")


def markdown_block(text: object) -> str:
    """Text as a fenced code block, with a fence longer than any run of backticks in it."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", str(text))), default=0) + 1)
    return f"{fence}\n{printable(str(text))}\n{fence}"


def _one_line(text: object) -> str:
    return printable(" ".join(str(text).split()))


def printable(text: str) -> str:
    """The text without control characters, which terminals, browsers and YAML act on, and lone surrogates."""
    kept = "".join(char if char in "\n\t" or char.isprintable() or char == "\u00a0" else "\ufffd" for char in text)
    return kept
