"""Claims of the guide in the optimizers' room: its tables are the code's, its commands and examples work."""

import doctest
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from hf_critmom.optim import OPTIMIZERS
from hf_critmom.optim.factory import named_optimizer
from hf_critmom.optim.options import OPTIONS, parse_optim_args
from hf_critmom.optim.tables import optimizers_table, options_table, rules_table

GUIDE = (Path(__file__).parents[2] / "hf_critmom" / "optim" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
EXAMPLES = [block for language, block in BLOCKS if language == "python"]


@pytest.mark.parametrize("table", [rules_table, optimizers_table, options_table])
def test_its_tables_are_those_of_the_code(table):
    assert table() in GUIDE, "run python -m hf_critmom.optim.tables"


def test_the_table_of_options_has_every_option_and_tells_who_takes_it():
    lines = options_table().splitlines()[2:]
    assert {line.split("`")[1] for line in lines} == OPTIONS.keys()
    for name, spec in OPTIMIZERS.items():
        for option in spec.options:
            rows = [line for line in lines if line.startswith(f"| `{option}` |")]
            assert any(f"`{name}`" in row or "| all |" in row for row in rows)


@pytest.mark.parametrize("name", [name for name, spec in OPTIMIZERS.items() if spec.preset])
def test_the_table_of_options_shows_the_values_that_a_name_implies(name):
    spec, rows = OPTIMIZERS[name], options_table().splitlines()[2:]
    for option, value in spec.preset.items():
        (row,) = (row for row in rows if row.startswith(f"| `{option}` |") and f"`{name}`" in row.split("|")[-2])
        assert f"`{value}` for `{name}`".lower() in row.split("|")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_name_optimizers_and_options_that_there_are(command):
    argv = shlex.split(command)
    assert argv[:2] == ["hf-critmom", "run"]
    flags = dict(zip(argv[3::2], argv[4::2], strict=True))
    options = parse_optim_args(flags.get("--optim_args"))
    named_optimizer(flags["--optim"], lr=float(flags.get("--learning_rate", 0.1)), options=options)


@pytest.mark.parametrize("example", EXAMPLES)
def test_its_examples_run(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


MODULES = ("damping", *(f"optim.{name}" for name in ("sgd", "adamw", "controls", "ikfad", "options", "factory")))


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module):
    results = doctest.testmod(import_module(f"hf_critmom.{module}"))
    assert results.attempted > 0 and results.failed == 0
