"""A table of results, for the terminal, for cards and for pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import table as rich_table

from hf_critmom.reporting.text import console_text, markdown_cell

_UNBROKEN = 14
"""Length up to which words are not broken in a narrow terminal, as long as there are other columns to narrow."""


@dataclass(frozen=True)
class Table:
    """A table with plain text in its cells; line breaks in a cell are kept.

    Attributes:
        header: Names of the columns.
        rows: Cells of each row, one per column.
        title: Title in the terminal and on pages.
        caption: Caption in the terminal and on pages.
        left: Names of left-aligned columns, besides the first one.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    left: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"A row has {len(row)} cells, the header {len(self.header)}: {row}")

    def __bool__(self) -> bool:
        return bool(self.rows)

    def rich(self) -> rich_table.Table:
        """The table for the terminal."""
        shown = rich_table.Table(title=console_text(self.title) or None, caption=console_text(self.caption) or None)
        for column, name in enumerate(self.header):
            words = " ".join([name, *(row[column] for row in self.rows)]).split()
            shown.add_column(
                console_text(name),
                justify="left" if self.is_left(column) else "right",
                overflow="fold",  # names of layer groups have no spaces to break at
                min_width=min(max(map(len, words), default=1), _UNBROKEN),
            )
        for row in self.rows:
            shown.add_row(*(console_text(cell) for cell in row))
        return shown

    def markdown(self) -> str:
        """The table for a card, without a newline at the end."""
        marks = ["---" if self.is_left(column) else "---:" for column in range(len(self.header))]
        lines = [" | ".join(_cell(name) for name in self.header), " | ".join(marks)]
        lines += [" | ".join(_cell(cell) for cell in row) for row in self.rows]
        return "\n".join(f"| {line} |" for line in lines)

    def is_left(self, column: int) -> bool:
        """Whether the column with this index is left-aligned."""
        return column == 0 or self.header[column] in self.left


def _cell(text: str) -> str:
    return "<br>".join(markdown_cell(line) for line in text.split("\n"))
