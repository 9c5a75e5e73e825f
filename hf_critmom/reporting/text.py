"""Escapes foreign text (names of classes, groups, arms, paths) for each medium, so that none of it acts as markup."""

import re
from collections.abc import Sequence

from rich.markup import escape

MAX_LABEL_LENGTH = 55
"""Largest number of characters of a text in a figure."""


def counted(number: int, noun: str) -> str:
    """A number with its noun in singular or plural.

    Example:
        >>> counted(1, "step"), counted(2000, "step")
        ('1 step', '2,000 steps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_names(names: Sequence[str]) -> str:
    """Names in a sentence; empty for none.

    Example:
        >>> join_names(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def console_text(text: object) -> str:
    """Escapes text for a rich console with markup: ``[...]`` is shown as it is."""
    return escape(printable(str(text)))


def figure_text(text: object) -> str:
    r"""Escapes text for matplotlib, where ``$`` would begin a formula, and shortens it to fit a figure.

    Example:
        >>> print(figure_text("$5 to $10"))
        \$5 to \$10
    """
    line = _one_line(text)
    shortened = line if len(line) <= MAX_LABEL_LENGTH else f"{line[: MAX_LABEL_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    return shortened.replace("$", r"\$")


def markdown_text(text: object) -> str:
    """Escapes text for a sentence or heading in Markdown: one line without markup, formulas or HTML.

    Example:
        >>> markdown_text("a*b* <script>")
        'a\\\\*b\\\\* &lt;script&gt;'
    """
    escaped = re.sub(r"([\\`*\[\]~#$])", r"\\\1", _one_line(text))
    # Underscores inside of words are no markup on the Hub, and most names have some.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    escaped = re.sub(r"&(?=#?\w+;)", "&amp;", escaped)
    return escaped.replace("<", "&lt;").replace(">", "&gt;")


def markdown_cell(text: object) -> str:
    """Escapes text for a cell of a Markdown table, which ``|`` or a line break would end."""
    return markdown_text(text).replace("|", r"\|")


def markdown_code(text: object) -> str:
    """Formats text as inline code, in more backticks than the text has in a row; ``|`` is safe in tables."""
    line = _one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}".replace("|", r"\|")


def markdown_block(text: object) -> str:
    """Formats text as a code block, in a fence of more backticks than the text has in a row."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", str(text))), default=0) + 1)
    return f"{fence}\n{printable(str(text))}\n{fence}"


def _one_line(text: object) -> str:
    return printable(" ".join(str(text).split()))


def printable(text: str) -> str:
    """Replaces control characters, which terminals, browsers and YAML act on, and lone surrogates."""
    return "".join(char if char in "\n\t" or char.isprintable() or char == "\u00a0" else "\ufffd" for char in text)
