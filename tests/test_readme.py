"""What the READMEs say is so: their commands parse, their links lead somewhere, and the front page is short."""

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hf_critmom.commands import COMMANDS, doctor, drift, merge, push, report
from hf_critmom.commands.attribute import parse_attribution
from hf_critmom.commands.compare import parse_comparison
from hf_critmom.commands.repair import parse_repair
from hf_critmom.errors import InputError
from hf_critmom.optim.factory import OPTIMIZERS
from hf_critmom.tasks.models import MODELS, SIZES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if not name.startswith("model_cards/") or name == "model_cards/README.md"
)
PARSERS = {
    "compare": lambda argv: parse_comparison([*argv, "--use_cpu"]),
    "attribute": parse_attribution,
    "repair": parse_repair,
    "report": lambda argv: report.build_parser().parse_args(argv),
    "doctor": lambda argv: doctor.build_parser().parse_args(argv),
    "merge": lambda argv: merge.build_parser().parse_args(argv),
    "drift": lambda argv: drift.build_parser().parse_args(argv),
    "push": lambda argv: push.build_parser().parse_args(argv),
    "run": lambda argv: None,
}


def commands(text: str) -> list[str]:
    """The calls of the program in code of a README; those with a placeholder in brackets are descriptions."""
    code = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    call = r"(?:^|&& |\s)hf[-_]critmom ([a-z]+ [^\n&#|]*|[a-z]+)(?=$|[\n&#|])"
    found = [one.strip() for one in re.findall(call, "\n".join(code))]
    found = [one.removesuffix('"') if one.count('"') % 2 else one for one in found]  # the last of bash -c "..."
    return [one for one in found if not re.search(r"\[-|\[[a-z]+\]|\.\.\.|\||--help", one)]


CALLS = [(guide, call) for guide in GUIDES for call in dict.fromkeys(commands(guide.read_text(encoding="utf-8")))]


@pytest.mark.parametrize(("guide", "call"), CALLS, ids=[f"{guide.parent.name}: {call[:60]}" for guide, call in CALLS])
def test_every_command_in_a_readme_is_one(guide: Path, call: str) -> None:
    name, *argv = shlex.split(call)
    assert name in COMMANDS
    if argv or name in ("compare",):
        PARSERS[name](argv)


def test_there_are_commands_to_parse() -> None:
    assert {call.split()[0] for _, call in CALLS} >= set(COMMANDS) - {"run"}
    with pytest.raises(InputError):
        PARSERS["compare"](["--no_such_flag"])


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(ROOT)))
def test_links_and_pictures_lead_to_files_of_the_repository(guide: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", guide.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (guide.parent / link).exists(), link


def test_the_front_page_is_short_and_leads_to_every_guide() -> None:
    assert len(README.encode()) <= 8192
    for guide in GUIDES:
        name = str(guide.relative_to(ROOT))
        if name.startswith(("hf_critmom", "model_cards")):
            assert f"({name})" in README, name


def test_the_integration_script_runs_the_test_command_of_the_readme() -> None:
    (command,) = re.findall(r"^pip install torch.*pytest.*$", README, flags=re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_constructor_has_the_defaults_of_the_table(name: str) -> None:
    parameters = inspect.signature(OPTIMIZERS[name].cls).parameters
    for option in OPTIMIZERS[name].options:
        assert parameters[option].default == OPTIMIZERS[name].option(option).default


TASKS = (ROOT / "hf_critmom" / "tasks" / "README.md").read_text(encoding="utf-8")
ROWS = [line for line in TASKS[TASKS.index("| task |") :].split("\n\n")[0].splitlines()[2:]]
COMPARISONS = [words for row in ROWS for words in re.findall(r"`hf-critmom compare([^`]*)`", row)]


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
    assert len(COMPARISONS) >= len(ROWS)
