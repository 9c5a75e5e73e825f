"""A table of results, for the terminal, for cards and for pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import table as rich_table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult

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
        columns = [[name, *(row[column] for row in self.rows)] for column, name in enumerate(self.header)]
        shown = _FittedTable(title=console_text(self.title) or None, caption=console_text(self.caption) or None)
        shown.natural = [max(cell_len(line) for cell in cells for line in cell.split("\n")) for cells in columns]
        shown.unbroken = [min(max(map(cell_len, " ".join(cells).split()), default=1), _UNBROKEN) for cells in columns]
        for column, name in enumerate(self.header):
            shown.add_column(
                console_text(name),
                justify="left" if self.is_left(column) else "right",
                overflow="fold",  # names of layer groups have no spaces to break at
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


class _FittedTable(rich_table.Table):
    """A table that fits the terminal: columns are narrowed, but no cell is cut off while each has room for a letter.

    The widest column gives way first, down to its longest word. If that does not suffice, the words of left-aligned
    columns, which are names, are broken before those of the others, which are numbers.

    Attributes:
        natural: Width of each column in which its cells take one line.
        unbroken: Width of each column in which no word is broken.
    """

    natural: Sequence[int]
    unbroken: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - 3 * len(self.columns) - 1  # besides borders and padding
        names = [
            1 if column.justify == "left" else least for column, least in zip(self.columns, self.unbroken, strict=True)
        ]
        widths = list(self.natural)
        for floor in (self.unbroken, names, [1] * len(widths)):
            widths = _narrowed(widths, floor, room)
        for column, width in zip(self.columns, widths, strict=True):
            column.width = max(width, 1)
        yield from super().__rich_console__(console, options)


def _narrowed(widths: Sequence[int], floor: Sequence[int], room: int) -> list[int]:
    """Narrows the widest columns, none below its floor, until all have room together, or none can give way."""
    found = list(widths)
    while sum(found) > room and (wide := [at for at, width in enumerate(found) if width > floor[at]]):
        found[max(wide, key=lambda at: found[at])] -= 1
    return found


def _cell(text: str) -> str:
    return "<br>".join(markdown_cell(line) for line in text.split("\n"))
