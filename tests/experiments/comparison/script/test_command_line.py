"""Claims about a script's arguments: what the user gave, and what a run is given instead."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from hf_critmom.experiments.comparison import ARMS, ComparisonError
from hf_critmom.experiments.comparison.records import Evaluation, RunResult
from hf_critmom.experiments.comparison.script.arms import arm_flags, arms_for
from hf_critmom.experiments.comparison.script.command_line import Script, split_script
from hf_critmom.experiments.comparison.script.fingerprints import batch_fingerprint, weights_fingerprint
from hf_critmom.experiments.comparison.statistics.pairing import pairing_sentences, unpaired_seeds

FLAGS = {"seed": 43, "output_dir": "run", "optim": "critmom", "optim_args": None, "learning_rate": 0.1}


def given_to(script: Script, folder: Path) -> list[str]:
    words = script.command(FLAGS, folder, folder / "instructions.json")
    return words[words.index(str(folder / "instructions.json")) + 2 :]


def test_flags_of_the_run_replace_those_of_the_user_in_every_spelling(tmp_path: Path) -> None:
    arguments = ("--seed=1", "text.txt", "--learning-rate", "5e-5", "--optim_args", "a=b", "--fp16", "--optim", "sgd")
    script = Script("train.py", arguments=arguments)
    assert [script.value(name) for name in ("seed", "learning_rate", "fp16", "warmup")] == ["1", "5e-5", True, None]
    assert given_to(script, tmp_path) == [
        *("text.txt", "--fp16", "--seed", "43", "--output_dir", "run"),
        *("--optim", "critmom", "--learning_rate", "0.1"),
    ]


@pytest.mark.parametrize(
    ("arguments", "on"),
    [
        (("--use_cpu",), True),
        (("--use_cpu", "true"), True),
        (("--use-cpu=1", "--bf16"), True),
        (("--use_cpu", "false"), False),
        (("--use_cpu=no",), False),
        (("--use_cpu", "--use_cpu", "0"), False),
        ((), False),
    ],
)
def test_a_flag_is_on_unless_its_value_switches_it_off(arguments: tuple[str, ...], on: bool) -> None:
    assert Script("train.py", arguments=arguments).switched_on("use_cpu") is on


@pytest.mark.parametrize(
    ("suffix", "write", "read"), [(".json", json.dumps, json.loads), (".yaml", yaml.dump, yaml.safe_load)]
)
def test_a_file_of_all_arguments_is_rewritten_for_the_run(suffix, write, read, tmp_path: Path) -> None:
    file = tmp_path / f"all{suffix}"
    file.write_text(write({"seed": 1, "optim_args": "a=b", "bf16": True, "names": ["a", "b"]}))
    (written,) = given_to(Script("train.py", arguments=(str(file),)), tmp_path)
    content = read(Path(written).read_text())
    assert content == {
        "bf16": True,
        "names": ["a", "b"],
        **{name: value for name, value in FLAGS.items() if value is not None},
    }


def test_values_of_trls_config_are_known_and_overridden(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("learning_rate: 0.5\noptim_args: a=b\n")
    script = Script(module="trl.scripts.sft", arguments=("--config", str(tmp_path / "sft.yaml")))
    assert script.value("learning_rate") == 0.5
    words = given_to(script, tmp_path)
    assert words[1:3] == ["--config", str(tmp_path / "sft.yaml")] and words[words.index("--optim_args") + 1] == ""
    assert words[-2:] == ["--learning_rate", "0.1"]
    assert script.record()["config"] == {"learning_rate": 0.5, "optim_args": "a=b"}


def test_the_script_and_its_arguments_are_separated_from_the_flags() -> None:
    words = ["--arms", "adamw", "--script", "-m", "trl.scripts.sft", "--num_seeds", "3", "--", "--arms", "x", "--", "y"]
    rest, script = split_script(words)
    assert rest == ["--arms", "adamw", "--num_seeds", "3"]
    assert script == Script(module="trl.scripts.sft", arguments=("--arms", "x", "--", "y"))
    assert split_script(["--arms", "adamw", "--", "--script"]) == (["--arms", "adamw", "--", "--script"], None)
    with pytest.raises(ComparisonError, match="--script needs a script"):
        split_script(["--script", "-m"])


def test_a_learning_rate_is_meant_for_the_kind_of_the_scripts_own_optimizer() -> None:
    adam, sgd = arms_for("adamw_torch"), arms_for("sgd")
    assert [adam[name].learning_rate for name in ("adamw", "critmom_adamw", "critmom")] == [None, None, 0.1]
    assert [sgd[name].learning_rate for name in ("adamw", "critmom_adamw", "critmom")] == [1e-3, 1e-3, None]


def test_arms_are_named_as_a_user_of_the_script_would_name_them() -> None:
    told = {name: arm_flags(ARMS[name]) for name in ("constant", "critmom_exact", "adamw", "hybrid", "nesterov")}
    assert {name: (flags["optim"], flags["optim_args"]) for name, flags in told.items()} == {
        "constant": ("sgd", "momentum=0.9"),
        "critmom_exact": ("critmom", "rule=exact"),
        "adamw": ("adamw_torch", None),
        "hybrid": ("critmom_hybrid", None),
        "nesterov": ("sgd", "momentum=0.9,nesterov=true"),
    }


def test_fingerprints_tell_weights_and_batches_apart() -> None:
    torch.manual_seed(0)
    model, batch = torch.nn.Linear(64, 300), {"a": torch.ones(3), "b": ["text", 1]}
    before, seen = weights_fingerprint(model), batch_fingerprint(batch)
    assert (weights_fingerprint(model), batch_fingerprint({"b": ["text", 1], "a": torch.ones(3)})) == (before, seen)
    assert batch_fingerprint({**batch, "a": torch.ones(3).bfloat16()}) != seen
    with torch.no_grad():
        model.weight[0, 0] += 1e-3
    assert weights_fingerprint(model) != before


def run_of(arm: str, seed: int, weights: str, batches: tuple[str, ...] = ("x",)) -> RunResult:
    evaluated = (Evaluation(1, 1.0, 1.0, {"loss": 1.0}),)
    versions, pairing = {"hardware": "one"}, {"weights": weights, "batches": list(batches)}
    return RunResult(arm, seed, "finished", 1, 1.0, evaluated, {"loss": 1.0}, versions, pairing=pairing)


def test_runs_with_the_same_fingerprints_are_paired() -> None:
    pairs = [run_of(arm, seed, f"weights {seed}") for arm in ("a", "b") for seed in (1, 2)]
    assert not unpaired_seeds(pairs) and not pairing_sentences(pairs)
    broken = [*pairs, run_of("c", 2, "others"), run_of("c", 1, "weights 1", ("y",))]
    assert unpaired_seeds(broken) == {"weights": {2: ["c"]}, "batches": {1: ["c"]}}
    assert any("the initial weights of c differ" in sentence for sentence in pairing_sentences(broken))
