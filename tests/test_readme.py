"""What the README says of options and optimizers is what the code has."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from hf_critmom.commands.compare import parse_comparison
from hf_critmom.optim.factory import OPTIMIZERS
from hf_critmom.optim.options import OPTIONS
from hf_critmom.tasks.models import MODELS, SIZES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """Cells of the README's table whose first row begins with a header."""
    rows = README[README.index(f"| {header} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_table_of_options_is_complete_and_tells_the_defaults() -> None:
    told = {name.strip("`"): default.strip("`") for name, default, *_ in table("option")}
    assert told.keys() == OPTIONS.keys()
    for name, default in told.items():
        assert default == re.sub(r"\.0$", "", str(OPTIONS[name].default).lower())


def test_the_table_of_optimizers_is_complete() -> None:
    assert [name.strip("` ") for name, *_ in table("`--optim`")] == list(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_constructor_has_the_defaults_of_the_table(name: str) -> None:
    parameters = inspect.signature(OPTIMIZERS[name].cls).parameters
    for option in OPTIMIZERS[name].options:
        assert parameters[option].default == OPTIMIZERS[name].option(option).default


COMPARISONS = [words for row in table("task") for words in re.findall(r"`hf-critmom compare([^`]*)`", row[2])]


@pytest.mark.parametrize("words", COMPARISONS)
def test_the_commands_of_the_table_of_tasks_can_be_pasted(words: str) -> None:
    """Their flags are flags, and a transformer's heads divide its width."""
    asked = parse_comparison([*shlex.split(words), "--use_cpu"])
    name = asked.model.model or ("gpt2" if asked.data.task == "text" else "resnet18")
    given = {size: value for size in SIZES if (value := getattr(asked.model, size)) is not None}
    sizes = {**MODELS[name].sizes, **given}
    assert sizes.keys() == MODELS[name].sizes.keys()
    assert sizes.get("hidden_size", 1) % sizes.get("num_attention_heads", 1) == 0


def test_every_task_of_the_table_has_a_command() -> None:
    assert len(COMPARISONS) >= len(table("task"))


def test_the_integration_script_runs_the_test_command_of_the_readme() -> None:
    (command,) = re.findall(r"^pip install .*pytest.*$", README, flags=re.MULTILINE)
    assert command in (Path(__file__).parents[1] / ".ci" / "run").read_text(encoding="utf-8").splitlines()
