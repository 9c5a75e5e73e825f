"""Claims about secrets among a script's arguments: the script gets them, and no record has them."""

import json
from pathlib import Path

from hf_critmom.experiments.comparison.script.command_line import Script
from hf_critmom.experiments.comparison.script.failures import FAILURE_FILE, keep_lines

TOKEN, PASSWORD = "hf_" + "abcDEF123" * 4, "pa55-w0rd-of-mine"


def test_a_plan_holds_no_secret_of_the_command_line(tmp_path: Path) -> None:
    words = ("--hub_token", PASSWORD, f"--api_key={PASSWORD}", "--run_name", TOKEN, "--train_file", "/data/a.txt")
    script = Script(module="m", arguments=words, launcher=("env", f"HF_TOKEN={TOKEN}", "python"))
    kept = json.dumps(script.record())
    assert TOKEN not in kept and PASSWORD not in kept and "/data/a.txt" in kept
    command = script.command({"seed": 1}, tmp_path, tmp_path / "instructions.json")
    assert PASSWORD in command and TOKEN in command


def test_a_plan_holds_no_secret_of_a_file_of_arguments(tmp_path: Path) -> None:
    for name in ("args.json", "config.yaml"):
        (tmp_path / name).write_text(json.dumps({"hub_token": PASSWORD, "run_name": TOKEN, "max_steps": 3}))
    whole = Script(module="m", arguments=(str(tmp_path / "args.json"),))
    config = Script(module="m", arguments=("--config", str(tmp_path / "config.yaml")))
    for script in (whole, config):
        kept = json.dumps(script.record())
        assert TOKEN not in kept and PASSWORD not in kept and '"max_steps": 3' in kept
    assert whole.value("hub_token") == PASSWORD


def test_the_last_lines_of_a_failure_hold_no_secret(tmp_path: Path) -> None:
    keep_lines(tmp_path, f"unknown --tokn {TOKEN}.", [f"hub_token={PASSWORD}", f"login with {TOKEN}"])
    kept = (tmp_path / FAILURE_FILE).read_text()
    assert TOKEN not in kept and PASSWORD not in kept and "login with REDACTED" in kept
