"""A table of results, which a terminal and a card show in their own ways."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import table as rich_table

from hf_critmom.reporting.text import console_text, markdown_cell


@dataclass(frozen=True)
class Table:
    """Cells as plain text; a line break in a cell is kept in both forms.

    Attributes:
        header: Names of the columns.
        rows: Cells, as many in each row as there are columns.
        title: Shown above it in the terminal.
        caption: Shown below it in the terminal.
        left: Names of columns aligned to the left, beside the first.
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
        for place, name in enumerate(self.header):
            # Names of groups have no blanks to break at.
            shown.add_column(console_text(name), justify="left" if self.is_left(place) else "right", overflow="fold")
        for row in self.rows:
            shown.add_row(*(console_text(cell) for cell in row))
        return shown

    def markdown(self) -> str:
        """The table for a card, without a line break at its end."""
        marks = ["---" if self.is_left(place) else "---:" for place in range(len(self.header))]
        lines = [" | ".join(_cell(name) for name in self.header), " | ".join(marks)]
        lines += [" | ".join(_cell(cell) for cell in row) for row in self.rows]
        return "\n".join(f"| {line} |" for line in lines)

    def is_left(self, place: int) -> bool:
        """Whether a column, by its place, is aligned to the left."""
        return place == 0 or self.header[place] in self.left


def _cell(text: str) -> str:
    return "<br>".join(markdown_cell(line) for line in text.split("\n"))
