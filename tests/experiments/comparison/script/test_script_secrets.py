"""Claims about secrets among a script's arguments: the script gets them, and no record has them."""

import json
from pathlib import Path

import pandas as pd
import pytest
from helpers.script_comparisons import ARGUMENTS, compare, write_script

from hf_critmom.experiments.comparison.arms.arm import ARMS
from hf_critmom.experiments.comparison.failures import FAILURE_FILE, write_failure
from hf_critmom.experiments.comparison.script.command_line import Script
from hf_critmom.experiments.comparison.script.instructions import LOG_FILE
from hf_critmom.experiments.comparison.script.processes import RunFailed, ScriptRun
from hf_critmom.storage.redaction import declared_secrets, redact

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
    write_failure(tmp_path, f"unknown --tokn {TOKEN}.", [f"hub_token={PASSWORD}", f"login with {TOKEN}"])
    kept = (tmp_path / FAILURE_FILE).read_text()
    assert TOKEN not in kept and PASSWORD not in kept and "login with REDACTED" in kept


def test_what_a_flag_of_a_file_says_is_secret_is_known_wherever_it_turns_up(tmp_path: Path) -> None:
    (tmp_path / "args.yaml").write_text(json.dumps({"hub_token": PASSWORD, "deep": [{"api_key": "another-1"}], "n": 3}))
    script = Script(module="m", arguments=(str(tmp_path / "args.yaml"),))
    assert script.secrets() == {PASSWORD, "another-1"}
    with declared_secrets(()):
        script.check()
        write_failure(tmp_path, f"401 for {PASSWORD}.", [f"logging in with {PASSWORD}", "another-1"])
    kept = (tmp_path / FAILURE_FILE).read_text()
    assert PASSWORD not in kept and "another-1" not in kept and kept.count("REDACTED") == 3
    assert redact(PASSWORD) == PASSWORD  # outside of that command it is a word


def test_neither_log_nor_sentence_nor_line_of_a_script_that_prints_a_secret_holds_it(tmp_path: Path) -> None:
    printing = f"echo key: {PASSWORD}; echo -----BEGIN PRIVATE KEY-----; echo MIIB; exit 3"
    script = Script(module="m", arguments=("--my_key", PASSWORD), launcher=("sh", "-c", printing))
    run = ScriptRun(script, tmp_path / "run", ARMS["adamw"], {}, threads=1, environment={})
    told: list[object] = []
    with declared_secrets(script.secrets()), pytest.raises(RunFailed) as failed:
        run.make(lambda *event: told.append(event))
    log = (tmp_path / "run" / LOG_FILE).read_text()
    assert "key: REDACTED" in log and "MIIB" not in log
    assert PASSWORD not in log + str(failed.value) + str(failed.value.lines) + str(told)


def test_a_run_keeps_no_token_and_no_metric_that_is_none(warm: str, tmp_path: Path) -> None:
    train = "trainer.compute_metrics = lambda found: {**accuracy(found), 'split': 0.5, 'epoch': 0.5}; trainer.train()"
    after = "trainer.save_model(); print('still', args.hub_token); assert args.hub_token"
    script = write_script(tmp_path, before="print('begun with', args.hub_token)", train=train, after=after)
    words = (*ARGUMENTS, "--hub_token", PASSWORD)
    flags = ("--arms", "adamw", "--num_seeds", "1", "--targets", "2")
    assert compare(warm, script, tmp_path / "out", *flags, arguments=words) == 0
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes(), file
    run = tmp_path / "out/runs/adamw/seed-42"
    assert (run / "training_args.bin").exists() and "still REDACTED" in (run / LOG_FILE).read_text()
    table = pd.read_parquet(tmp_path / "out/results.parquet")
    assert set(table["split"]) == {"validation", "test"} and table["epoch"].max() == 2.0
