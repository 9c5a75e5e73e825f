"""Claims about tables in the terminal: in one that is narrow, columns of several words give way first."""

import io

import pytest
from rich.console import Console

from hf_critmom.reporting.tables import Table

PAIRS = Table(
    ["runs", "gradients", "pairs", "groups shared", "all shared", "rank correlation"],
    [
        ["adamw and constant", "misclassified", "4", "1.75 (0.00, 3.00)", "0%", "0.38 (-1.00, 1.00)"],
        ["adamw and constant", "untrained", "4", "2.50 (1.00, 3.00)", "50%", "0.91 (0.68, 1.00)"],
    ],
)


def lines(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table.rich())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_words_are_not_broken_while_other_columns_can_be_narrowed() -> None:
    shown = lines(PAIRS, 80)
    assert any("misclassified" in line for line in shown)
    assert max(map(len, shown)) <= 80


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_table_never_exceeds_the_terminal(width: int) -> None:
    long = Table(["group", "share"], [["vision_encoder.layers.11.attention.output", "0.1"]])
    for table in (PAIRS, long):
        shown = lines(table, width)
        assert max(map(len, shown)) <= width
    text = "".join(line.strip("│ ").split("│")[0].strip() for line in lines(long, width) if "│" in line)
    assert "attention" in text.replace(" ", "")  # folded, not cut
