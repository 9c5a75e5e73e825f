"""Claims about comparisons under rough conditions: several launches, killed ones, full disks, several processes."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pandas as pd
import pytest
from helpers.launches import NOT_PERMITTED, has_saved, launch, launch_on_a_small_disk, outcome, status_of, wait_until
from helpers.plans_by_hand import plan_of
from transformers import (
    ByT5Tokenizer,
    MixtralConfig,
    MixtralForCausalLM,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_critmom.commands import main
from hf_critmom.experiments.comparison import ComparisonError
from hf_critmom.experiments.comparison.growth import load_or_create_plan
from hf_critmom.experiments.comparison.plan import Plan
from hf_critmom.storage import run_folder

TINY = (
    *("--width", "2", "--per_device_train_batch_size", "64", "--max_train_samples", "128", "--max_eval_samples", "64"),
    *("--use_cpu", "--targets", "0.05", "--workers", "1", "--evaluations_per_epoch", "1"),
)
FEW = ("compare", *TINY, "--num_train_epochs", "2", "--arms", "critmom", "adamw", "--num_seeds", "2")
RUNS = [(arm, seed) for arm in ("critmom", "adamw") for seed in (42, 43)]
SAVING = ("--save_strategy", "epoch")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that one launch made without a disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    assert main((*FEW, "--output_dir", str(folder))) == 0
    return folder


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet").drop(columns="seconds")


def the_sentence(said: str) -> str:
    """The only complaint in what a launch said."""
    assert "Traceback" not in said
    found = [line for line in said.splitlines() if "error:" in line]
    assert len(found) == 1 and found[0].endswith("."), said
    return found[0]


def leftovers(folder: Path) -> list[Path]:
    """Files that are neither results nor locks, which a finished comparison has none of."""
    return [path for path in folder.rglob("*") if ".partial" in path.name or path.name.startswith("checkpoint-")]


# ---------------------------------------------------------------------------------------------------- several launches


@pytest.mark.slow
def test_two_launches_at_once_share_out_the_runs_and_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    folder, files = tmp_path / "out", [tmp_path / name for name in ("first", "second")]
    launches = [launch(*FEW, *SAVING, "--output_dir", str(folder), said=file) for file in files]
    assert [status_of(one) for one in launches] == [0, 0]
    said = [file.read_text() for file in files]
    made = [re.findall(r"^(\w+), seed (\d+): test accuracy (?!.*done before)", one, flags=re.M) for one in said]
    assert Counter((arm, int(seed)) for one in made for arm, seed in one) == Counter(RUNS)  # each by one of them
    assert all("Report:" in one and "error" not in one for one in said)
    assert outcome(folder) == outcome(undisturbed)
    pd.testing.assert_frame_equal(table_of(folder), table_of(undisturbed))
    assert not leftovers(folder)


TRANSFORMER = ("--hidden_size", "8", "--num_hidden_layers", "1", "--num_attention_heads", "2")
MODELS = {
    "resnet18": (),
    "vit": ("--model", "vit", "--patch_size", "4", *TRANSFORMER),
    "gpt2": ("--task", "text", "--model", "gpt2", "--block_size", "16", *TRANSFORMER),
    "llama": ("--task", "text", "--model", "llama", "--block_size", "16", *TRANSFORMER),
    "swin": ("--model_name_or_path", "swin"),
    "mixtral": (
        *("--task", "text", "--model_name_or_path", "mixtral", "--tokenizer_name", "bytes", "--block_size", "16"),
    ),
}
"""Flags of models of several families; Transformers saves all but three of them under older names."""


def flags_of(model: str, folder: Path) -> tuple[str, ...]:
    """The flags of a model, with whatever they need of files in a folder."""
    if model == "swin":
        sizes = {"embed_dim": 4, "depths": [1], "num_heads": [1], "window_size": 2}
        config = SwinConfig(**sizes, image_size=8, patch_size=2, num_channels=1, num_labels=10)
        SwinForImageClassification(config).save_pretrained(folder / "swin")
    if model == "mixtral":
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
        experts = {"intermediate_size": 8, "num_local_experts": 2, "eos_token_id": 1}
        MixtralForCausalLM(MixtralConfig(**sizes, **experts, vocab_size=384)).save_pretrained(folder / "mixtral")
        ByT5Tokenizer().save_pretrained(folder / "bytes")
    flags = MODELS[model]
    if "text" in flags:
        (folder / "words.txt").write_text("".join(f"{number} bottles of beer on the wall.\n" for number in range(400)))
        flags = (*flags, "--train_file", str(folder / "words.txt"), "--targets", "9")
    else:
        flags = ("--width", "2", *flags) if model == "resnet18" else flags
        flags = (*flags, "--targets", "0.05", "--eval_strategy", "epoch")
    return tuple(str(folder / flag) if flag in ("swin", "mixtral", "bytes") else flag for flag in flags)


@pytest.fixture(scope="module", autouse=True)
def datasets_cache_of_this_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        yield


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "vit"])
def test_a_launch_that_is_killed_leaves_its_run_to_one_that_waits(model: str, tmp_path: Path) -> None:
    sizes = ("--per_device_train_batch_size", "64", "--max_train_samples", "128", "--max_eval_samples", "64")
    command = ("compare", *flags_of(model, tmp_path), *sizes, "--use_cpu", "--num_train_epochs", "8")
    command += ("--arms", "hybrid", "--num_seeds", "1", *SAVING)
    folder, first, second = tmp_path / "out", tmp_path / "first", tmp_path / "second"
    holds = launch(*command, "--output_dir", str(folder), said=first)
    assert holds.pid is not None
    wait_until(lambda: has_saved(folder / "runs" / "hybrid" / "seed-42"), holds)
    os.kill(holds.pid, signal.SIGSTOP)  # it makes the run, and takes its time
    waits = launch(*command, "--output_dir", str(folder), said=second)
    wait_until(lambda: second.exists() and "waiting for 1 run of other launches" in second.read_text(), waits)
    assert not (folder / "runs" / "hybrid" / "seed-42" / "result.json").exists()
    os.kill(holds.pid, signal.SIGKILL)
    assert (status_of(holds), status_of(waits)) == (-signal.SIGKILL, 0)
    assert main((*command, "--output_dir", str(tmp_path / "undisturbed"))) == 0
    assert outcome(folder) == outcome(tmp_path / "undisturbed")
    assert not leftovers(folder)


BEHIND = {"resnet18": (1, 2, 3, 4, 5), "vit": (2, 3), "gpt2": (2,), "llama": (2,), "swin": (2,), "mixtral": (2,)}
"""Steps behind which runs of a model are killed."""


@pytest.mark.parametrize("model", BEHIND)
def test_after_whichever_step_a_run_is_killed_it_ends_the_same(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps an epoch, and the end within the second one: evaluations and last step must not be lost or doubled.

    Every checkpoint is kept, and what came after it removed, as if the run had been killed just after it.
    """
    monkeypatch.setattr(run_folder, "remove_checkpoints", lambda folder: None)
    command = ("compare", *flags_of(model, tmp_path), "--max_train_samples", "128", "--max_eval_samples", "64")
    command += ("--use_cpu", "--per_device_train_batch_size", "48", "--num_train_epochs", "1.5", "--arms", "hybrid")
    command += ("--num_seeds", "1", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9")
    whole = tmp_path / "whole"
    assert main((*command, "--output_dir", str(whole))) == 0
    run = Path("runs", "hybrid", "seed-42")
    evaluations = json.loads((whole / run / "result.json").read_text())["evaluations"]
    expected = [1, 2, 3, 4, 5] if "text" in MODELS[model] else [3, 5]
    assert [evaluation["step"] for evaluation in evaluations] == expected
    for last in BEHIND[model]:
        folder = tmp_path / f"killed-behind-{last}"
        shutil.copytree(whole, folder)
        (folder / run / "result.json").unlink()
        for later in range(last + 1, 6):
            shutil.rmtree(folder / run / f"checkpoint-{later}")
        assert main((*command, "--output_dir", str(folder))) == 0
        mine, theirs = (
            {name: value for name, value in outcome(one).items() if "checkpoint" not in name} for one in (folder, whole)
        )
        assert mine == theirs, last


@pytest.mark.parametrize("damaged", [(5, 4), (5, 4, 3, 2, 1)])
def test_damaged_checkpoints_cost_steps_but_change_nothing(
    damaged: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_folder, "remove_checkpoints", lambda folder: None)
    command = ("compare", *flags_of("vit", tmp_path), "--max_train_samples", "128", "--max_eval_samples", "64")
    command += ("--use_cpu", "--per_device_train_batch_size", "48", "--num_train_epochs", "1.5", "--arms", "hybrid")
    command += ("--num_seeds", "1", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9")
    whole, folder, run = tmp_path / "whole", tmp_path / "damaged", Path("runs", "hybrid", "seed-42")
    assert main((*command, "--output_dir", str(whole))) == 0
    shutil.copytree(whole, folder)
    (folder / run / "result.json").unlink()
    names = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    for step, name in zip(damaged, names, strict=False):
        file = folder / run / f"checkpoint-{step}" / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert main((*command, "--output_dir", str(folder))) == 0
    said = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert len(said) == len(damaged) and all(name in one for name, one in zip(names, said, strict=False))
    assert ("starts from the beginning" in caplog.text) == (len(damaged) == 5)
    mine, theirs = (
        {name: value for name, value in outcome(one).items() if "checkpoint" not in name} for one in (folder, whole)
    )
    assert mine == theirs


def test_of_plans_that_are_created_at_the_same_moment_one_is_used(tmp_path: Path) -> None:
    plans = [plan_of(training={"learning_rate": rate}) for rate in (0.1, 0.2)] * 6
    start = threading.Barrier(len(plans))

    def settle(plan: Plan) -> Plan | str:
        start.wait()
        try:
            return load_or_create_plan(plan, tmp_path / "out", write=True)
        except ComparisonError as error:
            return str(error)

    with ThreadPoolExecutor(len(plans)) as pool:
        answers = list(pool.map(settle, plans))
    governing = Plan.read(tmp_path / "out")
    assert governing.training in [plan.training for plan in plans]
    for plan, answer in zip(plans, answers, strict=True):
        if plan.training == governing.training:
            assert answer == governing
        else:
            assert isinstance(answer, str) and "different plan" in answer
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".locks", "comparison.json"}


def test_a_launch_that_was_killed_while_it_wrote_the_plan_is_repeated(tmp_path: Path) -> None:
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".comparison.0123abcd.partial.json").write_text('{"task": ')
    plan = load_or_create_plan(plan_of(targets=[0.5]), tmp_path, write=True)
    assert plan == Plan.read(tmp_path) and plan.targets == (0.5,)


# --------------------------------------------------------------------------------------------------------- full disks


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The operating system refuses to let a file grow any larger: a failure to write as real as a full disk's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_weights_that_cannot_be_written_end_in_a_sentence_and_the_repeated_command_in_the_same_results(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "runs" / "adamw" / "seed-43")
    kept = outcome(folder)
    with files_up_to(20_000):
        assert main((*FEW, "--output_dir", str(folder))) == 2
    sentence = the_sentence(capsys.readouterr().err)
    assert f"{folder} cannot be written any more (File too large)" in sentence and "repeat the command" in sentence
    assert outcome(folder) == kept
    assert main((*FEW, "--output_dir", str(folder))) == 0
    assert outcome(folder) == outcome(undisturbed)


def test_a_report_that_cannot_be_written_leaves_the_one_before(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(undisturbed, folder)
    before = {path: path.read_bytes() for path in [*folder.glob("figures/*"), folder / "README.md"]}
    with files_up_to(12_000):  # the table of results fits, the figures do not
        assert main(("report", str(folder))) == 2
    assert "cannot be written any more (File too large)" in the_sentence(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in before} == before
    assert not leftovers(folder)


@pytest.mark.slow
def test_a_full_disk_is_reported_whenever_it_happens_and_costs_no_finished_run(
    undisturbed: Path, tmp_path: Path
) -> None:
    """A real file system of a few hundred kilobytes, which is made larger from command to command."""
    disk, said, kept = tmp_path / "disk", tmp_path / "said", tmp_path / "kept"
    disk.mkdir()
    folder = str(disk / "out")
    command = [*FEW, *SAVING, "--output_dir", folder]
    steps = [
        ("size=4k", command),  # the plan fills it
        ("size=100k", command),  # torch writes the optimizer's state
        ("size=440k", command),  # the first run is finished, a later one's checkpoint does not fit
        ("ro", command),  # it cannot be written at all
        ("size=64m", command),
        ("size=64m,ro", ["report", folder]),
    ]
    process = launch_on_a_small_disk(disk, steps, said=said, kept=kept)
    if status_of(process) == NOT_PERMITTED:
        pytest.skip("no file system may be mounted here")
    assert process.exitcode == 0, said.read_text()
    assert json.loads((kept / "statuses.json").read_text()) == [2, 2, 2, 2, 0, 2]
    told = re.split(r"^--- \d\n", said.read_text(), flags=re.M)[:-1]
    full, read_only = "No space left on device", "Read-only file system"
    for text, why in zip(told, (full, full, full, read_only, None, read_only), strict=True):
        if why is None:
            finished_before = re.findall(r"^critmom, seed 42: .*\(done before\)", text, flags=re.M)
            assert len(finished_before) == 1 and "Report:" in text
        else:
            assert f"cannot be written any more ({why})" in the_sentence(text), text
    assert outcome(kept / "out") == outcome(undisturbed)
    assert not leftovers(kept / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_no_longer_be_written_to_is_named(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(undisturbed, folder)
    (folder / "runs" / "adamw" / "seed-43" / "result.json").unlink()
    locked = [folder / "runs" / "adamw" / "seed-43", folder / "runs" / "adamw", folder]
    for path in locked:
        path.chmod(0o500)
    try:
        assert main((*FEW, "--output_dir", str(folder))) == 2
        assert "Permission denied" in the_sentence(capsys.readouterr().err)
    finally:
        for path in locked:
            path.chmod(0o700)


# ---------------------------------------------------------------------------------------------------- several processes


@pytest.mark.slow
def test_two_processes_make_the_table_that_one_makes(tmp_path: Path) -> None:
    """A network without batch statistics, which several processes do not share."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=10)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "arms.toml").write_text('[exploding]\noptimizer = "sgd"\nlearning_rate = 1e6\nweight_decay = 1e6\n')
    command = (
        *("compare", "--model_name_or_path", str(tmp_path / "vit"), "--arms_file", str(tmp_path / "arms.toml")),
        *("--max_train_samples", "128", "--max_eval_samples", "63", "--num_train_epochs", "2", "--num_seeds", "2"),
        *("--arms", "critmom", "adamw", "exploding", "--targets", "0.05", "--use_cpu"),
    )
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main((*command, "--per_device_train_batch_size", "64", "--output_dir", str(alone))) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        launch(
            *(*command, "--per_device_train_batch_size", "32", "--output_dir", str(shared)),
            said=tmp_path / f"rank{rank}",
            environment={
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},  # as torchrun sets them
            },
        )
        for rank in (0, 1)
    ]
    said = [tmp_path / f"rank{rank}" for rank in (0, 1)]
    assert [status_of(one) for one in ranks] == [0, 0], [file.read_text() for file in said]
    assert [file.read_text().count("Report:") for file in said] == [1, 0]

    plans = [json.loads((folder / "comparison.json").read_text()) for folder in (alone, shared)]
    assert [plan["training"].pop("total_train_batch_size") for plan in plans] == [64, 64]
    batches = [plan["training"].pop("per_device_train_batch_size") for plan in plans]
    assert batches == [64, 32] and plans[0]["training"] == plans[1]["training"]
    mine, theirs = (table_of(folder) for folder in (alone, shared))
    assert (mine["status"] == "diverged").sum() == (mine["arm"] == "exploding").sum() > 0
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-3, atol=1.5 / 63)  # rounding may move an image
    assert mine["accuracy"].nunique() > 2
