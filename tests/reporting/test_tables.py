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


def test_numbers_are_not_cut_off_at_80_columns_but_names_are_folded() -> None:
    header = ["treated", "groups", "fixed", "broken", "net", "accuracy after", "items/s", "seeds"]
    cells = ["104 (97 to 118)", "97 (96 to 99)", "+7 (-2 to +22)", "0.8741 (0.8732 to 0.8756)", "1234 (1111 to 1345)"]
    row = ["relative_norm", "conv1+bn1+layer1+layer2", *cells, "3, 1 diverged"]
    shown = lines(Table(header, [row], left=("groups",)), 80)
    assert max(map(len, shown)) <= 80 and all(line[-1] in "┓┃┩│┘" for line in shown if line)
    columns = zip(*(line.strip("│").split("│") for line in shown if line.startswith("│")), strict=True)
    joined = ["".join(column).replace(" ", "") for column in columns]
    assert joined == [cell.replace(" ", "") for cell in row]
