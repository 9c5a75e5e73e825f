"""Claims about foreign text: it does not act as markup in any medium."""

import io
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from hf_critmom.reporting.tables import Table
from hf_critmom.reporting.templates import jinja_environment
from hf_critmom.reporting.text import (
    MAX_LABEL_LENGTH,
    console_text,
    figure_text,
    markdown_block,
    markdown_cell,
    markdown_code,
    markdown_text,
)

FOREIGN = [
    *("$", "$a_b$ and $", "[red]x[/red]", "[/]", "a|b", "a\nb", "<script>alert(1)</script>", "`x`", "``", "**b**"),
    *("_i_", "![x](y)", "# h", "\x1b[31m", "\ud800", "&lt;", "\\", "[link](javascript:x)", "~~s~~"),
]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_console_shows_markup_as_it_is(text: str) -> None:
    shown = io.StringIO()
    Console(file=shown, width=200).print(console_text(text.replace("\ud800", "")), highlight=False)
    assert text.replace("\ud800", "").replace("\x1b", "") in shown.getvalue().replace("\x1b", "") + "\n"


@pytest.mark.parametrize("text", FOREIGN)
def test_matplotlib_draws_it_without_reading_formulas(text: str) -> None:
    figure = Figure()
    figure.suptitle(figure_text(text))
    figure.savefig(io.BytesIO())


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


UNSEEN = ("\u202e", "\u2066", "\u200b", "\ufeff", "\x1b", "\u2028", "\x00")


@pytest.mark.parametrize("char", UNSEEN, ids=ascii)
def test_control_characters_are_replaced_in_every_medium(char: str) -> None:
    table = Table(["class"], [[f"cat{char}"]], title=f"of {char}")
    shown = io.StringIO()
    Console(file=shown, width=60).print(table.rich())
    page = jinja_environment().from_string("{{ name }}").render(name=f"cat{char}")
    drawn = [function(f"cat{char}") for function in (figure_text, markdown_text, markdown_code)]
    for text in (shown.getvalue(), page, table.markdown(), *drawn):
        assert char not in text and "cat" in text


def test_formulas_are_escaped_in_markdown_and_long_names_shortened_in_figures() -> None:
    assert markdown_text("$5 to $10") == r"\$5 to \$10"
    assert len(figure_text("x" * 150)) == MAX_LABEL_LENGTH and figure_text("x" * 150).endswith("\u2026")


@given(st.text())
def test_html_and_markdown_start_no_tag(text: str) -> None:
    for escape in (markdown_text, markdown_cell):
        parser = _Tags()
        parser.feed(escape(text))
        assert parser.tags == []


@given(st.text())
def test_a_cell_stays_one_cell(text: str) -> None:
    row = f"| {markdown_cell(text)} | end |"
    unescaped = row.replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == 3 and len(row.splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["constant", "critmom_exact", "timm:lion", "deer 3.5 %", "1.16 (1.07 to 1.26)", "≥ 1.29", "±"]
)
def test_ordinary_names_and_figures_stay_as_they_are(name: str) -> None:
    assert markdown_text(name) == markdown_cell(name) == figure_text(name) == name


@given(st.text(alphabet="`a \n"))
def test_code_cannot_be_left_from_inside(text: str) -> None:
    code = markdown_code(text)
    fence = code[: len(code) - len(code.lstrip("`"))]
    inner = code[len(fence) : len(code) - len(fence)]
    assert fence not in inner.strip("`") or not inner.strip("` ")
    block = markdown_block(text)
    first, *_, last = block.split("\n")
    assert first == last and first not in text


def test_a_table_is_the_same_in_the_terminal_and_in_markdown() -> None:
    table = Table(["arm", "steps"], [["a|b", "12\n3 s"], ["[red]", "<b>"]], title="[x]")
    assert table.markdown() == ("| arm | steps |\n| --- | ---: |\n| a\\|b | 12<br>3 s |\n| \\[red\\] | &lt;b&gt; |")
    shown = io.StringIO()
    Console(file=shown, width=100).print(table.rich())
    assert all(text in shown.getvalue() for text in ("[x]", "a|b", "3 s", "[red]", "<b>"))


def test_a_table_refuses_rows_of_another_length() -> None:
    with pytest.raises(ValueError, match="2 cells, the header 1"):
        Table(["arm"], [["a", "b"]])
